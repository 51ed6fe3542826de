"""The learner beside a running agent: what it hands out and takes back, and who may be one."""

import json
import os
import signal

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image

from jepa_robot.files import lock
from jepa_robot.models import Bundle
from jepa_robot.nodes import messages
from jepa_robot.nodes.messages import EVERY_ONE
from tests.learnable_bundle import random_bundle

GOAL = (0.5, 0.1, 0.3)
NODES = {
    "memory": {"folder": "memory"},
    "learner": {
        "memory": "memory",
        "versions": "versions",
        "share": 1.0,
        "new_steps": 150,
        "iterations": 25,
    },
}


@pytest.fixture(scope="module")
def learnable(tmp_path_factory, contract):
    return random_bundle(tmp_path_factory.mktemp("models") / "random", contract)


@pytest.fixture
def learning(start, tmp_path, learnable):
    """Start an agent in real time with a learner."""

    def run(**settings):
        lines = []
        for node, parameters in NODES.items():
            folders = {
                name: str(tmp_path / value) if isinstance(value, str) else value
                for name, value in parameters.items()
            }
            lines.append(f"{node}: {{ros__parameters: {json.dumps(folders)}}}")
        params = tmp_path / "params.yaml"
        params.write_text("\n".join(lines))
        model = {"model": str(learnable), "params_file": str(params)}
        return start(simulator="realtime", learn=True, **model, **settings)

    return run


def told(client, name):
    status = client.diagnostics.get("/learner")
    values = {pair.key: pair.value for pair in status.values} if status else {}
    return int(values.get(name, 0))


def goes(client):
    client.wait_until_ready()
    client.set_task(f"name: reach\nmode: 1\ngoal: {{position: {list(GOAL)}}}")


def test_what_is_learned_is_put_in_force_and_taken_back_where_it_gets_worse(
    learning, learnable, tmp_path
):
    first = Bundle(learnable)
    with learning() as (client, _):
        actions = []
        client.listen(Image, "action", lambda m: actions.append(m.header.frame_id), EVERY_ONE)
        goes(client)
        client.wait(lambda: told(client, "rounds") > 0, "a round of learning", 120.0)
        client.wait(lambda: client.status["bundle"] != first.id, "a version in force", 120.0)
        version = client.status["bundle"]
        client.wait(lambda: actions[-1:] == [version], "actions of the version")
        folder = tmp_path / "versions" / first.space
        made = [Bundle(path) for path in sorted(folder.glob("version_*"))]
        (found,) = [bundle for bundle in made if bundle.id == version]
        assert found.manifest["parent"] in [first.id, *(bundle.id for bundle in made)]
        learned = found.manifest["learned"]
        assert learned["steps"] >= 150 and learned["stamps"][0] < learned["stamps"][1]
        assert learned["scores"]["prediction"] <= learned["scores"]["prediction_before"]
        # A world that surprises ten times as much as before.
        tell = client.node.create_publisher(Image, "surprise", 10)
        cost = client.node.create_publisher(Image, "cost", 10)
        client.wait(lambda: tell.get_subscription_count() > 1, "the learner to listen")
        stamp, parent = 10**18, client.status["bundle"]

        def gets_worse():
            nonlocal stamp, parent
            now = client.status["bundle"]
            for _ in range(5):
                stamp += 1
                zeros = np.zeros((1, len(first.terms)))
                tell.publish(messages.tensor_message(np.full((1, 1), 1e6), stamp, now))
                cost.publish(messages.tensor_message(zeros, stamp, now))
            return told(client, "rolled_back") > 0

        client.wait(gets_worse, "it to be taken back", 120.0)


def test_a_second_learner_is_refused_and_the_agent_goes_on(learning, learnable, tmp_path):
    folder = tmp_path / "versions" / Bundle(learnable).space
    folder.mkdir(parents=True)
    with lock(folder / "lock"), learning() as (client, group):
        goes(client)
        client.wait(
            lambda: f"process {os.getpid()} learns there" in client.message_of("learner"),
            "the refusal",
            60.0,
        )
        client.wait(lambda: client.safety_state.level == DiagnosticStatus.OK, "the arm to follow")
        group.processes["learner"].send_signal(signal.SIGKILL)
        client.wait(lambda: client.status["in_force"], "the agent to go on")
    assert [path.name for path in folder.iterdir()] == ["lock"]
