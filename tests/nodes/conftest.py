"""Real nodes in real processes, on a ROS domain of their own."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from jepa_robot.graph import Settings
from jepa_robot.nodes.client import AgentClient
from jepa_robot.processes import ProcessGroup


@pytest.fixture
def start(domain, contract, tiny, tmp_path):
    """Start a graph: ``with start(simulator=...) as (client, group)``; its logs in tmp_path."""

    @contextmanager
    def run(**settings):
        settings = Settings(**{"model": str(tiny), "simulator": "lockstep", **settings})
        group = ProcessGroup(settings, tmp_path / "logs")
        with group, AgentClient(contract, settings.namespace, group.watch) as client:
            yield client, group

    return run
