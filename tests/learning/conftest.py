"""One small dataset, collected once."""

import pytest
import torch

from jepa_robot.dataset import open_dataset
from jepa_robot.robot.contract import load_contract
from jepa_robot_sim.collect import ArmSource, collect


@pytest.fixture(scope="session")
def contract():
    return load_contract("panda")


@pytest.fixture(scope="session")
def data_file(contract, tmp_path_factory):
    file = tmp_path_factory.mktemp("learning") / "data.h5"
    collect(ArmSource(contract), file, transitions=2000, seed=7, processes=2)
    return file


@pytest.fixture(scope="session")
def data(data_file):
    return open_dataset(data_file)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Before any fixture trains: two threads on busy cores spend their time waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
