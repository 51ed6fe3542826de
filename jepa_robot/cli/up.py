"""`jepa-robot up`: the list of nodes as processes, kept up until Ctrl-C."""

from __future__ import annotations

import signal
import time

import typer

from jepa_robot import graph
from jepa_robot.graph import Settings
from jepa_robot.processes import ProcessGroup

WATCH_PERIOD = 0.1  # s


def run_up(settings: Settings, checks_first: bool = False) -> None:
    """Start the nodes and watch over them until SIGINT or SIGTERM, or until the simulator ends.

    Raises:
        ValueError: what cannot work, or, if it ``checks_first``, a robot that is not as the
            contract says. Nothing is started then.
    """
    graph.check(settings)
    if checks_first:
        _check_robot(settings)
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


def _check_robot(settings: Settings) -> None:
    from jepa_robot.cli.check import run_check

    if settings.simulator:
        raise ValueError("--check is for a robot that is up, expected it without --sim")
    passed = run_check(
        settings.robot,
        settings.model,
        settings.namespace,
        use_sim_time=settings.use_sim_time,
    )
    if not passed:
        raise ValueError("the robot is not as the contract says, nothing was started")
