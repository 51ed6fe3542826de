"""`jepa-robot up`: the list of nodes as processes, kept up until Ctrl-C."""

from __future__ import annotations

import signal
import time

import typer

from jepa_robot.graph import Settings, check
from jepa_robot.processes import ProcessGroup

WATCH_PERIOD = 0.1  # s


def run_up(settings: Settings) -> None:
    """Start the nodes and watch over them until SIGINT or SIGTERM, or until the simulator ends."""
    check(settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProcessGroup(settings) as group:
        try:
            while not group.ended:
                for sentence in group.watch():
                    typer.secho(sentence, fg="yellow", err=True)
                time.sleep(WATCH_PERIOD)
        except KeyboardInterrupt:
            return
        raise ValueError(f"{', '.join(group.ended)} ended, expected it to run until Ctrl-C")
