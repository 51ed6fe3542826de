"""Robots that are not as a contract says: copies of the Panda's contract, and the fake robot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jepa_robot import resources

NODE = "arm_controller"
# Slow enough for a busy computer to keep.
CALM = (
    ("  topic: command\n", f"  topic: {NODE}/commands\n"),
    ("{image: 20, joint_states: 100, safety: 250}", "{image: 10, joint_states: 20, safety: 50}"),
    ("{joint_states: 0.1, action: 0.3}", "{joint_states: 1.0, action: 2.0}"),
)


def write_contract(path: Path, *changes: tuple[str, str]) -> Path:
    """The Panda's contract, calm, with a controller node, and with texts in place of others."""
    text = resources.find("config/robots", "panda", ".yaml").read_text()
    for old, new in (*CALM, *changes):
        assert old in text, f"{old!r} is not in the contract"
        text = text.replace(old, new)
    path.write_text(text)
    return path


@contextmanager
def fake_robot(contract: Path, *arguments: str, **parameters: object) -> Iterator[subprocess.Popen]:
    """The fake robot of a contract, in a process. ``arguments`` follow ``--ros-args``."""
    command = [sys.executable, "-m", "jepa_robot_sim.fake_robot", "--ros-args", *arguments]
    for name, value in {"robot": str(contract), **parameters}.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
