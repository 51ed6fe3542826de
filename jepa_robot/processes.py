"""Runs the list of nodes as processes without a launch system: `jepa-robot up`, demos and tests."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

from jepa_robot import graph
from jepa_robot.graph import NodeSpec, Settings

GRACE = 5.0  # s from one signal to the next harder one
RESPAWN_DELAY = 0.1  # s
PR_SET_PDEATHSIG = 1
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux has it
NEW = 5.0  # s: locks younger than this may not be held yet


class ProcessGroup:
    """The processes of a graph. A context manager: leaving it ends them all.

    Args:
        settings: which nodes, with which parameters.
        logs: a folder for one log file a node; None lets them print.
        environment: variables in addition to this process's.
    """

    def __init__(
        self,
        settings: Settings,
        logs: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._settings, self._logs = settings, logs
        ours = {**graph.environment(), **graph.session()}
        self._environment = {**os.environ, **ours, **(environment or {})}
        self.specs = {spec.name: spec for spec in graph.node_list(settings)}
        self.processes: dict[str, subprocess.Popen] = {}
        self._respawn_at: dict[str, float] = {}

    def __enter__(self) -> ProcessGroup:
        if self._logs:
            self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for spec in self.specs.values():
                self._start(spec)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def watch(self) -> list[str]:
        """Respawn what died. Call it now and then.

        Returns:
            A sentence for each process that was found dead.
        """
        told, now = [], time.monotonic()
        for name, process in self.processes.items():
            if process.poll() is not None and name not in self._respawn_at:
                spec = self.specs[name]
                told.append(
                    f"{name} ended with {process.returncode}"
                    + (", starting it again" if spec.respawn else "")
                )
                self._respawn_at[name] = now + RESPAWN_DELAY if spec.respawn else float("inf")
        if told:
            free_shared_memory()
        for name, due in list(self._respawn_at.items()):
            if now >= due:
                del self._respawn_at[name]
                self._start(self.specs[name])
        return told

    @property
    def ended(self) -> list[str]:
        """Names of required processes that ended, or of all once none is left to wait for."""
        names = [
            name
            for name, process in self.processes.items()
            if process.poll() is not None and not self.specs[name].respawn
        ]
        required = [name for name in names if self.specs[name].is_required]
        return names if len(names) == len(self.processes) else required

    def close(self) -> None:
        """End all processes: politely, then less so."""
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            alive = [p for p in self.processes.values() if p.poll() is None]
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(kind)
            deadline = time.monotonic() + GRACE
            for process in alive:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline - time.monotonic(), 0.01))
        free_shared_memory()

    def _start(self, spec: NodeSpec) -> None:
        output = subprocess.DEVNULL
        with contextlib.ExitStack() as stack:
            if self._logs:
                output = stack.enter_context((self._logs / f"{spec.name}.log").open("ab"))
            self.processes[spec.name] = subprocess.Popen(
                graph.command(spec, self._settings),
                stdin=subprocess.DEVNULL,
                stdout=output if self._logs else None,
                stderr=subprocess.STDOUT if self._logs else None,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for us; we pass it on
                preexec_fn=prepare_child,
            )


def free_shared_memory() -> None:
    """Remove what killed processes left of Fast DDS's shared memory, 20 MB and more a process.

    A segment's owner holds the lock of the file beside it for as long as it lives.
    """
    for lock in SHARED_MEMORY.glob(f"fastdds_{'[0-9a-f]' * 16}_el"):
        with contextlib.suppress(OSError), lock.open() as file:
            if time.time() - lock.stat().st_mtime > NEW:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
                lock.unlink()


def prepare_child() -> None:
    """No node outlives a supervisor that was killed (Linux), and none is deaf to SIGINT.

    A shell makes what it starts in the background ignore SIGINT, and children inherit that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
