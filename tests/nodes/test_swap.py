"""Another bundle of the same latent space, put in force while the agent acts."""

import json
import shutil
import signal

import numpy as np
import onnx
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from onnx import numpy_helper
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String

from jepa_robot.models import Bundle, write_manifest
from jepa_robot.modules.configurator import MODULES, PREPARED, Configuration
from jepa_robot.nodes import messages
from jepa_robot.nodes.messages import DATA, EVERY_ONE, LATCHED
from jepa_robot.nodes.world_model import WorldModelNode
from tests.tiny_bundle import build

GOAL = (0.5, 0.1, 0.3)


@pytest.fixture(scope="module")
def better(contract, tmp_path_factory):
    """A bundle with the encoder of ``tiny`` and all else other."""
    return build(tmp_path_factory.mktemp("models") / "better", contract, name="better", seed=1)


def of_each(client, topic):
    """Frame ids by stamp, in the order in which they come."""
    seen = {}

    def take(message):
        seen.setdefault(messages.from_time(message.header.stamp), message.header.frame_id)

    client.listen(Image, topic, take, EVERY_ONE)
    return seen


def announce(client, path):
    publisher = client.node.create_publisher(String, "bundle", DATA)
    client.wait(lambda: publisher.get_subscription_count() > 0, "the configurator to listen")
    publisher.publish(String(data=str(path)))


def ids(seen):
    return list(dict.fromkeys(seen.values()))


@pytest.mark.parametrize("composition", ["processes", "single"])
def test_all_modules_change_at_one_observation_and_none_goes_unanswered(
    start, tiny, better, composition
):
    old, new = Bundle(tiny).id, Bundle(better).id
    with start(simulator="lockstep", composition=composition) as (client, _):
        seen = {name: of_each(client, name) for name in ("state", "action", "prediction", "cost")}
        client.wait_until_ready()
        client.set_goal_position(GOAL)
        client.wait(lambda: len(seen["action"]) > 10, "actions before")
        told = []

        def hear(message):
            told.append((json.loads(message.data), max(seen["state"])))

        client.listen(String, "configuration", hear, LATCHED)
        announce(client, better)
        for name, each in seen.items():
            client.wait(lambda each=each: ids(each) == [old, new], f"{name} of the new bundle")
        count = len(seen["action"])
        client.wait(lambda: len(seen["action"]) > count + 10, "actions after")
        client.wait(lambda: client.status["in_force"] and client.status["bundle"] == new, "status")
        changes = {}
        for name, each in seen.items():
            changes[name] = min(stamp for stamp, frame in each.items() if frame == new)
        assert len(set(changes.values())) == 1, changes
        (prepared, _), (commit, newest) = [one for one in told if one[0]["bundle"] == new]
        assert prepared["version"] == commit["version"] and prepared["activation"] < 0
        assert commit["activation"] > newest  # all are told before any observation that it is for
        stamps = np.array(sorted(seen["action"]))
        answered = [stamp for stamp in seen["state"] if stamps[0] <= stamp <= stamps[-1]]
        assert sorted(answered) == stamps.tolist()
        assert not client.status["error"]
        client.set_goal_position((0.45, -0.1, 0.35))  # the new bundle's configurator answers
        client.wait(lambda: client.status["in_force"], "the next goal")


def test_what_is_late_is_of_the_bundle_that_was_in_force_then(domain, tiny, better):
    old, new = Bundle(tiny), Bundle(better)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node, executor = WorldModelNode(), SingleThreadedExecutor()
    try:
        executor.add_node(node)
        node.set_parameters([Parameter("bundle", value=str(tiny))])
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        acknowledged, sections = [], {name: {} for name in MODULES}
        node.create_subscription(String, "configuration_ack", acknowledged.append, LATCHED)
        told = node.create_publisher(String, "configuration", LATCHED)
        for activation in (PREPARED, 1000):
            given = Configuration(1, activation, new.id, "reach", sections, str(better))
            told.publish(String(data=given.to_json()))
            while not acknowledged:
                executor.spin_once(0.1)
        while node.bundle.id == old.id:
            node.configure_for(999)
            assert node.frame_of(999) == old.id
            executor.spin_once(0.1)
            node.configure_for(1000)
        assert node.frame_of(999) == old.id and node.frame_of(1000) == new.id
    finally:
        node.destroy_node()
        executor.shutdown()
        rclpy.shutdown()


def damaged(path, source):
    """A policy that gives NaN, behind a manifest that says that all is well."""
    shutil.copytree(source, path)
    model = onnx.load(str(path / "policy.onnx"))
    weights = model.graph.initializer[0]
    array = np.full_like(numpy_helper.to_array(weights), np.nan)
    weights.CopyFrom(numpy_helper.from_array(array, weights.name))
    onnx.save(model, str(path / "policy.onnx"))
    write_manifest(path, json.loads((path / "manifest.json").read_text()))
    return path


def foreign(path, source):
    """Of another encoder."""
    shutil.copytree(source, path)
    model = onnx.load(str(path / "encoder.onnx"))
    model.doc_string = "another"
    onnx.save(model, str(path / "encoder.onnx"))
    write_manifest(path, json.loads((path / "manifest.json").read_text()))
    return path


def test_what_cannot_be_used_is_refused_by_name_and_the_agent_goes_on(
    start, tiny, better, milder, tmp_path
):
    old = Bundle(tiny).id
    cut = tmp_path / "cut"
    shutil.copytree(better, cut)
    (cut / "policy.onnx").write_bytes((cut / "policy.onnx").read_bytes()[:100])
    with start(simulator="lockstep") as (client, _):
        seen = of_each(client, "action")
        client.wait_until_ready()
        client.set_goal_position(GOAL)
        client.wait(lambda: len(seen) > 5, "actions before")
        for path, says in (
            (damaged(tmp_path / "damaged", better), "policy.onnx: gives what is not finite"),
            (foreign(tmp_path / "foreign", better), "is of latent space"),
            (cut, "policy.onnx: SHA-256 is"),
            (milder, "plan.onnx: its intrinsic term 'effort' differs"),
            (tmp_path / "nowhere", "nowhere"),
        ):
            announce(client, path)
            client.wait(lambda says=says: says in client.status["error"], f"the refusal: {says}")
            assert client.status["bundle"] == old
        count = len(seen)
        client.wait(lambda: len(seen) > count + 5, "actions after")
        assert ids(seen) == [old]


@pytest.mark.parametrize("victim", ["actor", "configurator"])
def test_who_comes_back_takes_up_the_bundle_in_force(start, better, victim):
    new = Bundle(better).id
    with start(simulator="realtime") as (client, group):
        actions = of_each(client, "action")
        client.wait_until_ready()
        client.set_goal_position(GOAL)
        announce(client, better)
        client.wait(lambda: ids(actions)[-1:] == [new], "actions of the new bundle")
        group.processes[victim].send_signal(signal.SIGKILL)
        client.wait(lambda: client.diagnostics[f"/{victim}"].message != "active", "it to be gone")
        client.wait(lambda: client.message_of(victim) == "active", "it to be back", 60.0)
        count = len(actions)
        client.wait(lambda: len(actions) > count + 5, "actions after")
        assert ids(actions)[-1] == new
        client.wait(lambda: client.status["bundle"] == new, "the configurator to know")
        client.wait(
            lambda: client.safety_state.level == DiagnosticStatus.OK, "the arm to follow again"
        )
