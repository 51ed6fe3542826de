"""What a robot may send that is wrong: told by name, dropped, and the arm holds."""

import contextlib
import dataclasses

import numpy as np
import pytest
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from jepa_robot.models import Bundle
from jepa_robot.modules.perception import Observation, Perception
from jepa_robot.nodes import messages
from jepa_robot.nodes.messages import LATCHED, SENSOR_OUT


class Robot:
    """A robot's topics, driven by the test in the place of a simulator."""

    def __init__(self, client, contract):
        self.client, self.contract = client, contract
        create = client.node.create_publisher
        self._joints = create(JointState, "joint_states", SENSOR_OUT)
        self._images = [create(Image, camera.topic, SENSOR_OUT) for camera in contract.cameras]
        self.images = [
            np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)
            for i in range(len(contract.cameras))
        ]
        self.names = list(contract.joint_names)
        self.positions, self.velocities = np.array(contract.home), np.zeros(7)
        self.cameras = list(contract.cameras)

    def publish(self):
        stamp = self.client.node.get_clock().now().nanoseconds
        self._joints.publish(
            messages.joint_state_message(self.names, self.positions, self.velocities, stamp)
        )
        for publisher, image, camera in zip(self._images, self.images, self.cameras, strict=True):
            publisher.publish(messages.image_message(image, camera, stamp))

    def publish_until(self, condition, what):
        def published():
            self.publish()
            return condition()

        self.client.wait(published, what)


@pytest.fixture
def robot(start, contract):
    with contextlib.ExitStack() as stack:
        client, _ = stack.enter_context(start(simulator=None, composition="single"))
        robot = Robot(client, contract)
        robot.states = []
        client.listen(Image, "state", robot.states.append, messages.DATA)
        client.wait_until_ready()
        client.set_goal_position((0.5, 0.0, 0.3))
        robot.publish_until(
            lambda: client.safety_state and client.safety_state.message == "following",
            "the arm to follow",
        )
        yield robot


def spoil_image_size(robot):
    robot.images = [np.zeros((32, 64, 3), np.uint8)] * 2


def spoil_encoding(robot):
    robot.cameras = [dataclasses.replace(c, encoding="bgr8") for c in robot.cameras]


def spoil_missing_joint(robot):
    robot.names = [*robot.names[:6], "gripper"]


def spoil_nan(robot):
    robot.positions = np.array([*robot.positions[:6], np.nan])


SPOILT = {
    "camera_side/image is 64x32 rgb8 in 6144 bytes, expected 64x64 rgb8": spoil_image_size,
    "camera_side/image is 64x64 bgr8 in 12288 bytes, expected 64x64 rgb8": spoil_encoding,
    "joint_states lacks ['panda_joint7'], expected": spoil_missing_joint,
    "joint_states has a position of panda_joint7 that is no finite number": spoil_nan,
}


@pytest.mark.parametrize("says", SPOILT, ids=lambda text: text[:30])
def test_a_wrong_message_is_named_and_the_arm_holds_until_it_is_right_again(
    robot, contract, tiny, says
):
    client = robot.client
    SPOILT[says](robot)
    robot.publish_until(lambda: says in client.message_of("perception"), f"{says!r}")
    robot.publish_until(
        lambda: client.safety_state.message in ("action_stale", "joint_states_stale"),
        "the arm to hold",
    )
    if "joint" in says:
        assert says in client.message_of("safety")

    # Joints in another order than the contract's are no error: they are sorted by name.
    order = [3, 1, 6, 0, 2, 5, 4]
    robot.cameras = list(contract.cameras)
    robot.images = [np.random.default_rng(9).integers(0, 255, (64, 64, 3), np.uint8)] * 2
    robot.names = [contract.joint_names[i] for i in order]
    robot.positions = np.array(contract.home)[order]
    seen = Observation(0, robot.images, np.array(contract.home), np.zeros(7))
    expected = Perception(Bundle(tiny)).encode(seen)
    robot.states.clear()

    def is_right():
        state = robot.states and messages.read_tensor(robot.states[-1], "state", 20)
        return robot.states and np.array_equal(state, expected)

    robot.publish_until(is_right, "the right state from joints in another order")
    robot.publish_until(
        lambda: client.safety_state.message == "following", "the arm to follow again"
    )


def test_a_nan_in_an_action_is_dropped(robot):
    client = robot.client
    client.set_task("name: reach\nmode: 0")
    rogue = client.node.create_publisher(Image, "action", messages.COMMAND)
    client.wait(lambda: rogue.get_subscription_count() > 0, "a subscriber on action")

    def publish_nan():
        stamp = client.node.get_clock().now().nanoseconds
        action = np.array([[np.nan, 0, 0]])
        rogue.publish(messages.tensor_message(action, stamp, "x"))
        return "action holds NaN or infinity" in client.message_of("safety")

    robot.publish_until(publish_nan, "the complaint of the safety stage")
    robot.publish_until(lambda: client.safety_state.message == "action_stale", "the hold")
    assert np.isfinite(client.commanded).all()


RUBBISH = {
    "configuration": ("{}", "cost", "configuration is '{}'"),
    "configuration_ack": ("{}", "configurator", "configuration_ack is '{}'"),
    "task": ("x" * 400, "configurator", "is neither a path nor one of"),
    "simulator/episode": ('{"id": "x", "start": ["a"], "frames": 1}', "simulator", "episode is"),
}


def test_rubbish_on_text_topics_ends_no_node(start):
    with start(simulator="realtime") as (client, group):
        client.wait_until_ready()
        for topic, (text, node, says) in RUBBISH.items():
            publisher = client.node.create_publisher(String, topic, LATCHED)
            client.wait(lambda p=publisher: p.get_subscription_count() > 0, f"readers of {topic}")
            publisher.publish(String(data=text))
            client.wait(lambda n=node, s=says: s in client.message_of(n), f"{node}'s complaint")
        client.set_goal_position((0.5, 0.0, 0.3))
        client.wait(
            lambda: client.safety_state and client.safety_state.message == "following", "motion"
        )
        assert all(process.poll() is None for process in group.processes.values())
