"""`jepa-robot jog` on simulated arms without an agent: only simulator and safety stage are up."""

import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import rclpy
from sensor_msgs.msg import Image

from jepa_robot.graph import Settings
from jepa_robot.nodes.client import AgentClient
from jepa_robot.nodes.messages import COMMAND
from jepa_robot.processes import ProcessGroup
from jepa_robot.robot.contract import load_contract
from jepa_robot.robot.kinematics import Kinematics

JOG = [sys.executable, "-m", "jepa_robot.cli.main", "jog"]


@pytest.fixture
def without_agent(domain, tmp_path):
    """A simulated arm and its safety stage: ``with without_agent(robot) as client``."""

    @contextmanager
    def run(robot, namespace=""):
        settings = Settings(robot=robot, model="", simulator="realtime", namespace=namespace)
        group = ProcessGroup(settings, tmp_path / "logs")
        assert list(group.specs) == ["simulator", "safety"]
        with group, AgentClient(load_contract(robot), namespace, group.watch) as client:
            client.wait(lambda: said(client) == "no_action", "the safety stage to hold")
            yield client

    return run


def said(client):
    return client.safety_state.message if client.safety_state else ""


def jog(*arguments):
    return subprocess.run(
        [*JOG, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def row(output, name):
    """The numbers of a line."""
    line = next(line for line in output.splitlines() if line.startswith(name))
    return np.array([float(word) for word in line.removeprefix(name).split()])


def test_a_jog_moves_the_hand_along_one_axis_and_tells_where_it_went(without_agent):
    with without_agent("xarm6", "left/arm") as client:
        done = jog("vy", "-0.05", "--robot", "xarm6", "--namespace", "left/arm")
        assert done.returncode == 0, done.stderr
        moved = row(done.stdout, "moved")
        assert -0.06 < moved[1] < -0.005
        assert np.abs(moved[[0, 2]]).max() < 0.005
        assert row(done.stdout, "after") == pytest.approx(
            row(done.stdout, "before") + moved, abs=2e-3
        )
        assert "following, then" in done.stdout and "ramp" in done.stdout
        client.wait(lambda: said(client) == "hold_requested: the jog is over", "the hold")


def test_a_jog_moves_the_gripper(without_agent):
    with without_agent("hobby5"):
        done = jog("gripper", "-0.02", "--seconds", "0.6", "--robot", "hobby5")
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.startswith("gripper"))
        before, after = (float(word) for word in line.split() if word[0].isdigit())
        assert before == pytest.approx(0.02, abs=1e-3)
        assert before - 0.016 < after < before - 0.002
        assert np.abs(row(done.stdout, "moved")).max() < 0.01


def test_a_jog_begins_only_where_nothing_is_stopped_and_nobody_else_acts(without_agent):
    arguments = ("vx", "0.02", "--robot", "hobby5")
    with without_agent("hobby5") as client:
        client.call("safety/stop")
        refused = jog(*arguments)
        assert refused.returncode == 1
        assert "is stopped (stop_requested" in refused.stderr and "safety/release" in refused.stderr
        client.call("safety/release")
        planner = rclpy.create_node("planner", context=client.node.context)
        planner.create_publisher(Image, "plan", COMMAND)
        refused = jog(*arguments)
        planner.destroy_node()
        assert refused.returncode == 1
        assert "planner publishes plan: expected nobody else to act" in refused.stderr


def test_ctrl_c_ends_a_jog_with_the_arm_at_rest(without_agent):
    with without_agent("hobby5") as client:
        process = subprocess.Popen(
            [*JOG, "vy", "0.01", "--seconds", "10", "--robot", "hobby5"],
            stdout=subprocess.PIPE,
            text=True,
        )
        client.wait(lambda: said(client) == "following", "the arm to follow")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 130
        assert row(output, "moved")[1] < 0.09  # it did not go on for its ten seconds
        client.wait(lambda: said(client) == "hold_requested: the jog is over", "the hold")


def test_a_stop_during_a_jog_ends_it_with_an_error_that_says_so(without_agent):
    with without_agent("hobby5") as client:
        process = subprocess.Popen(
            [*JOG, "vy", "0.01", "--seconds", "10", "--robot", "hobby5"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        client.wait(lambda: said(client) == "following", "the arm to follow")
        client.call("safety/stop")
        output, error = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "the safety stage stopped the arm: stop_requested" in error
        assert row(output, "moved")[1] < 0.09
        client.call("safety/release")  # the stop would outlive this test


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["wx", "0.1"], "channel is 'wx', expected one of vx, vy, vz"),
        (["vx", "0.5"], "speed is 0.5 m/s, expected at most 0.4 m/s either way"),
        (["vx", "nan"], "speed is nan m/s, expected at most"),
        (["vx", "0.1", "--robot", "r2d2"], "'r2d2' is neither a path nor one of config/robots"),
    ],
)
def test_what_cannot_be_jogged_is_refused_in_a_sentence(arguments, says):
    result = jog(*arguments)
    assert result.returncode == 1
    assert says in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_exploring_goes_about_in_the_workspace(without_agent):
    with without_agent("panda") as client:
        explore = [*JOG[:-1], "explore", "--seconds", "5", "--speed", "0.8", "--seed", "3"]
        hands = []
        kinematics = Kinematics(client.contract)
        process = subprocess.Popen(explore, stdout=subprocess.PIPE, text=True)
        while process.poll() is None:
            client.spin(0.05)
            if client.commanded is not None:
                hands.append(kinematics.position(client.commanded))
        assert process.returncode == 0
        assert "following, then" in process.stdout.read()
        hands = np.array(hands)
        lower, upper = client.contract.workspace
        assert (hands >= np.array(lower) - 0.005).all() and (hands <= np.array(upper) + 0.005).all()
        assert np.linalg.norm(np.diff(hands, axis=0), axis=1).sum() > 0.2
        assert np.ptp(hands, axis=0).max() > 0.1
