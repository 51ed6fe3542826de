"""The one list of nodes: what is in it, how its values reach a node, and what it refuses."""

import importlib.util
import signal
from dataclasses import replace

import pytest
import rclpy
from rclpy.node import Node

from jepa_robot import graph
from jepa_robot.graph import AGENT, NodeSpec, Settings, check, node_list
from jepa_robot.processes import ProcessGroup

TEXTS = [
    "reach",
    "",
    "true",
    "1e3",
    "~/tasks/a b.yaml",
    'schema: 1\nname: "it\'s a: reach"\n# 100 % – ünïcode 🤖\tand \\ too\n',
    "{name: 'r', goal: {position: [0.5, 0.1, 0.3]}}",
]


def parameters(command, domain):
    """The parameters that a node started by ``command`` gets, by rcl itself, and its namespace."""
    context = rclpy.Context()
    rclpy.init(args=command[command.index("--ros-args") :], context=context, domain_id=domain)
    node = Node("probe", context=context, automatically_declare_parameters_from_overrides=True)
    values = {name: p.value for name, p in node.get_parameters_by_prefix("").items()}
    namespace = node.get_namespace()
    node.destroy_node()
    rclpy.shutdown(context=context)
    return values, namespace


def test_the_agent_alone_is_the_safety_stage_and_the_six_modules():
    assert [spec.name for spec in node_list(Settings())] == ["safety", *AGENT]


def test_a_simulator_comes_first_and_takes_everything_down_with_it():
    specs = node_list(Settings(simulator="realtime"))
    assert [spec.name for spec in specs] == ["simulator", "safety", *AGENT]
    assert [spec.name for spec in specs if spec.is_required] == ["simulator"]
    assert [spec.name for spec in specs if not spec.respawn] == ["simulator"]


def test_single_composition_leaves_the_safety_stage_its_own_process():
    specs = node_list(Settings(composition="single"))
    assert [spec.name for spec in specs] == ["safety", "agent"]


@pytest.mark.parametrize("composition", graph.COMPOSITIONS)
def test_every_node_is_a_module_that_can_be_run(composition):
    for spec in node_list(Settings(simulator="realtime", composition=composition)):
        assert importlib.util.find_spec(spec.module), spec.module


def test_task_and_mode_are_for_the_configurator_alone():
    specs = node_list(Settings(task="t", mode=1))
    assert [spec.name for spec in specs if "task" in spec.parameters] == ["configurator"]
    assert specs[-1].parameters["task"] == "t"
    assert specs[-1].parameters["mode"] == 1


def test_lockstep_makes_everybody_follow_the_simulated_clock():
    specs = node_list(Settings(simulator="lockstep"))
    assert all(spec.parameters["use_sim_time"] is True for spec in specs[1:])


@pytest.mark.parametrize("text", TEXTS)
def test_texts_reach_a_node_as_they_are(text, domain):
    settings = Settings(task=text, mode=2, model=f"/tmp/{text}")
    spec = node_list(settings)[-1]
    values, namespace = parameters(graph.command(spec, settings), domain)
    assert {name: values[name] for name in spec.parameters} == spec.parameters
    assert namespace == "/"


@pytest.mark.parametrize("namespace", ["left/arm_1", "/left/arm_1", "/left/arm_1/"])
def test_a_namespace_may_have_slashes_around_it(namespace, domain):
    settings = Settings(namespace=namespace)
    command = graph.command(node_list(settings)[0], settings)
    assert parameters(command, domain)[1] == "/left/arm_1"


def test_a_params_file_overrides_what_the_list_says(domain, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("/**:\n  ros__parameters: {mode: 2, threads: 3}\n")
    settings = Settings(mode=1, params_file=str(file))
    values, _ = parameters(graph.command(node_list(settings)[-1], settings), domain)
    assert (values["mode"], values["threads"]) == (2, 3)


def test_the_environment_leaves_alone_what_the_user_has_set():
    mine = {"FASTDDS_DEFAULT_PROFILES_FILE": "", "OMP_NUM_THREADS": "8", "AMENT_PREFIX_PATH": "/x"}
    names = graph.environment(local_only=True, present=mine)
    assert not names.keys() & mine.keys()
    assert "RMW_IMPLEMENTATION" not in names  # a ROS 2 install has its own choice
    assert names["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


def test_the_environment_makes_ros_from_wheels_find_itself():
    names = graph.environment(present={})
    assert {"AMENT_PREFIX_PATH", "RMW_IMPLEMENTATION"} <= names.keys()
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in names  # a robot may be another machine


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("composition", "double", "processes"),
        ("mode", 4, "[0, 1, 2, 3]"),
        ("simulator", "gazebo", "lockstep"),
        ("log_level", "loud", "warn"),
        ("provider", "magic", "tensorrt"),
        ("planning", "elsewhere", "distributed"),
        ("namespace", "arm-1", "underscores"),
        ("params_file", "/nowhere.yaml", "a file"),
    ],
)
def test_a_bad_setting_is_refused_by_name(field, value, expected):
    with pytest.raises(ValueError, match=field) as refusal:
        Settings(**{field: value})
    assert repr(value) in str(refusal.value)
    assert expected in str(refusal.value)


def test_distributed_planning_wants_processes():
    with pytest.raises(ValueError, match="composition is 'single' with planning 'distributed'"):
        Settings(planning="distributed", composition="single")
    specs = {spec.name: spec for spec in node_list(Settings(planning="distributed"))}
    assert specs["actor"].parameters["planning"] == "distributed"


def test_a_graph_may_be_spread_over_machines():
    here = Settings(only="safety, actor,perception,cost,memory,configurator")
    there = Settings(only="world_model", provider="cpu")
    both = [spec.name for settings in (here, there) for spec in node_list(settings)]
    assert sorted(both) == sorted(["safety", *AGENT])
    assert node_list(there)[0].parameters["provider"] == "cpu"
    with pytest.raises(ValueError, match=r"only names \['actr'\], expected some of \['safety'"):
        node_list(Settings(only="actr"))


def test_simulated_time_without_a_clock_is_refused():
    with pytest.raises(ValueError, match="no /clock"):
        Settings(simulator="realtime", use_sim_time=True)


@pytest.mark.parametrize(
    ("field", "value"), [("robot", "r2d2"), ("model", "no_such_bundle"), ("task", "juggle")]
)
def test_what_is_not_there_is_refused_before_anything_starts(field, value, tiny):
    with pytest.raises((ValueError, FileNotFoundError), match=value):
        check(replace(Settings(model=str(tiny)), **{field: value}))


@pytest.mark.parametrize(("ends", "expected"), [("required", ["required"]), ("other", [])])
def test_only_a_required_process_ends_the_others(ends, expected, monkeypatch):
    specs = [
        NodeSpec("required", "-", respawn=False, is_required=True),
        NodeSpec("other", "-", respawn=False),
    ]
    monkeypatch.setattr(graph, "node_list", lambda settings: specs)
    monkeypatch.setattr(
        graph, "command", lambda spec, settings: ["sleep", "0" if spec.name == ends else "60"]
    )
    with ProcessGroup(Settings()) as group:
        assert group.processes[ends].wait(10) == 0
        assert group.ended == expected
    left = next(name for name in group.processes if name != ends)
    assert group.processes[left].returncode == -signal.SIGINT  # the politest way was enough
