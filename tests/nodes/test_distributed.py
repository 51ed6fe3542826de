"""Mode-2 spread over processes: the plans are the same, and what fails is told and made up for."""

import signal
from dataclasses import replace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image

from jepa_robot.evaluation import InProcessRunner, sample_episodes
from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import load_task, task_text
from jepa_robot.nodes import messages
from jepa_robot.nodes.evaluation import RosRunner
from jepa_robot.nodes.messages import DATA, EVERY_ONE
from jepa_robot_sim.arm import SimulatedArm

GOAL = (0.5, 0.1, 0.3)
PATIENT = "actor: {ros__parameters: {reply_timeout: 20.0}}"  # 1 s: a busy machine answers, too


@pytest.fixture
def spread(start, tmp_path):
    """Start a graph in real time whose actor asks, under a task with a goal."""

    def run():
        params = tmp_path / "params.yaml"
        params.write_text(PATIENT)
        return start(simulator="realtime", planning="distributed", params_file=str(params))

    return run


def goes(client):
    client.wait_until_ready()
    client.set_task(f"name: reach\nmode: 2\ngoal: {{position: {list(GOAL)}}}")


def told(client, name):
    """What the actor counts."""
    status = client.diagnostics.get("/actor")
    values = {pair.key: pair.value for pair in status.values} if status else {}
    return int(values.get(name, 0))


def wait_for_distributed_plans(client, what):
    """More plans, none of which is made by the actor alone."""
    before = {"plans": told(client, "plans"), "plans_local": told(client, "plans_local")}

    def more():
        nonlocal before
        if told(client, "plans_local") > before["plans_local"]:
            before = {name: told(client, name) for name in before}
        return told(client, "plans") > before["plans"] + 3

    client.wait(more, what, 60.0)


def listen(client, topic):
    came = []
    client.listen(Image, topic, came.append, EVERY_ONE)
    return came


def actions_of(runner, contract, episodes):
    camera_man = SimulatedArm(contract, scene=runner.judge.scene)
    try:
        for episode in episodes:
            camera_man.show_goal(episode)
            yield runner.run(episode, camera_man.images(), 0).actions
    finally:
        camera_man.close()


class Episodes:
    """Reaching in lock-step under Mode-2, the same for everyone."""

    def __init__(self, contract, tiny):
        self.contract, self.bundle = contract, Bundle(tiny)
        self.task = replace(load_task("reach"), mode=2)
        self.judge, self._episodes = sample_episodes(contract, "reach", 2, 3)
        self.decisions = 2 * self.judge.steps
        self.iterations = self.task.planner["iterations"]

    def in_process(self):
        args = (self.contract, self.bundle, self.task, self.judge, "2", "image")
        runner = InProcessRunner(*args)
        actions = list(actions_of(runner, self.contract, self._episodes))
        runner.close()
        return actions

    def through_ros(self, client):
        args = (client, self.bundle, self.judge, "2", "image", task_text(self.task))
        return list(actions_of(RosRunner(*args), self.contract, self._episodes))


LOCKSTEP = {"simulator": "lockstep", "paused": True, "planning": "distributed"}


def test_distributed_and_in_process_plans_give_the_same_actions(start, contract, tiny):
    episodes = Episodes(contract, tiny)
    with start(**LOCKSTEP) as (client, _):
        answers = listen(client, "candidate_costs")
        actions = episodes.through_ros(client)
        client.wait(lambda: told(client, "plans") >= episodes.decisions, "the count of plans")
        assert told(client, "plans_local") == 0
    assert len(answers) >= episodes.decisions * episodes.iterations
    np.testing.assert_allclose(actions, episodes.in_process(), atol=1e-4)


def test_in_lockstep_a_killed_node_changes_no_action(start, contract, tiny):
    episodes = Episodes(contract, tiny)
    with start(**LOCKSTEP) as (client, group):
        first, candidates = group.processes["world_model"], []

        def kill_once(message):
            candidates.append(message)
            if len(candidates) == episodes.decisions:  # somewhere on the way
                first.send_signal(signal.SIGKILL)

        client.listen(Image, "candidates", kill_once, EVERY_ONE)
        actions = episodes.through_ros(client)
        assert group.processes["world_model"] is not first
    np.testing.assert_allclose(actions, episodes.in_process(), atol=1e-4)


