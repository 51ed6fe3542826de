"""The whole agent through ROS: it comes up, acts, switches modes, survives what happens to it."""

import functools
import json
import math
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from jepa_robot import processes
from jepa_robot.cli.evaluate import run_evaluation
from jepa_robot.dataset import read_episodes
from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import load_task
from jepa_robot.nodes import messages
from jepa_robot.nodes.actor import ActorNode, PublishedPlan
from jepa_robot.nodes.client import AgentTimeout
from jepa_robot.nodes.messages import EVERY_ONE, LATCHED, SENSOR_IN

GOAL = (0.5, 0.1, 0.3)


def stamps_of(client, topic):
    """The stamps that arrive on a topic, in a list that grows."""
    stamps = []
    client.listen(
        Image, topic, lambda m: stamps.append(messages.from_time(m.header.stamp)), EVERY_ONE
    )
    return stamps


def wait_for_more(client, stamps, what):
    count = len(stamps)
    client.wait(lambda: len(stamps) > count + 2, what)


@pytest.mark.parametrize("mode", ["1", "2", "auto"])
def test_ros_and_in_process_give_the_same_actions_to_the_bit(domain, tiny, mode):
    def evaluate(through_ros, composition):
        return run_evaluation(
            *("panda", str(tiny), "reach", mode, "image", 2, 3, through_ros, composition),
            progress=lambda done, total: None,
        )

    in_process = evaluate(False, "")
    for composition in ("single", "processes"):
        through_ros = evaluate(True, composition)
        assert through_ros["actions_sha256"] == in_process["actions_sha256"]
        assert through_ros["distances"] == in_process["distances"]
        assert through_ros["decision_ms"]["median"] > 0


