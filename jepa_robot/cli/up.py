"""`jepa-robot up`: the list of nodes as processes, kept up until Ctrl-C."""

from __future__ import annotations

import signal
import time

import typer

from jepa_robot.graph import Settings
from jepa_robot.models import Bundle
from jepa_robot.modules.configurator import load_task
from jepa_robot.processes import ProcessGroup
from jepa_robot.robot.contract import load_contract

WATCH_PERIOD = 0.1  # s


def check(settings: Settings) -> None:
    """Refuse what cannot work before anything is started.

    Raises:
        ValueError, FileNotFoundError: names the contract, bundle or task and what was expected.
    """
    contract = load_contract(settings.robot)
    Bundle(settings.model).check_fits(contract)
    if settings.task:
        load_task(settings.task)


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
