"""`ros2 launch` on the one list of nodes. The only module that needs launch and launch_ros."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch_ros.actions import Node

from jepa_robot import graph
from jepa_robot.graph import NodeSpec, Settings
from jepa_robot.processes import RESPAWN_DELAY


@dataclass(frozen=True)
class Argument:
    """A launch argument. Arguments are texts; the type of ``default`` is what they are read as."""

    name: str
    default: str | int | bool
    description: str
    choices: tuple[object, ...] | None = None

    def declare(self) -> DeclareLaunchArgument:
        return DeclareLaunchArgument(
            self.name,
            default_value=_text(self.default),
            description=self.description,
            choices=self.choices and [_text(choice) for choice in self.choices],
        )

    def read(self, context: LaunchContext) -> str | int | bool:
        text = context.launch_configurations[self.name]
        if isinstance(self.default, bool):
            if text.lower() not in ("true", "false"):
                raise ValueError(f"{self.name} is {text!r}, expected true or false")
            return text.lower() == "true"
        return type(self.default)(text)


DEFAULT = Settings()
AGENT = (
    Argument("robot", DEFAULT.robot, "Robot contract: a shipped name, or a YAML file."),
    Argument(
        "model",
        DEFAULT.model,
        "Model bundle: a shipped name, or a folder; empty for none: the safety stage alone.",
    ),
    Argument(
        "task",
        DEFAULT.task,
        "Task to start with: a shipped name, a YAML file, or YAML; empty for none.",
    ),
    Argument(
        "mode",
        DEFAULT.mode,
        "1 reacts, 2 plans, 3 plans where it has to, 0 does as the task says.",
        graph.MODES,
    ),
    Argument("namespace", DEFAULT.namespace, "Of all nodes and topics."),
    Argument(
        "use_sim_time",
        DEFAULT.use_sim_time,
        "Follow /clock: true or false. The clock of a simulator in lockstep is always followed.",
    ),
    Argument("log_level", DEFAULT.log_level, "Of all nodes.", graph.LOG_LEVELS),
    Argument(
        "params_file", DEFAULT.params_file, "ROS parameters of any of the nodes: a YAML file."
    ),
    Argument(
        "composition",
        DEFAULT.composition,
        "One process a module, or a single one for all six; safety has its own either way.",
        graph.COMPOSITIONS,
    ),
    Argument(
        "provider",
        DEFAULT.provider,
        "What runs the bundle's graphs; auto is the GPU where there is one.",
        (graph.AUTO_PROVIDER, *graph.PROVIDERS),
    ),
    Argument(
        "planning",
        DEFAULT.planning,
        "Mode-2 in the actor's process, or also in those of world model and cost.",
        graph.PLACES,
    ),
    Argument(
        "learn",
        DEFAULT.learn,
        "Learn from what is remembered while the agent runs: true or false.",
    ),
    Argument(
        "only",
        DEFAULT.only,
        "Start these processes alone, names joined by commas; empty for all.",
    ),
    Argument("respawn", DEFAULT.respawn, "Start a node that died again: true or false."),
)
SIMULATOR = (
    Argument(
        "clock",
        graph.CLOCKS[0],
        "The simulator's: the wall clock, or /clock, in lockstep with the agent.",
        graph.CLOCKS,
    ),
    Argument("gui", DEFAULT.gui, "Open the simulator's window: true or false."),
)
ROBOT = (
    Argument(
        "check",
        True,
        "First compare the contract with the robot that is up, and start nothing if they differ: "
        "true or false.",
    ),
    Argument("dry_run", DEFAULT.dry_run, "Do everything but send commands: true or false."),
)


def describe(*more: Argument) -> LaunchDescription:
    """The launch description of the agent, with the arguments of ``SIMULATOR`` or ``ROBOT``.

    What cannot work (an unknown robot, bundle, task, ...) fails before anything is started.
    """
    arguments = [*AGENT, *more]

    def start(context: LaunchContext) -> list[Action]:
        values = {argument.name: argument.read(context) for argument in arguments}
        checks_first = values.pop("check", False)
        settings = Settings(simulator=values.pop("clock", None), **values)
        graph.check(settings)
        environment = {**graph.environment(present=context.environment), **graph.session()}
        nodes = [_node(spec, settings, environment) for spec in graph.node_list(settings)]
        return _after_check(nodes, settings, environment) if checks_first else nodes

    return LaunchDescription(
        [*(argument.declare() for argument in arguments), OpaqueFunction(function=start)]
    )


def _after_check(
    nodes: list[Node], settings: Settings, environment: dict[str, str]
) -> list[Action]:
    """The nodes, once the robot was found to be as the contract says."""
    check = ExecuteProcess(
        cmd=graph.check_command(settings),
        name="check",
        additional_env=environment,
        output="screen",
    )

    def decide(event: ProcessExited, context: LaunchContext) -> list[Action]:
        if event.returncode == 0:
            return nodes
        raise ValueError("the robot is not as the contract says, nothing was started")

    return [RegisterEventHandler(OnProcessExit(target_action=check, on_exit=decide)), check]


def _node(spec: NodeSpec, settings: Settings, environment: dict[str, str]) -> Node:
    # By module and not by entry point: the same for a pip install, which has no lib/jepa_robot.
    return Node(
        executable=sys.executable,
        arguments=["-m", spec.module],
        ros_arguments=graph.ros_arguments(spec, settings),
        namespace=settings.namespace or None,
        exec_name=spec.name,
        additional_env=environment,
        output="screen",
        respawn=spec.respawn,
        respawn_delay=RESPAWN_DELAY,
        on_exit=Shutdown(reason=f"{spec.name} ended") if spec.is_required else None,
    )


def _text(value: object) -> str:
    """A value as it is typed on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