def test_modes_switch_while_the_arm_moves_and_memory_fills(start, tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text(f"memory: {{ros__parameters: {{file: {tmp_path / 'memory.h5'}}}}}")
    with start(simulator="realtime", params_file=str(params)) as (client, _):
        actions, plans = stamps_of(client, "action"), stamps_of(client, "plan")
        client.wait_until_ready()
        assert client.status["goal"] == "none"
        client.set_goal_position(GOAL)
        wait_for_more(client, plans, "plans in Mode-2")
        client.set_task(f"name: reach\nmode: 1\ngoal: {{position: {list(GOAL)}}}")
        wait_for_more(client, actions, "actions in Mode-1")
        seen = len(plans)
        wait_for_more(client, actions, "more actions in Mode-1")
        assert len(plans) == seen
        client.set_task(f"name: reach\nmode: 2\ngoal: {{position: {list(GOAL)}}}")
        wait_for_more(client, plans, "plans in Mode-2 again")
        for threshold, what in ((2.0, actions), (0.0001, plans)):
            auto = f"mode: auto\nauto: {{look: 2, disagreement: {threshold}}}"
            client.set_task(f"name: reach\n{auto}\ngoal: {{position: {list(GOAL)}}}")
            wait_for_more(client, what, "the policy's actions, then plans, in mode auto")
        client.wait(lambda: client.safety_state.message == "following", "the arm to follow")
        assert "steps written" in client.call("memory/save")
    saved = list(read_episodes(tmp_path / "memory.h5"))
    stamps = np.concatenate([episode["stamp"][:, 0] for episode in saved])
    assert len(stamps) > 5 and (np.diff(stamps) > 0).all() and len(saved) >= 2


def test_a_namespace_holds_the_whole_agent(start):
    with start(simulator="realtime", namespace="left/arm", composition="single") as (client, _):
        client.wait_until_ready()
        client.set_goal_position(GOAL)
        client.wait(
            lambda: client.safety_state and client.safety_state.message == "following", "motion"
        )
        names = {name for name, _ in client.node.get_topic_names_and_types()}
        assert "/left/arm/state" in names
        ours = {"/diagnostics", "/rosout", "/parameter_events", "/clock"}
        assert {name for name in names if not name.startswith("/left/arm/")} <= ours


@pytest.mark.parametrize("victim", ["perception", "actor"])
def test_a_killed_node_comes_back_and_the_task_goes_on(start, victim):
    with start(simulator="realtime") as (client, group):
        actions = stamps_of(client, "action")
        client.wait_until_ready()
        client.set_goal_position(GOAL)
        wait_for_more(client, actions, "actions before")
        group.processes[victim].send_signal(signal.SIGKILL)
        client.wait(lambda: client.safety_state.level != DiagnosticStatus.OK, "the arm to be held")
        wait_for_more(client, actions, "actions after")
        client.wait(
            lambda: client.safety_state.level == DiagnosticStatus.OK, "the arm to follow again"
        )
        client.wait(lambda: client.status["in_force"], "the configuration to be in force again")


def test_who_is_awaited_is_told(start):
    with start(simulator="realtime", respawn=False) as (client, group):
        client.wait_until_ready()
        assert client.status["awaited"] == []
        group.processes["memory"].kill()
        client.wait(lambda: client.status["awaited"] == ["memory"], "memory to be missed")
        assert not client.status["in_force"]
        with pytest.raises(AgentTimeout, match="awaits memory"):
            client.wait(lambda: False, "nothing", 0.1)


def segments():
    return set(processes.SHARED_MEMORY.glob(f"fastdds_{'[0-9a-f]' * 16}"))


@pytest.mark.parametrize("composition", ["processes", "single"])
def test_nothing_stays_in_shared_memory(start, monkeypatch, composition):
    monkeypatch.setattr(processes, "NEW", math.inf)  # clear up after nobody
    before = segments()
    with start(simulator="realtime", composition=composition) as (client, group):
        client.wait_until_ready()
        safety = group.processes["safety"]
        safety.kill()
        safety.wait()
        client.wait(lambda: group.processes["safety"] is not safety, "another safety stage")
        client.wait(lambda: client.status["in_force"], "the agent")
    assert 0 < len(segments() - before) <= 2  # of the killed one
    monkeypatch.setattr(processes, "NEW", -math.inf)
    with start(simulator="realtime", composition=composition) as (client, group):
        client.wait_until_ready()
        processes.free_shared_memory()  # of the dead alone
        client.set_goal_position(GOAL)
        client.wait(lambda: client.safety_state.message == "following", "motion")
    assert not segments() - before


def test_a_stop_outlives_the_safety_process(start):
    with start(simulator="realtime") as (client, group):
        client.wait_until_ready()
        measured = []
        client.listen(
            JointState,
            "joint_states",
            lambda m: measured.append(messages.from_time(m.header.stamp)),
            SENSOR_IN,
        )
        client.set_goal_position(GOAL)
        client.wait(
            lambda: client.safety_state and client.safety_state.message == "following", "motion"
        )
        # However late a busy machine gets to them: who is held up must not seem to jump.
        client.wait(lambda: len(measured) > 100, "joint states")
        assert np.median(np.abs(np.diff(measured) - 1e7)) < 1e4  # ns
        client.call("safety/stop")
        client.wait(lambda: client.safety_state.level == DiagnosticStatus.ERROR, "the stop")
        client.safety_state = None
        group.processes["safety"].send_signal(signal.SIGKILL)
        client.wait(
            lambda: client.safety_state and "stop" in client.safety_state.message,
            "the stop after the restart",
        )
        client.call("safety/release")
        client.wait(lambda: client.safety_state.message == "following", "the arm to follow again")


def test_what_cannot_be_done_is_told_and_the_arm_holds(start):
    image = np.zeros((64, 64, 3), np.uint8)
    requests = {
        r"\[2.0, 0.0, 0.0\], out of reach": lambda c: c.set_goal_position((2.0, 0.0, 0.0)),
        r"expected 3 finite|expected finite": lambda c: c.set_goal_position((np.nan, 0.0, 0.0)),
        r"goal_pose is in frame 'map', expected 'panda_link0'": lambda c: c.set_goal_position(
            GOAL, "map"
        ),
        r"'fly' is neither a path nor one of config/tasks": lambda c: c.set_task("fly"),
        r"goal_image is 64x64 rgb8.*expected 128x64 rgb8": lambda c: c.set_goal_image([image]),
    }
    with start(simulator="realtime", composition="single") as (client, _):
        client.wait_until_ready()
        for says, request in requests.items():
            client.set_goal_position(GOAL)
            client.wait(
                lambda: client.safety_state and client.safety_state.message == "following",
                "motion",
            )
            with pytest.raises(ValueError, match=says):
                request(client)
            said = client.status["error"]
            client.wait(
                lambda said=said: client.message_of("configurator") == said,
                "the refusal on /diagnostics",
            )
            client.wait(
                lambda: client.safety_state.level == DiagnosticStatus.WARN, "the arm to hold"
            )


def test_a_bundle_that_does_not_fit_configures_nothing(start, contract, tmp_path):
    from tests.tiny_bundle import build

    path = build(tmp_path / "other", contract)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["cameras"][0]["width"] = 128
    (path / "manifest.json").write_text(json.dumps(manifest))
    with start(simulator="realtime", model=str(path)) as (client, _):
        client.wait(
            lambda: "cameras[0].width is 128 in the bundle, 64 on the robot" in client.complaints(),
            "the mismatch on /diagnostics",
        )
        client.wait(
            lambda: client.safety_state and client.safety_state.message == "no_action",
            "the arm to be held",
        )
        for name in ("perception", "world_model", "cost", "actor", "memory", "configurator"):
            assert client.state_of(name) == "unconfigured"
            with pytest.raises(ValueError, match="configure"):
                client.transition(name, "configure")


def test_latents_of_another_bundle_are_dropped_and_told(start):
    with start(simulator="realtime", composition="single") as (client, _):
        client.wait_until_ready()
        foreign = client.node.create_publisher(Image, "state", messages.DATA)
        client.wait(lambda: foreign.get_subscription_count() >= 4, "subscribers on state")
        foreign.publish(messages.tensor_message(np.zeros((1, 20)), 1, "other-12345678"))
        said = "state is of bundle 'other-12345678', expected 'tiny-"
        client.wait(
            lambda: all(
                said in client.message_of(name) for name in ("world_model", "cost", "actor")
            ),
            "complaints of the foreign latent",
        )


def test_a_configuration_that_a_module_refuses_is_told(start, tiny):
    bundle_id = Bundle(tiny).id
    with start(simulator="realtime", composition="single") as (client, _):
        client.wait_until_ready()
        acks = []
        client.listen(
            String, "configuration_ack", lambda m: acks.append(json.loads(m.data)), EVERY_ONE
        )
        rogue = client.node.create_publisher(String, "configuration", LATCHED)
        sections = {
            "actor": {"mode": 7},
            "cost": {"weights": {"magic": 1}},
            **{name: {} for name in ("perception", "world_model", "memory")},
        }
        careless = {**sections, "actor": {}, "cost": {"weights": {"joint_limits": 0}}}
        for version, bundle, said in (
            (98, "x", sections),
            (99, bundle_id, sections),
            (100, bundle_id, careless),
        ):
            configuration = {"version": version, "bundle": bundle, "sections": said}
            configuration |= {"activation": 0, "task": ""}
            rogue.publish(String(data=json.dumps(configuration)))
            client.wait(
                lambda version=version: (
                    {a["node"] for a in acks if a["version"] == version} >= {"actor", "cost"}
                ),
                "both modules' answers",
            )

        def late():
            values = client.diagnostics["/perception"].values
            return {value.key: value.value for value in values}.get("configurations_late")

        client.wait(lambda: late() == "2", "perception to say that 99 and 100 came too late")
        errors = {(ack["version"], ack["node"]): ack["error"] for ack in acks}
        assert "it is for bundle 'x', expected 'tiny-" in errors[98, "cost"]
        assert "actor.mode is 7" in errors[99, "actor"]
        assert "names ['magic']" in errors[99, "cost"]
        for node in ("actor", "cost"):  # no way round the configurator
            assert "cost.weights.joint_limits is 0, expected 0.1 to 100" in errors[100, node]


def test_measured_states_cost_the_effort_that_led_there(start, tiny, contract):
    bundle = Bundle(tiny)
    sizes = {"action": bundle.action_size, "cost": len(bundle.terms)}
    seen = {topic: {} for topic in sizes}
    effort = list(bundle.terms).index("effort")
    step = round(1e9 * contract.rates.time_step)

    def take(topic, message):
        tensor = messages.read_tensor(message, topic, sizes[topic])
        seen[topic][messages.from_time(message.header.stamp)] = tensor[0]

    def followed():
        return [stamp for stamp in seen["action"] if stamp + step in seen["cost"]]

    with start(simulator="lockstep") as (client, _):
        for topic in sizes:
            client.listen(Image, topic, functools.partial(take, topic), EVERY_ONE)
        client.wait_until_ready()
        client.set_goal_position(GOAL)
        client.wait(lambda: len(followed()) > 10, "actions, and what they cost")
    weight = load_task("reach").weights["effort"]
    efforts = [weight * np.square(seen["action"][stamp]).sum() for stamp in followed()]
    found = [seen["cost"][stamp + step][effort] for stamp in followed()]
    assert min(efforts) > 0
    np.testing.assert_allclose(found, efforts, rtol=1e-4)


def test_a_tasks_deadline_is_kept_and_what_it_costs_is_counted(start):
    def counted(client, name):
        status = client.diagnostics.get("/actor")
        values = {pair.key: pair.value for pair in status.values} if status else {}
        return int(values.get(name, 0))

    with start(simulator="realtime") as (client, _):
        client.wait_until_ready()
        goal = f"goal: {{position: {list(GOAL)}}}"
        client.set_task(f"name: reach\nmode: 2\ndeadline: 0.000001\n{goal}")
        client.wait(lambda: counted(client, "plans_unimproved") > 3, "plans without an iteration")
        assert counted(client, "plans_late") > 3
        client.set_task(f"name: reach\nmode: 2\ndeadline: 10\n{goal}")
        client.wait(lambda: counted(client, "iterations") > 0, "plans that were improved")


@pytest.mark.parametrize(
    ("age", "passed", "expected"),
    [(5, 1, []), (12, 1, [1]), (30, 1, [1]), (58, 1, [1]), (75, 2, [2, 3]), (130, 3, [3, 4, 4])],
)
def test_what_acts_until_a_plan_takes_effect_is_what_was_published_last(age, passed, expected):
    """Ages in ms, of time steps of 50: a row of which most would come too late is not planned."""
    node = SimpleNamespace(
        is_lockstep=False,
        bundle=SimpleNamespace(action_size=2),
        _step=50_000_000,
        _age=1e6 * age,
        _acting=PublishedPlan(1000, np.repeat(np.arange(5.0)[:, None], 2, axis=1)),
        _steps_since=functools.partial(ActorNode._steps_since, SimpleNamespace(_step=50_000_000)),
    )
    stamp = 1000 + passed * 50_000_000
    assert ActorNode._rows_in_flight(node, stamp)[:, 0].tolist() == expected
    node._acting = PublishedPlan(stamp, np.full((1, 2), 9.0))  # the policy answered meanwhile
    assert ActorNode._rows_in_flight(node, stamp)[:, 0].tolist() == [9.0] * len(expected)
    for name, value in (("is_lockstep", True), ("_acting", None)):
        setattr(node, name, value)
        assert ActorNode._rows_in_flight(node, stamp).shape == (0, 2)
        node.is_lockstep = False
