"""What a running agent says is recorded into a bag, and comes back as a recording."""

import subprocess
import sys

import numpy as np

from jepa_robot.bags import read_bag
from jepa_robot.dataset import open_dataset
from jepa_robot.importing import import_bags


def test_a_running_agent_is_recorded_and_imported(start, contract, tmp_path):
    bag = tmp_path / "bag"
    with start(simulator="realtime") as (client, _):
        client.wait_until_ready()
        client.set_goal_position((0.5, 0.1, 0.3))
        client.wait(lambda: client.answered_at, "the arm to follow")
        code = "from jepa_robot.cli.main import main; main()"
        command = [sys.executable, "-c", code, "record", str(bag), "--seconds", "6"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "/joint_states" in done.stdout
    assert again.returncode == 1 and "exists, expected the name of a new bag" in again.stderr
    segment = read_bag(bag, contract, (64, 64)).segments[0]
    assert len(segment.actions.stamps) > 10 and len(segment.joints.stamps) > 50
    done = import_bags([bag], tmp_path / "data.h5", contract)
    assert done.actions == {"action"} and done.frames > 20
    data = open_dataset(tmp_path / "data.h5", contract.interface())
    assert np.ptp(data.images(data.rows[:1])) > 50


def test_a_recorder_that_is_killed_leaves_what_it_had(start, contract, tmp_path):
    bag = tmp_path / "bag"
    with start(simulator="realtime") as (client, _):
        client.wait_until_ready()
        code = "from jepa_robot.cli.main import main; main()"
        recorder = subprocess.Popen([sys.executable, "-c", code, "record", str(bag)])
        client.wait(lambda: any(f.stat().st_size > 3e6 for f in bag.glob("*.mcap")), "a bag", 60.0)
        recorder.kill()
        recorder.wait()
    assert not (bag / "metadata.yaml").exists()
    done = import_bags([bag], tmp_path / "data.h5", contract)
    assert done.frames > 20 and any("is cut off" in problem for problem in done.problems)


def test_nobody_to_record_is_told(domain, tmp_path):
    code = "from jepa_robot.cli.main import main; main()"
    command = [sys.executable, "-c", code, "record", str(tmp_path / "bag"), "--seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "nothing came, expected a running robot" in done.stderr
