"""The launch files: their arguments, their nodes, and a real `ros2 launch`."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from jepa_robot import graph
from jepa_robot.graph import Settings, node_list
from jepa_robot.robot.contract import load_contract
from tests.tiny_bundle import build
from tests.wrong_robots import fake_robot, write_contract

pytest.importorskip(
    "launch_ros", reason="launch_ros is not installed: it comes with ROS 2, not from PyPI"
)

from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.utilities import perform_substitutions

FOLDER = Path(__file__).parents[2] / "launch"
TASK = '{name: "it\'s a: reach", mode: 1, goal: {position: [0.5, 0.1, 0.3]}}'


def describe(name, context=None):
    source = PythonLaunchDescriptionSource(str(FOLDER / name))
    return source.get_launch_description(context or LaunchContext())


def processes(name, **values):
    """The actions by which a launch file starts processes at once, and the context they are for."""
    context = LaunchContext()
    context.launch_configurations.update(values)
    actions = []
    for entity in describe(name, context).entities:
        actions += entity.visit(context) or []
    return [action for action in actions if isinstance(action, ExecuteProcess)], context


def command(node, context):
    return [perform_substitutions(context, part) for part in node.cmd]


@pytest.mark.parametrize("name", ["sim.launch.py", "agent.launch.py", "robot.launch.py"])
def test_every_argument_has_a_description_and_a_default(name):
    arguments = describe(name).get_launch_arguments()
    assert {"robot", "model", "task", "mode", "respawn"} <= {a.name for a in arguments}
    for argument in arguments:
        assert isinstance(argument, DeclareLaunchArgument)
        assert "no description" not in argument.description.lower()
        assert argument.default_value is not None


@pytest.mark.parametrize(
    ("name", "values", "settings"),
    [
        ("agent.launch.py", {}, {}),
        ("sim.launch.py", {}, {"simulator": "realtime"}),
        (
            "sim.launch.py",
            {
                "clock": "lockstep",
                "composition": "single",
                "mode": "1",
                "respawn": "false",
                "log_level": "warn",
                "task": TASK,
            },
            {
                "simulator": "lockstep",
                "composition": "single",
                "mode": 1,
                "respawn": False,
                "log_level": "warn",
                "task": TASK,
            },
        ),
        ("agent.launch.py", {"use_sim_time": "True"}, {"use_sim_time": True}),
        (
            "agent.launch.py",
            {"planning": "distributed", "only": "cost,actor"},
            {"planning": "distributed", "only": "cost,actor"},
        ),
        ("robot.launch.py", {"check": "false"}, {}),
        ("robot.launch.py", {"check": "false", "dry_run": "true"}, {"dry_run": True}),
    ],
)
def test_the_nodes_are_those_of_the_one_list(name, values, settings, tiny):
    started, context = processes(name, model=str(tiny), **values)
    wanted = Settings(model=str(tiny), **settings)
    assert [command(node, context)[:-1] for node in started] == [  # launch_ros adds a --ros-args
        graph.command(spec, wanted) for spec in node_list(wanted)
    ]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("robot", "r2d2"),
        ("model", "no_such_bundle"),
        ("task", "juggle"),
        ("mode", "3"),
        ("composition", "double"),
        ("planning", "elsewhere"),
        ("only", "actr"),
        ("gui", "maybe"),
        ("namespace", "arm-1"),
        ("params_file", "/nowhere.yaml"),
    ],
)
def test_a_bad_argument_starts_nothing_and_is_named(argument, value, tiny):
    with pytest.raises((ValueError, RuntimeError, OSError), match=value):
        processes("sim.launch.py", **{"model": str(tiny), argument: value})


def test_a_robot_is_checked_before_anything_else_is_started(tiny):
    started, context = processes("robot.launch.py", model=str(tiny), namespace="arm1")
    assert [command(process, context) for process in started] == [
        graph.check_command(Settings(model=str(tiny), namespace="arm1"))
    ]


@pytest.mark.skipif(not shutil.which("ros2"), reason="the ros2 command is not installed")
@pytest.mark.parametrize("is_right", [True, False], ids=["right robot", "another robot"])
def test_ros2_launch_starts_the_agent_on_the_right_robot_only(is_right, domain, tmp_path):
    pytest.importorskip("ros2launch", reason="ros2launch is not installed")
    from jepa_robot.nodes.client import AgentClient

    robot = write_contract(tmp_path / "robot.yaml")
    contract = load_contract(robot)
    bundle = build(tmp_path / "tiny", contract)
    other = robot if is_right else write_contract(tmp_path / "other.yaml", ("fx: 88", "fx: 99"))
    log = tmp_path / "launch.log"
    arguments = [f"robot:={robot}", f"model:={bundle}", f"task:={TASK}", "dry_run:=true"]
    with fake_robot(other), log.open("w") as output:
        launch = subprocess.Popen(
            ["ros2", "launch", FOLDER / "robot.launch.py", "composition:=single", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if is_right:
                with AgentClient(contract) as client:
                    client.wait_until_ready()
                    values = {value.key: value.value for value in client.safety_state.values}
                    assert values["dry_run"] == "true"
                os.killpg(launch.pid, signal.SIGINT)
            assert launch.wait(30) == (0 if is_right else 1), log.read_text()
        finally:
            if launch.poll() is None:
                os.killpg(launch.pid, signal.SIGKILL)
                launch.wait()
    text = log.read_text()
    assert ("nothing was started" in text) != is_right
    assert ("fx is 99" in text) != is_right
    assert ("[safety-" in text) == is_right, text


@pytest.mark.skipif(not shutil.which("ros2"), reason="the ros2 command is not installed")
@pytest.mark.parametrize("composition", graph.COMPOSITIONS)
def test_ros2_launch_brings_the_agent_up_again_and_down(
    composition, tiny, contract, domain, tmp_path
):
    pytest.importorskip("ros2launch", reason="ros2launch is not installed")
    from jepa_robot.nodes.client import AgentClient

    arguments = [f"model:={tiny}", f"task:={TASK}", f"composition:={composition}", "mode:=2"]
    log = tmp_path / "launch.log"
    with log.open("w") as output:
        launch = subprocess.Popen(
            ["ros2", "launch", FOLDER / "sim.launch.py", "namespace:=arm1", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with AgentClient(contract, namespace="arm1") as client:
            client.wait_until_ready()
            assert client.status["task"] == "it's a: reach"
            assert client.status["mode"] == 2

            os.kill(process(launch.pid, "agent" if composition == "single" else "actor"), 9)
            client.status = {}
            client.wait_until_ready()

            os.killpg(launch.pid, signal.SIGINT)  # as a terminal does it
            assert launch.wait(30) == 0, log.read_text()
    finally:
        if launch.poll() is None:
            os.killpg(launch.pid, signal.SIGKILL)
            launch.wait()
    text = log.read_text()
    assert text.count("has died") == 1, text  # the one we killed
    assert text.count("finished cleanly") == len(node_list(Settings(composition=composition))) + 1
    with pytest.raises(ProcessLookupError):
        os.killpg(launch.pid, 0)


def process(group, module):
    """The process of a group that runs one of our nodes."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_text().split("\0")
            if f"jepa_robot.nodes.{module}" in arguments and os.getpgid(int(folder.name)) == group:
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"no process runs {module}")
