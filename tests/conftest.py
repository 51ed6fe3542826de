"""Shared fixtures. Every test that opens a ROS graph takes a ROS domain of its own."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

import pytest
import torch

from jepa_robot import graph
from jepa_robot.learning import intrinsic_graphs
from jepa_robot.robot.contract import load_contract
from tests.tiny_bundle import build

os.environ.update(graph.environment(local_only=True))
os.environ["ROS_HOME"] = tempfile.mkdtemp(prefix="jepa_robot_ros_home_")
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
DOMAINS = itertools.count(25 * WORKER + os.getpid() % 25)


@pytest.fixture(scope="session")
def contract():
    return load_contract("panda")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, contract) -> Path:
    """The folder of a bundle of a few matrices that fits the Panda."""
    return build(tmp_path_factory.mktemp("models") / "tiny", contract)


@pytest.fixture(scope="session")
def milder(tmp_path_factory, contract) -> Path:
    """The folder of a bundle in whose fused graphs effort costs half of what it does."""
    weights = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0])
    return _with_other_terms(tmp_path_factory, contract, "comfort", weights)


@pytest.fixture(scope="session")
def flat(tmp_path_factory, contract) -> Path:
    """The folder of a bundle in whose fused graphs links may touch each other."""
    weights = torch.tensor([0.0, 1.0, 1.0])
    return _with_other_terms(tmp_path_factory, contract, "clearance", weights)


def _with_other_terms(factory, contract, name: str, weights: torch.Tensor) -> Path:
    function = getattr(intrinsic_graphs, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intrinsic_graphs, name, lambda *given: function(*given) * weights)
        intrinsic_graphs.intrinsic_graphs.cache_clear()
        path = build(factory.mktemp("models") / name, contract, name=name)
    intrinsic_graphs.intrinsic_graphs.cache_clear()
    return path


@pytest.fixture
def domain(monkeypatch) -> int:
    """A ROS domain that no other test of this run uses."""
    number = 1 + next(DOMAINS) % 100
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    return number
