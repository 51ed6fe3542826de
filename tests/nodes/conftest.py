"""Real nodes in real processes, on a ROS domain of their own."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager

import pytest

from jepa_robot.graph import Settings
from jepa_robot.nodes.client import AgentClient, AgentTimeout
from jepa_robot.processes import ProcessGroup

LOG_LINES = 40  # of each process, where one did not do what was waited for


def said(group, logs) -> str:
    """The end of every log, with where each thread of the process is now."""
    deadline, ends = time.monotonic() + 5, []
    for name, process in group.processes.items():
        log = logs / f"{name}.log"
        if process.poll() is None:
            process.send_signal(signal.SIGUSR1)
            while "most recent call" not in log.read_text(errors="replace"):
                if time.monotonic() > deadline:
                    break
        lines = log.read_text(errors="replace").splitlines()
        ends += [f"{name} (ended with {process.poll()}):", *lines[-LOG_LINES:]]
    return "\n".join(ends)


@pytest.fixture
def start(domain, contract, tiny, tmp_path):
    """Start a graph: ``with start(simulator=...) as (client, group)``; its logs in tmp_path."""

    @contextmanager
    def run(**settings):
        settings = Settings(**{"model": str(tiny), "simulator": "lockstep", **settings})
        group = ProcessGroup(settings, tmp_path / "logs")
        with group, AgentClient(contract, settings.namespace, group.watch) as client:
            try:
                yield client, group
            except AgentTimeout as error:
                error.add_note(said(group, tmp_path / "logs"))
                raise

    return run
