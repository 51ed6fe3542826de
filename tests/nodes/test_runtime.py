"""What every process of ours has."""

import signal
import subprocess
import sys

import pytest

RUNAWAY = """

from jepa_robot.nodes import runtime

def never_waits():
    while True:
        pass

runtime.RUNAWAY = 0.3
with runtime.ros():
    runtime.schedule(20)
    print(runtime.scheduling(), flush=True)
    never_waits()
"""


def test_a_real_time_thread_that_never_waits_ends_its_process_and_says_where_it_was(domain):
    ran = subprocess.run(
        [sys.executable, "-c", RUNAWAY], capture_output=True, text=True, timeout=60
    )
    if "real-time" not in ran.stdout:
        pytest.skip("this user may not run threads in real time")
    assert ran.returncode == -signal.SIGXCPU
    assert "in never_waits" in ran.stderr
