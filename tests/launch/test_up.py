"""`jepa-robot up --check`: the agent starts on the robot that the contract means, no other."""

import signal
import subprocess
import sys

import pytest

from jepa_robot.nodes.client import AgentClient
from jepa_robot.robot.contract import load_contract
from tests.tiny_bundle import build
from tests.wrong_robots import fake_robot, write_contract


@pytest.fixture
def robot(tmp_path):
    return write_contract(tmp_path / "robot.yaml")


def up(robot, tmp_path, *arguments):
    """The command line, with a bundle for the robot."""
    bundle = build(tmp_path / "tiny", load_contract(robot))
    command = [sys.executable, "-m", "jepa_robot.cli.main", "up", "--robot", str(robot), "--check"]
    return [*command, "--bundle", str(bundle), "--composition", "single", *arguments]


def test_up_checks_the_robot_and_then_drives_it(robot, domain, tmp_path):
    command = up(robot, tmp_path, "--dry-run")
    log = tmp_path / "up.log"
    with fake_robot(robot), log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            with AgentClient(load_contract(robot)) as client:
                client.wait_until_ready()
                client.wait(lambda: client.safety_state, "the safety stage")
                values = {value.key: value.value for value in client.safety_state.values}
                assert values["dry_run"] == "true"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert process.returncode == 0, log.read_text()
    assert "Nothing failed" in log.read_text()


def test_up_starts_nothing_on_another_robot(robot, domain, tmp_path):
    other = write_contract(tmp_path / "other.yaml", ("encoding: rgb8", "encoding: bgr8"))
    with fake_robot(other):
        result = subprocess.run(
            up(robot, tmp_path), capture_output=True, text=True, check=False, timeout=60
        )
    assert result.returncode == 1
    assert "images are 64x64 bgr8" in " ".join(result.stdout.split())
    assert result.stderr.strip().endswith(
        "Error: the robot is not as the contract says, nothing was started"
    )


def test_a_simulator_that_up_would_start_itself_cannot_be_checked_before(robot, tmp_path):
    command = up(robot, tmp_path, "--sim")
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert "--check is for a robot that is up, expected it without --sim" in result.stderr
