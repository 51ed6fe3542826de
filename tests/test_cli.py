"""The command: help, and errors in one sentence that say what was expected."""

import os
import subprocess
import sys

import pytest


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jepa_robot.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_help_names_the_commands_and_loads_nothing_heavy():
    code = (
        "import sys; from jepa_robot.cli.main import app;"
        "print([m for m in ('rclpy', 'numpy', 'torch', 'pybullet') if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
    shown = command("--help").stdout
    for name in ("collect", "train", "export", "evaluate", "up", "demo", "bench"):
        assert name in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evaluate", "--bundle", "no_such"], "'no_such' is neither a path nor one of models"),
        (["evaluate", "--robot", "r2d2"], "'r2d2' is neither a path nor one of config/robots"),
        (["evaluate", "--task", "fly", "--no-ros"], "'fly' is neither a path nor one of"),
        (["up", "--task", "fly"], "'fly' is neither a path nor one of config/tasks"),
        (["up", "--params-file", "no.yaml"], "params_file is 'no.yaml', expected"),
        (["bench", "nothing"], "benchmark is 'nothing', expected one of ['agent'"),
    ],
)
def test_an_error_is_one_sentence_without_a_traceback(arguments, says):
    result = command(*arguments)
    assert result.returncode == 1
    error = " ".join(result.stderr.split())
    assert error.startswith("Error: ") and says in error
    assert "Traceback" not in error


def test_two_evaluations_on_a_machine_have_domains_of_their_own(tmp_path):
    """Also where their process ids would give them the same: the second takes the next."""
    ask = (
        "import os, sys; os.getpid = lambda: 7;"
        "from jepa_robot.cli.evaluate import own_domain; own_domain();"
        "print(os.environ['ROS_DOMAIN_ID'], flush=True); sys.stdin.read()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    environment |= {"TMPDIR": str(tmp_path), "ROS_HOME": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    given = [sys.executable, "-c", ask]
    with (
        subprocess.Popen(given, env=environment, **pipes) as one,
        subprocess.Popen(given, env=environment, **pipes) as other,
    ):
        domains = {int(process.stdout.readline()) for process in (one, other)}
    assert domains == {8, 9}
    with subprocess.Popen(given, env=environment, **pipes) as again:
        assert int(again.stdout.readline()) == 8
