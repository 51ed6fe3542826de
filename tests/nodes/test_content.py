"""A camera that shows what cannot be right: the arm holds, says which camera, and goes on after."""

import json
import os
import subprocess
import sys

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from std_msgs.msg import String

from jepa_robot import graph
from jepa_robot.nodes import messages
from jepa_robot.nodes.messages import DATA, EVERY_ONE

NEAR, FAR = (0.40, -0.18, 0.15), (0.60, 0.18, 0.38)
DURATION = 1.5  # s that a camera is broken
SAYS = {
    "camera_black": "camera_side is black; camera_front is black",
    "camera_half": "camera_side is unlike the training pictures",
    "camera_frozen": "is frozen: the hand moves, its picture not",
}


@pytest.fixture
def fake_robot(domain, tmp_path):
    with (tmp_path / "fake_robot.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jepa_robot_sim.fake_robot"],
            stdout=log,
            stderr=log,
            env={**os.environ, **graph.environment()},
        )
    yield process
    process.terminate()
    process.wait()


def test_the_arm_holds_while_a_camera_is_broken_and_goes_on_after(fake_robot, start):
    settings = {"simulator": None, "composition": "single", "model": "reach_panda"}
    with start(**settings) as (client, _):
        holds, states = [], []
        client.listen(DiagnosticArray, "hold", holds.append, EVERY_ONE)
        client.listen(Image, "state", lambda m: states.append(stamp_of(m)), EVERY_ONE)
        faults = client.node.create_publisher(String, "fake_robot/fault", DATA)
        client.wait(lambda: faults.get_subscription_count() > 0, "the fake robot")
        client.wait_until_ready()
        client.set_task("name: reach\nmode: 1")
        for fault, says in SAYS.items():
            client.set_goal_position(NEAR)
            wait_for_safety(client, "following", "")
            holds.clear()
            faults.publish(String(data=json.dumps({"kind": fault, "for": DURATION})))
            client.set_goal_position(FAR)  # so that it moves while the camera is broken
            wait_for_safety(client, "hold_requested", says)
            wait_for_perception(client, says)
            wait_for_safety(client, "following", "")
            stamps = {stamp_of(message) for message in holds}
            assert stamps
            assert not stamps & set(states)
            names = {status.name for message in holds for status in message.status}
            assert names <= {"/perception: camera_side", "/perception: camera_front"}


def stamp_of(message):
    return messages.from_time(message.header.stamp)


def wait_for_safety(client, code, says):
    def is_so():
        text = client.safety_state.message if client.safety_state else ""
        return text.startswith(code) and says in text

    client.wait(is_so, f"the safety stage to say {code} {says}")


def wait_for_perception(client, says):
    client.wait(lambda: says in client.message_of("perception"), f"perception to say {says}")
