"""`jepa-robot task`: gives a running agent a task, or controls the one that it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import typer

from jepa_robot import graph
from jepa_robot.modules.execution import CONTROLS, FAILED, PAUSED, RUNNING
from jepa_robot.modules.tasks import load_task
from jepa_robot.robot.contract import load_contract

ENDLESS = 10 * 365 * 24 * 3600.0  # s


def run_task(what: str, robot: str, namespace: str, follow: bool) -> None:
    """Give a task and follow it to its end; a line where something changes.

    Args:
        what: one of `CONTROLS`, or a task: a name, a file or YAML.
        robot: whose agent it is.
        namespace: of the agent.
        follow: whether to wait for the end of a task that has one.

    Raises:
        ValueError: it is refused, or failed; with the agent's words.
    """
    has_end, name = False, ""
    if what not in CONTROLS:
        task = load_task(what)
        name = task.name
        has_end = all(part.success for part in task.each())
        if Path(what).is_file():
            what = str(Path(what).resolve())  # the agent runs in another folder
    os.environ.update(graph.environment())
    from jepa_robot.nodes.client import AgentClient

    with AgentClient(load_contract(robot), namespace) as client:
        if what in CONTROLS:
            typer.echo(client.call(f"configurator/{what}"))
            return
        client.set_task(what)
        client.wait(lambda: client.progress.get("task") == name, "the agent's progress")
        told = ""

        def is_over() -> bool:
            nonlocal told
            line = _line(client.progress)
            if line != told:
                told = line
                typer.echo(line)
            return not has_end or not follow or client.progress["state"] not in (RUNNING, PAUSED)

        client.wait(is_over, "the task to end", ENDLESS)
        if client.progress["state"] == FAILED:
            raise ValueError(client.progress["reason"])


def _line(progress: Mapping) -> str:
    """What is under way, without what changes all the time."""
    where = f" at {progress['subgoal']}" if progress["subgoal"] else ""
    done = f", {len(progress['done'])} of {len(progress['done'] + progress['left'])} done"
    tried = f", after {', '.join(progress['tried'])}" if progress["tried"] else ""
    held = f"; the arm is held: {progress['held']}" if progress["held"] else ""
    return f"{progress['task']} is {progress['state']}{where}{done}{tried}{held}"
