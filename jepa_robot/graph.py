"""The one list of nodes: `ros2 launch` and the `jepa-robot` command both start from it.

Nothing here needs ROS.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from jepa_robot import resources
from jepa_robot.models import AUTO_PROVIDER, PROVIDERS, Bundle
from jepa_robot.modules.distributed import DISTRIBUTED, PLACES
from jepa_robot.modules.tasks import load_task
from jepa_robot.robot.contract import load_contract

COMPOSITIONS = ("processes", "single")
CLOCKS = ("realtime", "lockstep")
MODES = (0, 1, 2, 3)
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
JAZZY_RCLPY = 7  # major version
NAMESPACE = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*/?", re.ASCII)
SESSION = "JEPA_ROBOT_SESSION"  # an environment variable
AGENT = ("perception", "world_model", "cost", "actor", "memory", "configurator")


@dataclass(frozen=True)
class Settings:
    """What a user chooses about the graph.

    ``model`` empty is no agent: the safety stage alone, for first motions by hand. ``mode`` 0
    leaves the mode to the task, 3 is auto. ``simulator`` is None for a robot that is already up,
    else ``realtime`` or ``lockstep``. ``scene`` is the simulator's, by the name of a task that it
    knows, empty for that of ``task``, with ``distractors`` in it. ``composition`` ``single`` runs
    the six modules in one process; the safety stage always has its own. ``provider``: what runs the
    bundle's graphs, ``auto`` for the GPU where there is one. ``planning`` ``distributed`` lets the
    world model and cost nodes work for the actor's plans. ``learn``: a learner works beside the
    agent, on what it remembers. ``only``: names of the processes that are started here, joined by
    commas, where others are on other machines; empty for all. ``dry_run``: nothing is commanded.
    ``remappings``: by node, the topics that it knows by another name.
    """

    robot: str = "panda"
    model: str = "reach_panda"
    task: str = "reach"
    mode: int = 0
    simulator: str | None = None
    scene: str = ""
    distractors: int = 0
    gui: bool = False
    paused: bool = False
    use_sim_time: bool = False
    namespace: str = ""
    log_level: str = "info"
    params_file: str = ""
    composition: str = COMPOSITIONS[0]
    provider: str = AUTO_PROVIDER
    planning: str = PLACES[0]
    learn: bool = False
    only: str = ""
    respawn: bool = True
    dry_run: bool = False
    remappings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in (
            ("composition", COMPOSITIONS),
            ("mode", MODES),
            ("simulator", (None, *CLOCKS)),
            ("log_level", LOG_LEVELS),
            ("provider", (AUTO_PROVIDER, *PROVIDERS)),
            ("planning", PLACES),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} is {value!r}, expected one of {list(known)}")
        if self.simulator == "realtime" and self.use_sim_time:
            raise ValueError(
                "use_sim_time is true with a simulator in real time, which publishes no /clock: "
                "expected it false, or the simulator in lockstep"
            )
        if self.planning == DISTRIBUTED and self.composition == "single":
            raise ValueError(
                "composition is 'single' with planning 'distributed', which is for modules in "
                "processes of their own: expected 'processes'"
            )
        if self.namespace.strip("/") and not NAMESPACE.fullmatch(self.namespace):
            raise ValueError(
                f"namespace is {self.namespace!r}, expected names of letters, digits and "
                "underscores, joined by /"
            )
        if self.params_file and not Path(self.params_file).is_file():
            raise ValueError(f"params_file is {self.params_file!r}, expected a file")


@dataclass(frozen=True)
class NodeSpec:
    """One process: ``python -m module`` with parameters. All end when a required one ends."""

    name: str
    module: str
    parameters: dict[str, Any] = field(default_factory=dict)
    respawn: bool = True
    is_required: bool = False


def check(settings: Settings) -> None:
    """Refuse what cannot work before anything is started.

    Raises:
        ValueError, FileNotFoundError: names the contract, bundle or task and what was expected.
    """
    from jepa_robot.robot.collision import Clearance
    from jepa_robot.robot.kinematics import Kinematics

    contract = load_contract(settings.robot)
    Clearance(contract, Kinematics(contract))
    if not settings.model:
        return
    Bundle(settings.model, provider=settings.provider).check_fits(contract)
    if settings.task:
        load_task(settings.task)
    if settings.learn and importlib.util.find_spec("torch") is None:
        raise ValueError(
            "learn is true and torch is not installed, expected what the extra `train` lists"
        )


def node_list(settings: Settings) -> list[NodeSpec]:
    """The processes of a graph that are started here, in that order.

    Raises:
        ValueError: ``only`` names one that the graph does not have.
    """
    specs = _whole_graph(settings)
    wanted = [name.strip() for name in settings.only.split(",") if name.strip()]
    known = [spec.name for spec in specs]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"only names {unknown}, expected some of {known}")
    return [spec for spec in specs if not wanted or spec.name in wanted]


def _whole_graph(settings: Settings) -> list[NodeSpec]:
    is_lockstep = settings.simulator == "lockstep"
    common = {"robot": settings.robot, "use_sim_time": settings.use_sim_time or is_lockstep}
    agent = {**common, "bundle": settings.model, "provider": settings.provider}
    task = {"task": settings.task, "mode": settings.mode}
    specs = []
    if settings.simulator:
        simulator = {
            "robot": settings.robot,
            "clock": settings.simulator,
            "gui": settings.gui,
            "paused": settings.paused,
            "scene": settings.scene or _task_name(settings),
            "distractors": settings.distractors,
        }
        specs.append(
            NodeSpec("simulator", "jepa_robot_sim.node", simulator, respawn=False, is_required=True)
        )
    safety = {**common, "lockstep": is_lockstep, "dry_run": settings.dry_run}
    specs.append(NodeSpec("safety", "jepa_robot.nodes.safety", safety, settings.respawn))
    if not settings.model:
        return specs
    learner = []
    if settings.learn:
        learner = [NodeSpec("learner", "jepa_robot.learning.node", agent, settings.respawn)]
    if settings.composition == "single":
        specs.append(
            NodeSpec("agent", "jepa_robot.nodes.agent", {**agent, **task}, settings.respawn)
        )
        return specs + learner
    more = {"configurator": task, "actor": {"planning": settings.planning}}
    for name in AGENT:
        parameters = {**agent, **more.get(name, {})}
        specs.append(NodeSpec(name, f"jepa_robot.nodes.{name}", parameters, settings.respawn))
    return specs + learner


def _task_name(settings: Settings) -> str:
    return load_task(settings.task).name if settings.model and settings.task else ""


def command(spec: NodeSpec, settings: Settings) -> list[str]:
    """The command line that runs a node."""
    arguments = ["--ros-args", *ros_arguments(spec, settings)]
    if namespace := settings.namespace.strip("/"):
        arguments += ["-r", f"__ns:=/{namespace}"]
    return [sys.executable, "-m", spec.module, *arguments]


def check_command(settings: Settings) -> list[str]:
    """The command line that compares contract and bundle with the robot that is up."""
    command = [sys.executable, "-m", "jepa_robot.cli.main", "check"]
    command += ["--robot", settings.robot, "--bundle", settings.model]
    command += ["--namespace", settings.namespace]
    return [*command, *(["--use-sim-time"] if settings.use_sim_time else [])]


def ros_arguments(spec: NodeSpec, settings: Settings) -> list[str]:
    """What follows ``--ros-args`` for a node, without its namespace."""
    arguments = ["--log-level", settings.log_level]
    for name, value in spec.parameters.items():
        # rcl reads values as YAML. JSON is YAML, and its quotes keep a text a text.
        arguments += ["-p", f"{name}:={json.dumps(value, ensure_ascii=False)}"]
    for name, other in settings.remappings.get(spec.name, {}).items():
        arguments += ["-r", f"{name}:={other}"]
    if settings.params_file:
        arguments += ["--params-file", settings.params_file]
    return arguments


def environment(
    local_only: bool = False, present: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Variables that our processes want; what the user has set stays.

    Args:
        local_only: keep discovery on this machine.
        present: what is set already.
    """
    wanted = {
        _profiles_variable(): str(resources.share_directory() / "config/fastdds.xml"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "RCUTILS_COLORIZED_OUTPUT": "0",
    }
    if not present.get("AMENT_PREFIX_PATH"):  # ROS 2 from wheels
        wanted |= {
            "AMENT_PREFIX_PATH": sys.prefix,
            "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        }
    if local_only:
        wanted["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return {name: value for name, value in wanted.items() if name not in present}


def session() -> dict[str, str]:
    """Tells the nodes of one start of the graph, respawned ones too, from those of another."""
    return {SESSION: uuid.uuid4().hex}


def _profiles_variable() -> str:
    """Fast DDS renamed it after ROS 2 Jazzy, and warns of the old name."""
    try:
        is_old = int(metadata.version("rclpy").split(".")[0]) <= JAZZY_RCLPY
    except metadata.PackageNotFoundError:
        is_old = False
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if is_old else "FASTDDS_DEFAULT_PROFILES_FILE"
