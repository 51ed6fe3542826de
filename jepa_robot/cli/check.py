"""`jepa-robot check`: contract, bundle and running robot side by side, before anything moves."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jepa_robot import graph
from jepa_robot.robot.contract import RobotContract, load_contract
from jepa_robot.robot.seen import FAIL, NOTE, PASS, SKIP, WARN, Finding, Seen

LOOKS = {
    PASS: ("pass", "green"),
    NOTE: ("note", "cyan"),
    WARN: ("WARN", "yellow"),
    FAIL: ("FAIL", "bold red"),
    SKIP: ("skip", "dim"),
}
NARROWEST = 120  # columns where the output is no terminal


def run_check(
    robot: str,
    bundle: str,
    namespace: str = "",
    timeout: float = 5.0,
    use_sim_time: bool = False,
    json_file: Path | None = None,
) -> bool:
    """Print the table; whether nothing failed."""
    findings, contract = check_files(robot, bundle)
    if contract is not None:
        os.environ.update(graph.environment())
        from jepa_robot.nodes.check import observe
        from jepa_robot.robot.checks import check_running

        seen = observe(contract, namespace, timeout, use_sim_time)
        if bundle and not any(finding.status == FAIL for finding in findings):
            measure_views(bundle, seen)
        findings += check_running(contract, seen)
    show(findings, robot)
    passed = not any(finding.status == FAIL for finding in findings)
    if json_file is not None:
        write(findings, passed, json_file)
    return passed


def check_files(robot: str, bundle: str) -> tuple[list[Finding], RobotContract | None]:
    """The rows that need no robot, and the contract if it can be used."""
    from jepa_robot.robot.checks import question_limits
    from jepa_robot.robot.collision import Clearance
    from jepa_robot.robot.kinematics import Kinematics

    correct = "correct the file there; docs/reference/contract.md lists the fields"
    try:
        contract = load_contract(robot)
    except (ValueError, OSError) as error:
        return [Finding("contract", FAIL, str(error), correct)], None
    rows = [Finding("contract", PASS, f"{contract.name}, {contract.source}")]
    try:
        clearance = Clearance(contract, Kinematics(contract))
    except (ValueError, OSError) as error:
        return [*rows, Finding("URDF and obstacles", FAIL, str(error), correct)], None
    names = ", ".join(obstacle.name for obstacle in contract.safety.obstacles) or "none"
    found = f"{len(contract.joints)} joints; obstacles: {names}; {clearance.size} pairs kept apart"
    rows.append(Finding("URDF and obstacles", PASS, found))
    return [*rows, question_limits(contract), _check_bundle(contract, bundle)], contract


def _check_bundle(contract: RobotContract, name: str) -> Finding:
    if not name:
        return Finding("bundle", SKIP, "none was given")
    from jepa_robot.models import Bundle

    try:
        bundle = Bundle(name)
        bundle.check_fits(contract)
    except (ValueError, OSError) as error:
        todo = "name a bundle that was trained for this contract, or train one"
        return Finding("bundle", FAIL, str(error), todo)
    return Finding("bundle", PASS, f"{bundle.id} fits {contract.name}")


def measure_views(bundle: str, seen: Seen) -> None:
    """How far the pictures are from those that the bundle's encoder was trained on."""
    from jepa_robot.models import Bundle
    from jepa_robot.modules.views import Views

    views, cameras = Views(Bundle(bundle)), seen.cameras
    pictures = [camera.picture for camera in cameras.values()]
    if not views.are_told or any(picture is None for picture in pictures):
        return
    for name, distance in views.distances(pictures).items():
        cameras[name].distance = distance


def show(findings: list[Finding], robot: str) -> None:
    """The table, and a sentence."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    table = Table(title=f"jepa-robot check: {robot}", title_justify="left", show_lines=False)
    for column in ("", "what", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        word, style = LOOKS[finding.status]
        table.add_row(f"[{style}]{word}[/]", finding.name, finding.found, finding.todo)
    console.print(table)
    counts = {status: sum(f.status == status for f in findings) for status in LOOKS}
    if counts[FAIL]:
        console.print(f"{counts[FAIL]} failed: do not move this robot yet.", style="bold red")
    else:
        warned = f", {counts[WARN]} to look at" if counts[WARN] else ""
        console.print(f"Nothing failed{warned}.", style="green")


def write(findings: list[Finding], passed: bool, path: Path) -> None:
    import json

    from jepa_robot.files import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"passed": passed, "findings": [asdict(finding) for finding in findings]}
    write_atomically(path, json.dumps(result, indent=2) + "\n")
