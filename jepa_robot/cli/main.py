"""The `jepa-robot` command. Imports what a command needs when it runs, so that help is quick."""

# No `from __future__ import annotations` here: typer 0.9, Ubuntu's, drops options behind it.

import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from jepa_robot import __version__

app = typer.Typer(
    name="jepa-robot",
    help="A robot agent that plans in the latent space of a learned JEPA world model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)

Robot = Annotated[str, typer.Option(help="Robot contract: a YAML file, or a shipped name.")]
Model = Annotated[str, typer.Option("--bundle", "--model", help="Model bundle: folder or name.")]
Seed = Annotated[int, typer.Option(min=0, help="Everything random follows from it.")]
Json = Annotated[
    Optional[Path],  # noqa: UP045 (Ubuntu's typer 0.9 knows no Path | None)
    typer.Option("--json", help="Write the result to this file."),
]


class Mode(str, Enum):
    """What acts: a mode of the agent, or a baseline in its place."""

    mode_1 = "1"
    mode_2 = "2"
    random = "random"
    hold = "hold"
    oracle = "oracle"


class Goal(str, Enum):
    """How the goal is given."""

    image = "image"
    position = "position"


class Clock(str, Enum):
    """What time the simulator keeps."""

    realtime = "realtime"
    lockstep = "lockstep"


class Composition(str, Enum):
    """One process a node, or the six modules in one."""

    processes = "processes"
    single = "single"


def main() -> None:
    """Entry point: errors are one sentence, unless JEPA_ROBOT_DEBUG is set."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("JEPA_ROBOT_DEBUG"):
            raise
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Show the version."""
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def collect(
    folder: Annotated[Path, typer.Argument(help="Where the data goes; must not exist yet.")],
    robot: Robot = "panda",
    transitions: Annotated[int, typer.Option(min=1, help="How many.")] = 30_000,
    seed: Seed = 0,
    processes: Annotated[int, typer.Option(min=1, help="Simulators at a time.")] = 2,
) -> None:
    """Record random motion of a simulated arm: images, joints, actions."""
    from jepa_robot.cli.progress import progress
    from jepa_robot.robot.contract import load_contract
    from jepa_robot_sim.collect import collect as run

    with progress("collecting") as report:
        run(load_contract(robot), folder, transitions, seed, processes, report)
    typer.echo(f"{transitions} transitions in {folder}")


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A folder made by collect.")],
    run: Annotated[Path, typer.Argument(help="Where the checkpoint goes.")],
    robot: Robot = "panda",
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Train the JEPA, its readout and the Mode-1 policy."""
    from jepa_robot.cli.progress import progress
    from jepa_robot.learning.pipeline import TrainConfig, train_all
    from jepa_robot.robot.contract import load_contract

    with progress("training") as report:
        metrics = train_all(data, run, load_contract(robot), TrainConfig(seed=seed), report)
    write_result(metrics, json_file)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A folder made by train.")],
    bundle: Annotated[Path, typer.Argument(help="The bundle to write; must not exist yet.")],
    robot: Robot = "panda",
    name: Annotated[str, typer.Option(help="The bundle's name.")] = "reach_panda",
) -> None:
    """Write a model bundle: ONNX graphs, checked against torch, and their manifest."""
    from jepa_robot.learning.export import export as write
    from jepa_robot.robot.contract import load_contract

    manifest = write(
        run, bundle, load_contract(robot), name, " ".join(["jepa-robot", *sys.argv[1:]])
    )
    typer.echo(f"{manifest['id']} in {bundle}")


@app.command()
def evaluate(
    bundle: Model = "reach_panda",
    task: Annotated[str, typer.Option(help="Task: a YAML file, or a shipped name.")] = "reach",
    mode: Annotated[Mode, typer.Option(help="What acts.")] = Mode.mode_2,
    goal: Annotated[Goal, typer.Option(help="How the goal is given.")] = Goal.image,
    goals: Annotated[int, typer.Option(min=1, help="How many episodes.")] = 100,
    seed: Seed = 0,
    robot: Robot = "panda",
    ros: Annotated[
        bool, typer.Option("--ros/--no-ros", help="Through the ROS graph, or in process.")
    ] = True,
    composition: Composition = Composition.processes,
    json_file: Json = None,
) -> None:
    """Measure how often a task succeeds, in simulation, with unseen goals."""
    from jepa_robot.cli.evaluate import run_evaluation
    from jepa_robot.cli.progress import progress

    with progress(f"{task}, mode {mode.value}") as report:
        result = run_evaluation(
            robot,
            bundle,
            task,
            mode.value,
            goal.value,
            goals,
            seed,
            ros,
            composition.value,
            report,
        )
    write_result(result, json_file)


@app.command()
def up(
    robot: Robot = "panda",
    bundle: Annotated[
        str,
        typer.Option(
            "--bundle", "--model", help="Model bundle: folder or name; empty: no agent, for jog."
        ),
    ] = "reach_panda",
    task: Annotated[str, typer.Option(help="Task to start with; empty for none.")] = "reach",
    mode: Annotated[int, typer.Option(min=0, max=2, help="1 or 2; 0 as the task says.")] = 0,
    sim: Annotated[bool, typer.Option("--sim", help="With a simulated robot.")] = False,
    clock: Annotated[Clock, typer.Option(help="The simulator's.")] = Clock.realtime,
    gui: Annotated[bool, typer.Option("--gui", help="Open the simulator's window.")] = False,
    namespace: Annotated[str, typer.Option(help="Of all nodes and topics.")] = "",
    use_sim_time: Annotated[bool, typer.Option("--use-sim-time", help="Follow /clock.")] = False,
    log_level: str = "info",
    params_file: Annotated[str, typer.Option(help="ROS parameters, YAML.")] = "",
    composition: Composition = Composition.processes,
    respawn: bool = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything but send commands.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Start only if `jepa-robot check` passes.")
    ] = False,
) -> None:
    """Start the agent's nodes and keep them up, until Ctrl-C. The same list as `ros2 launch`."""
    from jepa_robot.cli.up import run_up
    from jepa_robot.graph import Settings

    settings = Settings(
        robot=robot,
        model=bundle,
        task=task,
        mode=mode,
        simulator=clock.value if sim else None,
        gui=gui,
        use_sim_time=use_sim_time,
        namespace=namespace,
        log_level=log_level,
        params_file=params_file,
        composition=composition.value,
        respawn=respawn,
        dry_run=dry_run,
    )
    run_up(settings, check)


@app.command()
def check(
    robot: Robot = "panda",
    bundle: Annotated[
        str, typer.Option("--bundle", "--model", help="Model bundle: folder or name; empty: none.")
    ] = "reach_panda",
    namespace: Annotated[str, typer.Option(help="Of all nodes and topics.")] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to listen at most.")] = 5.0,
    use_sim_time: Annotated[bool, typer.Option("--use-sim-time", help="Follow /clock.")] = False,
    json_file: Json = None,
) -> None:
    """Compare contract, bundle and the running robot. Moves nothing; exits with 1 on a failure."""
    from jepa_robot.cli.check import run_check

    if not run_check(robot, bundle, namespace, timeout, use_sim_time, json_file):
        raise typer.Exit(1)


@app.command()
def preview(
    robot: Robot = "panda",
    picture: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("preview.png"),
) -> None:
    """Look at a contract in simulation: is the workspace reachable, do the cameras see it."""
    from jepa_robot.cli.preview import run_preview

    run_preview(robot, picture)


@app.command(context_settings={"ignore_unknown_options": True})  # a speed may be negative
def jog(
    channel: Annotated[str, typer.Argument(help="An action channel of the contract, as vx.")],
    speed: Annotated[float, typer.Argument(help="In the channel's unit: m/s or rad/s.")],
    seconds: Annotated[float, typer.Option(min=0.05, max=10.0, help="For how long.")] = 1.0,
    robot: Robot = "panda",
    namespace: Annotated[str, typer.Option(help="Of the safety stage.")] = "",
) -> None:
    """Move one action channel for a moment, through the safety stage: a first motion by hand."""
    from jepa_robot.cli.jog import run_jog

    run_jog(robot, channel, speed, seconds, namespace)


@app.command()
def demo(
    bundle: Model = "reach_panda",
    robot: Robot = "panda",
    goals: Annotated[int, typer.Option(min=1, help="Goals a mode.")] = 8,
    seed: Seed = 0,
    gui: Annotated[bool, typer.Option("--gui", help="Open the simulator's window.")] = False,
    out: Annotated[Path, typer.Option(help="Where pictures and logs go.")] = Path("out/demo"),
) -> None:
    """Watch the agent reach goals from camera images, through ROS nodes, in real time."""
    from jepa_robot.cli.demo import run_demo

    run_demo(robot, bundle, goals, seed, gui, out)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A benchmark; its options follow.")],
) -> None:
    """Run one of benchmarks/ (a source tree is needed)."""
    import subprocess

    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    known = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if name not in known:
        raise ValueError(f"benchmark is {name!r}, expected one of {known} in {folder}")
    command = [sys.executable, str(folder / f"{name}.py"), *context.args]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def write_result(result: dict, file: Path | None) -> None:
    """Print a result without its long lists, and write all of it to ``file`` if one is given."""
    from jepa_robot.files import write_atomically

    short = {key: value for key, value in result.items() if not isinstance(value, list)}
    typer.echo(json.dumps(short, indent=2))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
