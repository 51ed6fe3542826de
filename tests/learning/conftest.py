"""One small dataset, collected once."""

import pytest
import torch

from jepa_robot.learning.dataset import load_dataset
from jepa_robot.robot.contract import load_contract
from jepa_robot_sim.collect import collect


@pytest.fixture(scope="session")
def contract():
    return load_contract("panda")


@pytest.fixture(scope="session")
def data_folder(contract, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning") / "data"
    collect(contract, folder, transitions=2000, seed=7, processes=2)
    return folder


@pytest.fixture(scope="session")
def data(data_folder):
    return load_dataset(data_folder)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Before any fixture trains: two threads on busy cores spend their time waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
