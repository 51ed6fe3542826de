"""What memory holds, on disk: whole at any time, bounded, and refused by name where it is wrong."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jepa_robot.models import Bundle
from jepa_robot.modules.memory import FIELDS, Memory
from jepa_robot.modules.memory_files import (
    PART,
    MemoryFiles,
    MemoryTaken,
    part_files,
    read_memory,
)
from tests.tiny_bundle import build

NO_LIMIT = 1 << 40


@pytest.fixture(scope="module")
def bundle(tiny):
    return Bundle(tiny)


def sizes(bundle):
    widths = {"action": bundle.action_size, "cost": len(bundle.terms), "surprise": 1}
    return {**dict.fromkeys(FIELDS, bundle.state_size), **widths}


def episode(bundle, begin, count, number=1):
    """Steps whose fields are their number."""
    rows = np.arange(begin, begin + count)
    fields = {
        name: np.repeat(rows[:, None], size, axis=1).astype(np.float32)
        for name, size in sizes(bundle).items()
    }
    step = round(1e9 * bundle.manifest["time_step"])
    return {"stamp": rows * step, "episode": np.full(count, number), **fields}


def write(folder, bundle, *additions, limit=NO_LIMIT):
    files = MemoryFiles(folder, bundle, limit)
    for addition in additions:
        files.add(addition)
    files.close()


def numbers(remembered):
    return [found["state"][:, 0].astype(int).tolist() for found in remembered.episodes]


def test_what_was_added_is_read_whole_and_episodes_go_on_from_file_to_file(tmp_path, bundle):
    write(tmp_path, bundle, episode(bundle, 0, 10), episode(bundle, 10, PART))
    write(tmp_path, bundle, episode(bundle, 5000, 7, 2), episode(bundle, 6000, 3, 3))
    assert len(part_files(tmp_path)) == 3
    found = read_memory(tmp_path, bundle)
    assert numbers(found) == [list(range(10 + PART)), [*range(5000, 5007)], [6000, 6001, 6002]]
    assert not found.problems
    for name, size in sizes(bundle).items():
        assert found.episodes[0][name].shape == (10 + PART, size)
    assert numbers(read_memory(tmp_path, bundle, newest=5)) == numbers(found)[1:]


def test_memory_takes_up_where_it_was(tmp_path, bundle):
    write(tmp_path, bundle, episode(bundle, 0, 5), episode(bundle, 100, 5, 2))
    memory = Memory(100, sizes(bundle), bundle.manifest["time_step"])
    memory.restore(read_memory(tmp_path, bundle).episodes)
    assert memory.steps()["episode"].tolist() == [1] * 5 + [2] * 5
    later = episode(bundle, 105, 1)
    for name in FIELDS:
        memory.store(int(later["stamp"][0]), name, later[name])
    assert memory.steps(since=10)["episode"].tolist() == [3]  # nobody knows what was in between


def test_other_programs_read_the_layout(tmp_path, bundle):
    import h5py

    write(tmp_path, bundle, episode(bundle, 0, 4), episode(bundle, 50, 3, 2))
    with h5py.File(part_files(tmp_path)[0]) as file:
        assert file["ep_len"][:].tolist() == [4, 3] and file["ep_offset"][:].tolist() == [0, 4]
        assert file["state"].shape == (7, bundle.state_size)


WRITER = f"""
import sys
from pathlib import Path

sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from jepa_robot.models import Bundle
from jepa_robot.modules.memory_files import MemoryFiles
from tests.test_memory_files import episode

bundle = Bundle(sys.argv[1])
files = MemoryFiles(Path(sys.argv[2]), bundle, 1 << 40)
for number in range(10_000):
    files.add(episode(bundle, 20 * number, 20))
    print(20 * number + 20, flush=True)
"""


def test_who_is_killed_while_writing_loses_nothing_that_was_added(tmp_path, bundle, tiny):
    script, folder = tmp_path / "writer.py", tmp_path / "memory"
    script.write_text(WRITER)
    command = [sys.executable, script, tiny, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        told = [int(writer.stdout.readline()) for _ in range(70)]
        writer.send_signal(signal.SIGKILL)
        told += [int(line) for line in writer.stdout]
    found = read_memory(folder, bundle)
    (steps,) = numbers(found)
    assert steps == list(range(len(steps))) and len(steps) >= told[-1] and not found.problems
    write(folder, bundle, episode(bundle, len(steps), 1))  # its lock went with it
    assert len(numbers(read_memory(folder, bundle))[0]) == len(steps) + 1


def test_the_oldest_files_go_beyond_the_limit(tmp_path, bundle):
    write(tmp_path, bundle, episode(bundle, 0, PART))
    size = part_files(tmp_path)[0].stat().st_size
    write(tmp_path, bundle, episode(bundle, PART, 4 * PART), limit=int(2.5 * size))
    assert len(part_files(tmp_path)) <= 3
    assert numbers(read_memory(tmp_path, bundle))[0][-1] == 5 * PART - 1


def test_a_second_writer_is_refused_and_names_the_first(tmp_path, bundle):
    files = MemoryFiles(tmp_path, bundle, NO_LIMIT)
    with pytest.raises(MemoryTaken, match=f"process {os.getpid()} writes"):
        MemoryFiles(tmp_path, bundle, NO_LIMIT)
    files.close()


def test_a_full_disk_loses_nothing_and_what_came_is_written_later(tmp_path, bundle):
    files = MemoryFiles(tmp_path, bundle, NO_LIMIT)
    files.add(episode(bundle, 0, 10))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match="File too large"):
            files.add(episode(bundle, 10, 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert numbers(read_memory(tmp_path, bundle)) == [list(range(10))]
    files.add(episode(bundle, 20, 10))
    files.close()
    assert numbers(read_memory(tmp_path, bundle)) == [list(range(30))]


def test_files_that_are_wrong_are_named_and_the_others_are_read(tmp_path, bundle, contract):
    write(tmp_path, bundle, episode(bundle, 0, 5))
    for number in (5, 10, 15):
        write(tmp_path, bundle, episode(bundle, number, 5))
    _, cut, empty, last = part_files(tmp_path)
    cut.write_bytes(cut.read_bytes()[:3000])
    empty.write_bytes(b"")
    found = read_memory(tmp_path, bundle)
    assert numbers(found) == [[*range(5)], [*range(15, 20)]]
    assert len(found.problems) == 2
    for path, problem in zip((empty, cut), found.problems, strict=True):
        assert str(path) in problem and "expected a whole HDF5 file" in problem
    other = build(tmp_path / "other", contract, name="other")
    foreign = Bundle(other)
    foreign.manifest["files"]["encoder.onnx"] = "0123456789"
    found = read_memory(tmp_path, foreign)
    assert not found.episodes
    assert f"{last}: is of latent space {bundle.space!r} (bundle {bundle.id})" in found.problems[0]
    assert "expected '01234567' (bundle other-" in found.problems[0]
