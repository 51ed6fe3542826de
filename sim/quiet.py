"""Hides what PyBullet's C++ side prints on its own account."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

STANDARD_STREAMS = (1, 2)  # file descriptors of output and error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing reaches standard output or error; exceptions pass."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(stream) for stream in STANDARD_STREAMS]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in STANDARD_STREAMS:
            os.dup2(null, stream)
        yield
    finally:
        for stream, copy in zip(STANDARD_STREAMS, saved, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
        os.close(null)
