"""`jepa-robot demo`: the agent acts from camera images; a table and pictures at the end.

Reaching in real time; a task with an object in lock-step, which waits for slow machines.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from jepa_robot.cli.evaluate import own_domain
from jepa_robot.cli.pictures import draw_episode
from jepa_robot.cli.progress import progress
from jepa_robot.evaluation import EpisodeResult, sample_episodes
from jepa_robot.graph import Settings, check
from jepa_robot.models import Bundle
from jepa_robot.modules.actor import MODE_2
from jepa_robot.modules.tasks import load_task, task_text
from jepa_robot.robot.contract import RobotContract, load_contract
from jepa_robot_sim.arm import SimulatedArm
from jepa_robot_sim.episodes import Episode
from jepa_robot_sim.tasks import Reach, Task
from jepa_robot_sim.world import ArmWorld

if TYPE_CHECKING:
    from jepa_robot.cli.recorder import Run

SECONDS_PER_GOAL = 2.0
# Robot, bundle and goals a mode, by task.
DEMOS = {
    "reach": ("panda", "reach_panda", 8),
    "push": ("panda_push", "push_panda", 5),
    "pick_and_place": ("panda_table", "pick_panda", 5),
}
BY_POSITION = ("pick_and_place",)  # whose bundle reads goal images less well than it picks
MODES = {1: "Mode-1 (policy)", 2: "Mode-2 (planning)"}


def run_demo(robot: str, model: str, goals: int, seed: int, gui: bool, out: Path) -> None:
    """Start the graph, give it goal images in both modes, and show what happened.

    Raises:
        ValueError: a robot or bundle that does not fit.
        TimeoutError: the agent did not come up; what its nodes said is in the message.
    """
    settings = Settings(robot=robot, model=model, simulator="realtime", gui=gui)
    check(settings)
    contract, bundle = load_contract(robot), Bundle(model)
    own_domain()
    from diagnostic_msgs.msg import DiagnosticStatus

    from jepa_robot.cli.recorder import Recorder
    from jepa_robot.nodes.client import AgentClient
    from jepa_robot.processes import ProcessGroup

    judge, rng = Reach(contract), np.random.default_rng(seed)
    camera_man = SimulatedArm(contract)
    out.mkdir(parents=True, exist_ok=True)
    typer.echo(f"starting {len(ProcessGroup(settings).specs)} nodes; their logs go to {out}/logs")
    group = ProcessGroup(settings, out / "logs")
    runs: dict[int, list] = {mode: [] for mode in MODES}
    latencies, stops = {}, []
    with group, AgentClient(contract, watch=group.watch) as client:
        recorder = Recorder(client, bundle)
        client.wait_until_ready()
        place = np.array(recorder.wait_for_hand())
        with progress("reaching goals") as report:
            for mode in MODES:
                task = replace(load_task("reach"), mode=mode, seed=seed)
                client.set_task(task_text(task))
                recorder.clear()
                for _ in range(goals):
                    place = judge.sample_from(place, rng)
                    camera_man.reset(judge.joints_at(place))
                    client.set_goal_image(camera_man.images())
                    runs[mode].append(recorder.record(place, SECONDS_PER_GOAL))
                    if client.safety_state.level == DiagnosticStatus.ERROR:
                        stops.append(client.safety_state.message)
                        client.call("safety/release")
                    report(sum(map(len, runs.values())), goals * len(MODES))
                latencies[mode] = recorder.latencies()
    camera_man.close()
    console = Console()
    console.print(_results(runs, judge))
    console.print(_latencies(latencies))
    for stop in stops:
        console.print(
            f"the safety stage stopped the arm, which missed that goal: {stop}. A simulator that a "
            "busy machine holds up jumps so",
            style="yellow",
        )
    best = max(runs[2] or runs[1], key=lambda run: run.distances[0])
    for path in draw_episode(contract, best, out):
        console.print(f"picture: {path}", soft_wrap=True)


def run_scene_demo(
    task: str, robot: str, model: str, goals: int, seed: int, gui: bool, out: Path
) -> None:
    """Start the graph, give it goals in a task's scene in both modes, show what happened.

    Goals are images where the bundle reads them well.

    Raises:
        ValueError: a robot, task or bundle that does not fit.
        TimeoutError: the agent did not come up; what its nodes said is in the message.
    """
    scene = load_task(task).name
    settings = Settings(
        robot=robot,
        model=model,
        task=task,
        simulator="lockstep",
        scene=scene,
        paused=True,
        gui=gui,
    )
    check(settings)
    contract, bundle = load_contract(robot), Bundle(model)
    judge, episodes = sample_episodes(contract, scene, goals, seed)
    own_domain()
    from jepa_robot.nodes.client import AgentClient
    from jepa_robot.nodes.evaluation import RosRunner
    from jepa_robot.processes import ProcessGroup

    out.mkdir(parents=True, exist_ok=True)
    typer.echo(f"starting {len(ProcessGroup(settings).specs)} nodes; their logs go to {out}/logs")
    group = ProcessGroup(settings, out / "logs")
    camera_man = SimulatedArm(contract, scene=judge.scene)
    results: dict[int, list[EpisodeResult]] = {mode: [] for mode in MODES}
    ahead: list[list] = []  # of Mode-2's episodes
    with (
        group,
        AgentClient(contract, watch=group.watch) as client,
        progress(f"doing {scene}") as report,
    ):
        for mode in MODES:
            text = task_text(replace(load_task(task), mode=mode, seed=seed))
            goal = "position" if scene in BY_POSITION else "image"
            runner = RosRunner(client, bundle, judge, str(mode), goal, text)
            for number, episode in enumerate(episodes):
                camera_man.show_goal(episode)
                results[mode].append(runner.run(episode, camera_man.images(), seed + number))
                if mode == MODE_2:
                    ahead.append(runner.ahead)
                report(sum(map(len, results.values())), goals * len(MODES))
    camera_man.close()
    console = Console()
    console.print(_scene_results(results, judge))
    best = min(range(goals), key=lambda number: results[2][number].distance)
    run = _replay(contract, judge, episodes[best], results[MODE_2][best].actions, ahead[best])
    for path in draw_episode(contract, run, out, judge.scene, episodes[best]):
        console.print(f"picture: {path}", soft_wrap=True)


def _replay(
    contract: RobotContract, judge: Task, episode: Episode, actions: np.ndarray, ahead: list
) -> Run:
    """What an episode looked like: the same actions give the same motion to the bit."""
    from jepa_robot.cli.recorder import Frame, Run

    world, run = ArmWorld(contract, judge), Run(episode.goal)
    frame = world.reset(episode)
    for step, action in enumerate([*actions, None]):
        place, seen = frame.labels[judge.goal_label], frame.observation
        images = [np.ascontiguousarray(image) for image in seen.images]
        names = [camera.name for camera in contract.cameras]
        run.times.append(step * contract.rates.time_step)
        run.distances.append(float(np.linalg.norm(place - episode.goal)))
        shown = dict(zip(names, images, strict=True))
        after = np.array(ahead[min(step, len(ahead) - 1)]) if ahead else np.zeros(0)
        run.frames.append(Frame(seen.positions, shown, block=place, ahead=after))
        if action is not None:
            frame = world.step(action)
    world.close()
    return run


def _scene_results(results: dict[int, list[EpisodeResult]], judge: Task) -> Table:
    images = "from goal images that show the hand elsewhere"
    goals = "to places given in metres, seen by cameras" if judge.name in BY_POSITION else images
    table = Table(title=f"{judge.name} {goals}")
    within = f"within {100 * judge.success_distance:g} cm"
    for column in ("", within, "at any time", "final distance", "a decision"):
        table.add_column(column, justify="left" if not column else "right")
    for mode, ends in results.items():
        times = np.concatenate([end.decision_times for end in ends])
        table.add_row(
            MODES[mode],
            f"{sum(end.success for end in ends)}/{len(ends)}",
            f"{sum(end.any_time_success for end in ends)}/{len(ends)}",
            f"{100 * np.median([end.distance for end in ends]):.1f} cm",
            f"{1000 * np.median(times):.0f} ms",
        )
    return table


def _results(runs: dict[int, list], judge: Reach) -> Table:
    table = Table(
        title=f"3-D reach from goal images, {SECONDS_PER_GOAL:g} s a goal, real time",
        caption="rate: decisions a second; in Mode-2 each is a new plan",
    )
    for column in ("", "within 3 cm", "final distance", "time to goal", "rate"):
        table.add_column(column, justify="left" if not column else "right")
    for mode, mode_runs in runs.items():
        finals = [run.distances[-1] for run in mode_runs]
        arrivals = [run.arrival(judge.success_distance) for run in mode_runs]
        times = [arrival for arrival in arrivals if arrival is not None]
        successes = sum(final < judge.success_distance for final in finals)
        rate = np.mean([run.decisions / SECONDS_PER_GOAL for run in mode_runs])
        table.add_row(
            MODES[mode],
            f"{successes}/{len(mode_runs)}",
            f"{100 * np.median(finals):.1f} cm",
            f"{np.median(times):.2f} s" if times else "-",
            f"{rate:.0f} Hz",
        )
    return table


def _latencies(latencies: dict[int, dict[str, np.ndarray]]) -> Table:
    table = Table(
        title="age of the observation in each message, and the agent's part: median / p99, ms"
    )
    table.add_column("")
    for hop in next(iter(latencies.values())):
        table.add_column(hop, justify="right", min_width=len(hop))
    for mode, hops in latencies.items():
        cells = [
            f"{np.median(ages):.1f} / {np.percentile(ages, 99):.0f}" if len(ages) else "-"
            for ages in hops.values()
        ]
        table.add_row(f"Mode-{mode}", *cells)
    return table
