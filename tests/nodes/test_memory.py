"""The memory node: what it keeps through a kill, and what it answers when it is asked."""

import signal

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image

from jepa_robot.models import Bundle
from jepa_robot.modules.memory_files import MemoryFiles, part_files, read_memory
from jepa_robot.nodes import messages
from jepa_robot.nodes.messages import DATA, EVERY_ONE

GOAL = (0.5, 0.1, 0.3)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "remembered"


@pytest.fixture
def remembering(start, tmp_path, folder):
    """Start a graph in real time whose memory writes into a folder."""

    def run(**parameters):
        told = {"folder": str(folder), **parameters}
        inside = ", ".join(f"{name}: {value}" for name, value in told.items())
        params = tmp_path / "params.yaml"
        params.write_text(f"memory: {{ros__parameters: {{{inside}}}}}")
        return start(simulator="realtime", params_file=str(params))

    return run


def told(client, name):
    status = client.diagnostics.get("/memory")
    values = {pair.key: pair.value for pair in status.values} if status else {}
    return int(values.get(name, 0))


def goes(client, steps):
    client.wait_until_ready()
    client.set_goal_position(GOAL)
    client.wait(lambda: told(client, "steps") > steps, "steps to be remembered")


def test_a_killed_memory_loses_a_second_at_most_and_goes_on_with_what_there_was(
    remembering, tiny, folder
):
    bundle = Bundle(tiny)
    with remembering() as (client, group):
        stamps = []
        client.listen(
            Image, "cost", lambda m: stamps.append(messages.from_time(m.header.stamp)), EVERY_ONE
        )
        goes(client, 40)
        last = stamps[-1]
        client.wait(lambda: stamps[-1] >= last + 10**9, "a second to pass")
        victim = group.processes["memory"]
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        found = read_memory(folder / bundle.space, bundle)
        assert found.episodes[-1]["stamp"][-1] >= last and not found.problems
        kept = sum(len(episode["stamp"]) for episode in found.episodes)
        more = kept + 40  # than the killed one can have told
        client.wait(lambda: told(client, "steps") > more, "it to go on", 60.0)
    again = read_memory(folder / bundle.space, bundle)
    stamps = np.concatenate([episode["stamp"] for episode in again.episodes])
    assert len(again.episodes) > len(found.episodes) and (np.diff(stamps) > 0).all()


def test_what_was_alike_is_recalled_with_what_followed(remembering, tiny):
    bundle = Bundle(tiny)
    with remembering(neighbours=4, following=3, disk_limit=0.0) as (client, _):
        states, answers = {}, []
        client.listen(
            Image,
            "state",
            lambda m: states.update({messages.from_time(m.header.stamp): m}),
            EVERY_ONE,
        )
        client.listen(Image, "recalled", answers.append, EVERY_ONE)
        goes(client, 30)
        asking = client.node.create_publisher(Image, "recall", DATA)
        client.wait(lambda: asking.get_subscription_count() > 0, "memory to listen")
        stamp = sorted(states)[10]
        state = messages.read_tensor(states[stamp], "state", bundle.state_size)
        asking.publish(messages.tensor_message(state, stamp, f"{bundle.id}#7"))
        client.wait(lambda: answers, "the answer")
        width = bundle.state_size + bundle.action_size
        answer = messages.read_tensor(answers[0], "recalled", 3 + 3 * width, 4)
        assert answers[0].header.frame_id == f"{bundle.id}#7"
        distances, ages, known = answer[:, :3].T
        assert distances[0] < 1e-3 and (np.diff(distances) >= 0).all()
        assert (ages > 0).all() and known.max() == 3
        steps = answer[:, 3:].reshape(4, 3, width)
        np.testing.assert_allclose(steps[0, 0, : bundle.state_size], state[0], atol=1e-5)
        assert not steps[known == 1][:, 1:].any()
        asking.publish(messages.tensor_message(state[:, :3], stamp, bundle.id))
        client.wait(
            lambda: "recall is 1x3" in client.message_of("memory"), "a wrong question's refusal"
        )


def test_memory_that_finds_no_place_on_disk_says_so_and_stays_in_ram(remembering, tiny, folder):
    bundle = Bundle(tiny)
    taken = MemoryFiles(folder / bundle.space, bundle, 1 << 30)
    with remembering() as (client, _):
        client.wait(
            lambda: "what is remembered stays in RAM" in client.message_of("memory"), "a warning"
        )
        assert client.diagnostics["/memory"].level == DiagnosticStatus.WARN
        goes(client, 20)
    taken.close()
    assert not part_files(folder / bundle.space)
