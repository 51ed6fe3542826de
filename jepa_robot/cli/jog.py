"""`jepa-robot jog` and `explore`: motion without an agent, through the safety stage."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import typer

from jepa_robot import graph
from jepa_robot.robot.contract import RobotContract, load_contract
from jepa_robot.robot.kinematics import Kinematics


def run_jog(robot: str, channel: str, speed: float, seconds: float, namespace: str) -> None:
    """Move, and print where hand and joints were before and after and what the safety stage said.

    Raises:
        ValueError: what cannot be done, before anything has moved; or an arm that did not follow,
            or was stopped.
        KeyboardInterrupt: it was ended by Ctrl-C, after the arm came to rest.
    """
    os.environ.update(graph.environment())
    from jepa_robot.nodes.jog import jog_action

    contract = load_contract(robot)
    action = jog_action(contract, channel, speed)
    unit = next(known.unit for known in contract.actions.channels if known.name == channel)
    what = f"{channel} at {speed:g} {unit} for {seconds:g} s"
    _move(contract, lambda joints: action, seconds, namespace, what)


def run_explore(robot: str, seconds: float, speed: float, seed: int, namespace: str) -> None:
    """Wander about in the workspace; prints and raises as `run_jog` does."""
    os.environ.update(graph.environment())
    from jepa_robot.robot.wandering import Wanderer

    contract = load_contract(robot)
    wanderer = Wanderer(contract, seed, speed)
    _move(contract, wanderer, seconds, namespace, f"wandering for {seconds:g} s")


def _move(
    contract: RobotContract,
    motion: Callable[[np.ndarray], np.ndarray],
    seconds: float,
    namespace: str,
    what: str,
) -> None:
    from jepa_robot.nodes.client import AgentClient
    from jepa_robot.nodes.jog import Jogger

    kinematics = Kinematics(contract)
    typer.echo(f"{contract.name}: {what}, then hold")
    with AgentClient(contract, namespace) as client:
        jogged = Jogger(client).run(motion, seconds)
    _show(contract, kinematics, jogged.before, jogged.after, jogged.gripper)
    typer.echo(f"safety   {', then '.join(jogged.said)}")
    typer.echo(f"limited  by {', '.join(jogged.limited) or 'nothing'}")
    if jogged.is_stopped:
        raise ValueError(f"the safety stage stopped the arm: {jogged.said[-1]}")
    if jogged.is_interrupted:
        raise KeyboardInterrupt


def _show(
    contract: RobotContract,
    kinematics: Kinematics,
    before: np.ndarray,
    after: np.ndarray,
    gripper: tuple[float | None, float | None],
) -> None:
    hands = [kinematics.pose(joints)[0] for joints in (before, after)]
    _row("", "hand x, y, z in m", "joints in rad")
    _row("before", _numbers(hands[0], 4), _numbers(before, 3))
    _row("after", _numbers(hands[1], 4), _numbers(after, 3))
    _row("moved", _numbers(hands[1] - hands[0], 4), _numbers(after - before, 3))
    if None not in gripper:
        typer.echo(f"gripper  {gripper[0]:.4f} before, {gripper[1]:.4f} after")


def _row(name: str, hand: str, joints: str) -> None:
    typer.echo(f"{name:<8} {hand:<25}  {joints}")


def _numbers(values: np.ndarray, digits: int) -> str:
    return " ".join(f"{value + 0.0:{digits + 4}.{digits}f}" for value in values)
