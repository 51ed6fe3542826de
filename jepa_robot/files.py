"""Files that are whole or not there, and locks that go with their process."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import TextIO


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class IsLocked(RuntimeError):
    """Another process holds a lock; ``holder`` is its number."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path}: process {holder} holds it, expected none")
        self.holder = holder


def lock(path: Path) -> TextIO:
    """Lock a file, which is made if it is not there, until it is closed or this process ends.

    Raises:
        IsLocked: another process did.
        OSError: the folder cannot be written.
    """
    stream = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.seek(0)
        holder = stream.read().strip()
        stream.close()
        raise IsLocked(path, holder) from error
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()
