"""Tasks are carried out through ROS: subgoals, services, goals of every kind, preemption."""

import json
import signal
import time

import numpy as np
import pytest
from std_msgs.msg import String

from jepa_robot.learning.upper import UpperConfig
from jepa_robot.modules.tasks import load_task
from jepa_robot.nodes.messages import LATCHED
from tests.learnable_bundle import random_bundle

REACH = "weights: {goal_position: 1.0}\nplanner: {candidates: 32, iterations: 2, elites: 4}\n"


def progress_of(client):
    """States and subgoals in the order in which they are told, without repetitions."""
    seen = []

    def take(_):
        now = client.progress["state"], client.progress["subgoal"]
        if not seen or seen[-1] != now:
            seen.append(now)

    client.listen(String, "progress", take, LATCHED)
    return seen


def test_a_sequence_is_carried_out_and_controlled(start):
    with start(model="reach_panda") as (client, _):
        client.wait_until_ready()
        seen = progress_of(client)
        client.set_task("patrol")
        client.wait(lambda: client.progress["state"] == "succeeded", "the patrol to end", 120)
        names = [part.name for part in load_task("patrol").subgoals]
        assert [subgoal for state, subgoal in seen if state == "running"][-3:] == names
        assert client.progress["done"] == names and client.progress["distance"] < 0.03
        client.wait(lambda: client.status["mode"] == 0, "the arm to be left alone")
        with pytest.raises(ValueError, match="task patrol is succeeded"):
            client.call("configurator/pause")

        assert client.call("configurator/start") == "task patrol is running"
        client.wait(lambda: client.progress["done"][:1] == names[:1], "the first place again", 60)
        assert client.call("configurator/pause") == "task patrol is paused"
        client.wait(lambda: client.status["mode"] == 0 and client.status["in_force"], "a pause")
        assert client.call("configurator/resume") == "task patrol is running"
        assert client.call("configurator/cancel") == "task patrol is cancelled"
        client.wait(lambda: client.progress["state"] == "cancelled", "the end")

        client.set_task("name: back\n" + REACH + "goal: {ago: 1}")
        client.wait(lambda: client.status["goal"] == "image", "a goal from memory")
        with pytest.raises(ValueError, match=r"goal\.ago is 3000 s, and the nearest"):
            client.set_task("name: back\n" + REACH + "goal: {ago: 3000}")
        assert client.status["mode"] == 0


def test_a_point_in_the_picture_is_a_goal(start):
    place = np.array([0.5, 0.1, 0.3])
    goals = []
    with start(model="reach_panda") as (client, _):
        client.listen(
            String,
            "configuration",
            lambda m: goals.append(json.loads(m.data)["sections"]["cost"]["goal"]["position"]),
            LATCHED,
        )
        client.wait_until_ready()
        client.set_task(f"name: it\n{REACH}goal: {{position: {place.tolist()}}}")
        client.wait(lambda: (client.progress["distance"] or 1) < 0.03, "the hand to be there")
        camera = client.contract.cameras[0]
        seen = camera.rotation.T @ (place - camera.position)
        x, y = seen[:2] / seen[2] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
        client.set_goal_point(camera.name, x, y)
        assert np.linalg.norm(goals[-1] - place) < 0.05  # a pixel, at the height that is read
        assert client.progress["state"] == "running"
        with pytest.raises(ValueError, match="outside the picture"):
            client.set_goal_point(camera.name, camera.width, 0)
        client.wait(lambda: client.progress["state"] == "paused", "the arm to hold")


def test_an_upper_level_asks_the_lower_one_for_a_place_after_the_other(start, tmp_path, contract):
    upper = UpperConfig(stride=4, horizon=3, latent=8, width=16)
    bundle = random_bundle(tmp_path / "levels", contract, upper)
    with start(model=str(bundle)) as (client, _):
        client.wait_until_ready()
        asked = []
        client.listen(
            String,
            "configuration",
            lambda m: asked.append(json.loads(m.data)["sections"]["cost"]["goal"]["position"]),
            LATCHED,
        )
        goal = [0.5, 0.1, 0.3]
        client.set_task(f"name: far\nlevels: 2\n{REACH}goal: {{position: {goal}}}")
        client.wait(lambda: len(asked) > 8, "places that are asked for", 60)
        places = [place for place in asked if place is not None and place != goal]
        assert len(places) > 3  # none of them the goal, which a random network never gets to
        told = client.progress
        assert (
            told["state"] == "running" and told["subgoal"] == "" and client.status["task"] == "far"
        )
        assert np.shape(told["ahead"]) == (1 + 1 + 3, 3)  # what is asked for; now, and what comes
        assert client.call("configurator/pause") == "task far is paused"
        client.wait(lambda: client.status["mode"] == 0 and client.status["in_force"], "a pause")
        before = len(asked)
        client.spin(1.0)
        assert len(asked) == before and client.progress["ahead"] == []
        with pytest.raises(ValueError, match="levels is 3, expected one of"):
            client.set_task(f"name: far\nlevels: 3\n{REACH}goal: {{position: {goal}}}")


def test_a_sequence_goes_on_after_the_configurator_died(start):
    with start(model="reach_panda") as (client, group):
        client.wait_until_ready()
        client.set_task("patrol")
        client.wait(lambda: client.progress["done"][:1] == ["left"], "the first place", 60)
        seen = progress_of(client)
        group.processes["configurator"].send_signal(signal.SIGKILL)
        client.wait(lambda: client.progress["state"] == "succeeded", "the rest", 120)
        assert ("running", "left") not in seen


def test_tasks_that_rain_down_end_in_the_last(start):
    with start(model="reach_panda", simulator="realtime") as (client, _):
        client.wait_until_ready()
        publisher = client.node.create_publisher(String, "task", 5)
        client.wait(publisher.get_subscription_count, "the configurator")
        for number in range(200):
            place = [0.5, 0.1 if number % 2 else -0.1, 0.3]
            text = f"name: task_{number}\n{REACH}goal: {{position: {place}}}"
            publisher.publish(String(data=text))
            until = time.monotonic() + 0.01
            while time.monotonic() < until:
                client.spin(0.002)
        client.wait(
            lambda: client.status["task"] == "task_199" and client.status["in_force"], "the last"
        )
        client.wait(lambda: client.safety_state.message == "following", "the arm to follow")
