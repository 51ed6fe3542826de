"""`jepa-robot preview`: what a contract makes of an arm, as a table and a picture."""

from __future__ import annotations

from pathlib import Path

import typer

from jepa_robot.robot.contract import load_contract
from jepa_robot.robot.limiter import NEAR_SINGULAR
from jepa_robot_sim.preview import draw, poses

REACHED = 0.005  # m


def run_preview(robot: str, picture: Path) -> None:
    """Print home and the workspace's corners, and draw what the cameras see of them.

    Raises:
        ValueError: a contract that cannot be used, or a corner that cannot be reached.
    """
    contract = load_contract(robot)
    found = poses(contract)
    typer.echo(f"{contract.name}: {contract.ee_frame} in {contract.base_frame}, m")
    typer.echo(f"{'':<9} {'x, y, z':<23} {'missed by':>9} {'singular':>9}  nearest bodies")
    for pose in found:
        where = " ".join(f"{value:7.3f}" for value in pose.wanted)
        near = f"{pose.nearest} {pose.clearance:.3f}"
        typer.echo(f"{pose.name:<9} {where:<23} {pose.error:9.3f} {pose.singular:9.3f}  {near}")
    draw(contract, found, picture)
    typer.echo(f"{picture}: home, the lowest and the highest corner; a column a camera")
    damped = [pose.name for pose in found if pose.singular < NEAR_SINGULAR]
    if damped:
        typer.echo(f"slow, as singular values below {NEAR_SINGULAR:g} are: {', '.join(damped)}")
    missed = [pose.name for pose in found if pose.error > REACHED]
    if missed:
        raise contract.invalid(
            "workspace", f"workspace has {', '.join(missed)} out of reach, expected a smaller box"
        )