@pytest.mark.parametrize("victim", ["world_model", "cost"])
def test_without_a_killed_node_plans_are_made_locally_and_later_with_it(spread, victim):
    with spread() as (client, group):
        goes(client)
        wait_for_distributed_plans(client, "distributed plans")
        group.processes[victim].send_signal(signal.SIGSTOP)  # no answer, until it is killed
        client.wait(
            lambda: "plans are made here" in client.message_of("actor"), "the actor to say so"
        )
        assert client.diagnostics["/actor"].level == DiagnosticStatus.WARN
        local = told(client, "plans_local")
        client.wait(lambda: told(client, "plans_local") > local + 3, "local plans")
        client.wait(lambda: client.safety_state.level == DiagnosticStatus.OK, "the arm to follow")
        group.processes[victim].send_signal(signal.SIGKILL)
        wait_for_distributed_plans(client, "distributed plans again")
        client.wait(lambda: client.message_of("actor") == "active", "the actor to be content")
        assert told(client, "requests_timed_out") > 0


def test_an_answer_that_comes_too_late_is_counted_and_ignored(spread):
    with spread() as (client, _):
        answers = listen(client, "candidate_costs")
        goes(client)
        wait_for_distributed_plans(client, "distributed plans")
        slow = client.node.create_publisher(Image, "candidate_costs", DATA)
        client.wait(lambda: slow.get_subscription_count() > 1, "the actor and ourselves")
        late = told(client, "replies_late")
        slow.publish(answers[0])  # of a request that is long over
        client.wait(lambda: told(client, "replies_late") > late, "the late answer")
        wait_for_distributed_plans(client, "distributed plans after it")
        assert told(client, "replies_refused") == 0


def test_answers_that_are_wrong_are_refused_by_name_and_not_taken(spread, tiny):
    bundle = Bundle(tiny)
    with spread() as (client, _):
        goes(client)
        wait_for_distributed_plans(client, "distributed plans")
        rogue = client.node.create_publisher(Image, "candidate_costs", DATA)
        candidates = listen(client, "candidates")
        client.wait(lambda: rogue.get_subscription_count() > 0 and candidates, "the actor")
        rows, steps = candidates[-1].height, load_task("reach").planner["horizon"]
        for says, frame_id, shape, value in (
            ("candidate_costs answers request 1.rogue.1", "1.rogue.1", (rows, steps), 0.0),
            ("candidate_costs is of request 'me'", "me", (rows, steps), 0.0),
            (f"expected {rows}x{steps} 32FC1", None, (rows + 1, steps), 0.0),
            ("candidate_costs holds NaN", None, (rows, steps), np.nan),
        ):
            refused, sent = told(client, "replies_refused"), 0

            def intrudes(frame_id=frame_id, shape=shape, value=value, says=says):
                nonlocal sent
                if len(candidates) > sent:
                    sent, asked = len(candidates), candidates[-1].header.frame_id
                    frame = f"{bundle.id}#{frame_id}" if frame_id else asked
                    rogue.publish(messages.tensor_message(np.full(shape, value), 1, frame))
                return says in client.message_of("actor")

            client.wait(intrudes, f"the actor to say {says}", 60.0)
            client.wait(
                lambda refused=refused: told(client, "replies_refused") > refused, "the count"
            )
        other = messages.tensor_message(np.zeros((rows, steps)), 1, "other-12345678#1.rogue.1")
        rogue.publish(other)
        said = "candidate_costs is of bundle 'other-12345678', expected 'tiny-"
        client.wait(lambda: said in client.message_of("actor"), "the foreign bundle's refusal")
        wait_for_distributed_plans(client, "distributed plans after all")


def test_planners_that_need_gradients_are_refused_and_the_task_before_goes_on(spread):
    with spread() as (client, _):
        goes(client)
        wait_for_distributed_plans(client, "distributed plans")
        with pytest.raises(ValueError, match="'ilqr', which needs gradients: expected one of"):
            client.set_task(
                f"name: reach\nmode: 2\nplanner: {{name: ilqr}}\ngoal: {{position: {list(GOAL)}}}"
            )
        wait_for_distributed_plans(client, "distributed plans after the refusal")


def test_what_candidates_and_rollouts_may_be_is_checked(spread, tiny):
    bundle = Bundle(tiny)
    with spread() as (client, _):
        client.wait_until_ready()
        for topic, node, says in (
            ("candidates", "world_model", "candidates is 2x7 32FC1"),
            ("rollouts", "cost", "rollouts is 2x7 32FC1"),
        ):
            rogue = client.node.create_publisher(Image, topic, DATA)
            client.wait(lambda rogue=rogue: rogue.get_subscription_count() > 0, node)
            tensor = np.zeros((2, 7))
            rogue.publish(messages.tensor_message(tensor, 1, f"{bundle.id}#1.rogue.1"))
            client.wait(
                lambda node=node, says=says: says in client.message_of(node), f"{node}'s refusal"
            )
        columns = 2 * bundle.state_size + bundle.action_size
        rollouts = messages.tensor_message(np.zeros((2, columns)), 1, f"{bundle.id}#99.rogue.1")
        rogue.publish(rollouts)
        said = "rollouts are for configuration 99, expected one of [1]"
        client.wait(lambda: said in client.message_of("cost"), "the refusal of another task's")
