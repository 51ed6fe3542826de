"""The one list of nodes: `ros2 launch` and the `jepa-robot` command both start from it.

Nothing here needs ROS.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jepa_robot import resources

COMPOSITIONS = ("processes", "single")
AGENT = ("perception", "world_model", "cost", "actor", "memory", "configurator")


@dataclass(frozen=True)
class Settings:
    """What a user chooses about the graph.

    ``mode`` 0 leaves the mode to the task. ``simulator`` is None for a robot that is already up,
    else ``realtime`` or ``lockstep``. ``composition`` ``single`` runs the six modules in one
    process; the safety stage always has its own.
    """

    robot: str = "panda"
    model: str = "reach_panda"
    task: str = "reach"
    mode: int = 0
    simulator: str | None = None
    gui: bool = False
    paused: bool = False
    use_sim_time: bool = False
    namespace: str = ""
    log_level: str = "info"
    params_file: str = ""
    composition: str = COMPOSITIONS[0]
    respawn: bool = True

    def __post_init__(self) -> None:
        if self.composition not in COMPOSITIONS:
            raise ValueError(
                f"composition is {self.composition!r}, expected one of {list(COMPOSITIONS)}"
            )
        if self.mode not in (0, 1, 2):
            raise ValueError(f"mode is {self.mode!r}, expected 0 (as the task says), 1 or 2")
        if self.params_file and not Path(self.params_file).is_file():
            raise ValueError(f"params_file is {self.params_file!r}, expected a file")


@dataclass(frozen=True)
class NodeSpec:
    """One process: ``python -m module`` with parameters."""

    name: str
    module: str
    parameters: dict[str, Any] = field(default_factory=dict)
    respawn: bool = True


def node_list(settings: Settings) -> list[NodeSpec]:
    """The processes of a graph, in the order in which they are started."""
    is_lockstep = settings.simulator == "lockstep"
    common = {"robot": settings.robot, "use_sim_time": settings.use_sim_time or is_lockstep}
    agent = {**common, "bundle": settings.model}
    task = {"task": settings.task, "mode": settings.mode}
    specs = []
    if settings.simulator:
        simulator = {
            "robot": settings.robot,
            "clock": settings.simulator,
            "gui": settings.gui,
            "paused": settings.paused,
        }
        specs.append(NodeSpec("simulator", "jepa_robot_sim.node", simulator, respawn=False))
    specs.append(NodeSpec("safety", "jepa_robot.nodes.safety", common, settings.respawn))
    if settings.composition == "single":
        specs.append(
            NodeSpec("agent", "jepa_robot.nodes.agent", {**agent, **task}, settings.respawn)
        )
        return specs
    for name in AGENT:
        parameters = {**agent, **task} if name == "configurator" else agent
        specs.append(NodeSpec(name, f"jepa_robot.nodes.{name}", parameters, settings.respawn))
    return specs


def command(spec: NodeSpec, settings: Settings) -> list[str]:
    """The command line that runs a node."""
    arguments = ["--ros-args", "--log-level", settings.log_level]
    if settings.namespace:
        arguments += ["-r", f"__ns:=/{settings.namespace.strip('/')}"]
    for name, value in spec.parameters.items():
        arguments += ["-p", f"{name}:={json.dumps(value)}"]
    if settings.params_file:
        arguments += ["--params-file", settings.params_file]
    return [sys.executable, "-m", spec.module, *arguments]


def environment(local_only: bool = False) -> dict[str, str]:
    """Variables that our processes want; what the user has set stays.

    Args:
        local_only: keep discovery on this machine.
    """
    wanted = {
        "FASTDDS_DEFAULT_PROFILES_FILE": str(resources.share_directory() / "config/fastdds.xml"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "RCUTILS_COLORIZED_OUTPUT": "0",
    }
    if not os.environ.get("AMENT_PREFIX_PATH"):  # ROS 2 from wheels
        wanted |= {
            "AMENT_PREFIX_PATH": sys.prefix,
            "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        }
    if local_only:
        wanted["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return {name: value for name, value in wanted.items() if name not in os.environ}
