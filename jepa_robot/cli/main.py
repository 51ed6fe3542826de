"""The `jepa-robot` command. Imports what a command needs when it runs, so that help is quick."""

# No `from __future__ import annotations` here: typer 0.9, Ubuntu's, drops options behind it.

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from jepa_robot import __version__
from jepa_robot.cli.options import (
    Backend,
    Clock,
    Composition,
    Env,
    EnvModule,
    EnvOptions,
    Goal,
    Json,
    Mode,
    Model,
    Planning,
    Randomise,
    Robot,
    Seed,
    options_of,
)

app = typer.Typer(
    name="jepa-robot",
    help="A robot agent that plans in the latent space of a learned JEPA world model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)


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
    file: Annotated[Path, typer.Argument(help="The HDF5 file to make.")],
    robot: Robot = "panda",
    task: Annotated[str, typer.Option(help="Whose scene is explored.")] = "reach",
    randomise: Randomise = 0.0,
    distractors: Annotated[
        int, typer.Option(min=0, help="Bodies that have nothing to do with the task.")
    ] = 0,
    model: Annotated[
        str, typer.Option(help="A bundle whose policy does the task, with noise: practice.")
    ] = "",
    env: Env = "",
    env_module: EnvModule = "",
    env_options: EnvOptions = None,
    transitions: Annotated[int, typer.Option(min=1, help="How many.")] = 30_000,
    seed: Seed = 0,
    processes: Annotated[int, typer.Option(min=1, help="Simulators at a time.")] = 2,
    backend: Annotated[
        Backend, typer.Option(help="This machine, or a Ray cluster.")
    ] = Backend.loky,
    append: Annotated[bool, typer.Option("--append", help="Add to a file that exists.")] = False,
) -> None:
    """Record exploration: pictures, joints, actions. Goes on where it was stopped."""
    from jepa_robot.cli.progress import progress
    from jepa_robot_sim.collect import ArmSource
    from jepa_robot_sim.collect import collect as run

    if env and model:
        raise ValueError(f"model is {model!r}, expected none with --env: practice is a robot's")
    if env:
        from jepa_robot_sim.gym_world import GymSource

        source = GymSource(env, env_module, options_of(env_options))
    else:
        from jepa_robot.robot.contract import load_contract
        from jepa_robot_sim.scenes import Randomisation

        randomisation = Randomisation.full(randomise, distractors)
        source = ArmSource(load_contract(robot), task, randomisation, model=model)
    with progress("collecting") as report:
        count = run(
            source, file, transitions, seed, processes, backend.value, append, command(), report
        )
    typer.echo(f"{count} transitions in {file}")


@app.command()
def record(
    bag: Annotated[Path, typer.Argument(help="The folder to make.")],
    robot: Robot = "panda",
    namespace: Annotated[str, typer.Option(help="Of robot and agent.")] = "",
    seconds: Annotated[float, typer.Option(min=0, help="For how long; 0: until Ctrl-C.")] = 0.0,
) -> None:
    """Record a running robot and its agent into a ROS 2 bag."""
    from jepa_robot.cli.record import run_record

    run_record(bag, robot, namespace, seconds)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="The HDF5 file to make.")],
    bags: Annotated[
        list[Path], typer.Argument(help="ROS 2 bags (folders, MCAP files), or LeRobot datasets.")
    ],
    robot: Robot = "panda",
    task: Annotated[str, typer.Option(help="That was done.")] = "reach",
    topic: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Another topic, as camera_side/image=/realsense/image_raw; repeat it."),
    ] = None,
    namespace: Annotated[str, typer.Option(help="In front of the robot's topics.")] = "",
    actions: Annotated[
        str, typer.Option(help="Where actions are from: action, commands, motion, or auto.")
    ] = "auto",
    degrees: Annotated[
        bool, typer.Option("--degrees", help="Angles of a LeRobot dataset are in degrees.")
    ] = False,
    append: Annotated[bool, typer.Option("--append", help="Add to a file that exists.")] = False,
) -> None:
    """Make a recording to learn from out of a real robot's ROS 2 bags or LeRobot datasets."""
    from jepa_robot.importing import BagSettings, import_bags
    from jepa_robot.robot.contract import load_contract

    names = options_of(topic, "--topic")
    settings = BagSettings(topics=names, namespace=namespace, actions=actions, in_degrees=degrees)
    done = import_bags(bags, file, load_contract(robot), task, settings, append, command())
    for problem in done.problems:
        typer.echo(problem, err=True)
    typer.echo(
        f"{done.frames} frames of {done.episodes} episodes in {file}, actions from "
        f"{', '.join(sorted(done.actions))}"
    )


@app.command()
def replay(
    bundle: Annotated[str, typer.Argument(help="The agent's bundle.")],
    recorded: Annotated[list[Path], typer.Argument(help="One recording (.h5), or ROS 2 bags.")],
    robot: Robot = "panda",
    task: Annotated[str, typer.Option(help="Whose planner, weights and mode act.")] = "reach",
    mode: Annotated[int, typer.Option(min=0, max=3, help="In its place; 0: the task's.")] = 0,
    json_file: Json = None,
) -> None:
    """What an agent foresees and would do on a recording, beside what came; nothing moves."""
    from jepa_robot.cli.replay import run_replay

    run_replay(
        bundle, recorded, robot, task, mode, json_file, lambda text: typer.echo(text, err=True)
    )


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A file made by collect or stable-worldmodel.")],
    run: Annotated[Path, typer.Argument(help="Where checkpoints and logs go.")],
    robot: Robot = "panda",
    config: Annotated[
        str,
        typer.Option(help="Settings: a YAML file, or object, levels, practice or pictures."),
    ] = "",
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="A setting, such as jepa.encoder.name=vit; repeat it."),
    ] = None,
    begin: Annotated[
        str, typer.Option("--from", help="A finished run whose networks are trained on.")
    ] = "",
    seed: Seed = 0,
    accelerator: Annotated[str, typer.Option(help="Lightning's: cpu, gpu, auto.")] = "auto",
    devices: Annotated[str, typer.Option(help="Lightning's: how many, or which.")] = "1",
    num_nodes: Annotated[int, typer.Option(min=1, help="Lightning's: machines.")] = 1,
    strategy: Annotated[str, typer.Option(help="Lightning's: ddp, for example.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare batches.")] = 0,
    threads: Annotated[
        int, typer.Option(min=1, help="More pay on cores that nothing else uses.")
    ] = 1,
    json_file: Json = None,
) -> None:
    """Train the JEPA, its readout, policy and critic. Goes on where it was stopped."""
    from jepa_robot import resources
    from jepa_robot.cli.progress import progress
    from jepa_robot.dataset import read_about
    from jepa_robot.learning.configuration import configure
    from jepa_robot.learning.pipeline import TrainConfig, train_all
    from jepa_robot.learning.training import Devices
    from jepa_robot.robot.contract import load_contract

    about = read_about(data)
    has_joints = about is not None and bool(about.interface["joints"])
    config = config or ("" if has_joints else "pictures")
    file = resources.find("config/training", config, ".yaml") if config else None
    named = [f"seed={seed}", *([f"begin={begin!r}"] if begin else [])]
    chosen = configure(TrainConfig, file, [*named, *(settings or [])])
    contract = load_contract(robot) if has_joints else None
    computing = Devices(accelerator, devices, num_nodes, strategy, workers, threads)
    with progress("training") as report:
        metrics = train_all(data, run, contract, chosen, report, computing, warn)
    write_result(metrics, json_file)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A folder made by train.")],
    bundle: Annotated[Path, typer.Argument(help="The bundle to write; must not exist yet.")],
    name: Annotated[str, typer.Option(help="The bundle's name; its folder's if not given.")] = "",
) -> None:
    """Write a model bundle: ONNX graphs, checked against torch, and their manifest."""
    from jepa_robot.learning.export import export as write

    manifest = write(run, bundle, name or bundle.name, command())
    typer.echo(f"{manifest['id']} in {bundle}")


@app.command()
def distill(
    bundle: Annotated[str, typer.Argument(help="Model bundle: folder or name.")],
    out: Annotated[Path, typer.Argument(help="The bundle to write; must not exist yet.")],
    memory: Annotated[
        Path, typer.Option(help="What was lived through: memory's folder, or what it saved.")
    ],
    robot: Robot = "panda",
    task: Annotated[str, typer.Option(help="Whose planner and cost: a file, or a name.")] = "reach",
    decisions: Annotated[int, typer.Option(min=10, help="Of the planner, in a round.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Of planning and learning.")] = 2,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Compile Mode-2 into Mode-1: the policy learns what the planner does in what was lived."""
    from jepa_robot.cli.distill import run_distill
    from jepa_robot.cli.progress import progress

    with progress("planning") as report:
        result = run_distill(
            bundle, out, memory, robot, task, decisions, rounds, seed, report, warn
        )
    write_result(result, json_file)


@app.command()
def doctor(
    bundle: Annotated[str, typer.Argument(help="Model bundle: folder or name.")],
    data: Annotated[
        Path,
        typer.Option(
            help="A recording that training did not see: made by collect, with a seed of its own."
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Rougher, in a fraction.")] = False,
    supervised: Annotated[
        bool,
        typer.Option(
            "--supervised/--no-supervised",
            help="Compare with a network trained on the labels from scratch.",
        ),
    ] = True,
    seed: Seed = 0,
    json_file: Json = None,
    page: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw the figures on one page, a PNG."),
    ] = None,
) -> None:
    """Is a world model fit to plan with? Says what to change; exits with 1 where it is unfit."""
    from jepa_robot.cli.doctor import run_doctor

    examination = run_doctor(bundle, data, quick, supervised, seed, json_file, page, warn)
    if examination.verdict == "unfit":
        raise typer.Exit(1)


@app.command()
def evaluate(
    bundle: Model = "reach_panda",
    task: Annotated[str, typer.Option(help="Task: a YAML file, or a shipped name.")] = "reach",
    mode: Annotated[Mode, typer.Option(help="What acts.")] = Mode.mode_2,
    goal: Annotated[Goal, typer.Option(help="How the goal is given.")] = Goal.image,
    goals: Annotated[int, typer.Option(min=1, help="How many episodes.")] = 100,
    seed: Seed = 0,
    robot: Robot = "panda",
    randomise: Randomise = 0.0,
    env: Env = "",
    env_module: EnvModule = "",
    env_options: EnvOptions = None,
    ros: Annotated[
        bool, typer.Option("--ros/--no-ros", help="Through the ROS graph, or in process.")
    ] = True,
    composition: Composition = Composition.processes,
    json_file: Json = None,
) -> None:
    """Measure how often a task succeeds, in simulation, with unseen goals."""
    from jepa_robot.cli.evaluate import run_evaluation
    from jepa_robot.cli.progress import progress

    if env:
        from jepa_robot.models import Bundle
        from jepa_robot_sim.gym_world import GymWorld, evaluate_environment

        world = GymWorld(env, env_module, options_of(env_options))
        with progress(f"{env}, mode {mode.value}") as report:
            result = evaluate_environment(
                world, Bundle(bundle), mode.value, goals, seed, progress=report
            )
        write_result(result, json_file)
        return
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
            randomise,
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
    mode: Annotated[
        int, typer.Option(min=0, max=3, help="1 or 2, 3 for auto; 0 as the task says.")
    ] = 0,
    sim: Annotated[bool, typer.Option("--sim", help="With a simulated robot.")] = False,
    clock: Annotated[Clock, typer.Option(help="The simulator's.")] = Clock.realtime,
    gui: Annotated[bool, typer.Option("--gui", help="Open the simulator's window.")] = False,
    namespace: Annotated[str, typer.Option(help="Of all nodes and topics.")] = "",
    use_sim_time: Annotated[bool, typer.Option("--use-sim-time", help="Follow /clock.")] = False,
    log_level: str = "info",
    params_file: Annotated[str, typer.Option(help="ROS parameters, YAML.")] = "",
    composition: Composition = Composition.processes,
    provider: Annotated[
        str, typer.Option(help="Runs the bundle's graphs: auto, cpu, cuda or tensorrt.")
    ] = "auto",
    planning: Planning = Planning.local,
    learn: Annotated[
        bool, typer.Option("--learn", help="Learn from what is remembered while it runs.")
    ] = False,
    only: Annotated[
        str, typer.Option(help="Start these processes alone, names joined by commas.")
    ] = "",
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
        provider=provider,
        planning=planning.value,
        learn=learn,
        only=only,
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
def explore(
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long.")] = 60.0,
    speed: Annotated[
        float, typer.Option(help="The largest action, a share of the contract's.")
    ] = 0.5,
    seed: Seed = 0,
    robot: Robot = "panda",
    namespace: Annotated[str, typer.Option(help="Of the safety stage.")] = "",
) -> None:
    """Wander about in the workspace, through the safety stage: motion to record and learn from."""
    from jepa_robot.cli.jog import run_explore

    run_explore(robot, seconds, speed, seed, namespace)


@app.command()
def task(
    what: Annotated[
        str, typer.Argument(help="A task: name, file or YAML; or start, pause, resume, cancel.")
    ],
    robot: Robot = "panda",
    namespace: Annotated[str, typer.Option(help="Of the agent.")] = "",
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Wait for a task's end, where it has one.")
    ] = True,
) -> None:
    """Give a running agent a task and follow it, or control the one that it has."""
    from jepa_robot.cli.task import run_task

    run_task(what, robot, namespace, follow)


@app.command()
def demo(
    task: Annotated[str, typer.Option(help="reach, push, or another task.")] = "reach",
    bundle: Model = "",
    robot: Robot = "",
    goals: Annotated[int, typer.Option(min=0, help="Goals a mode; 0 for the task's.")] = 0,
    seed: Seed = 0,
    gui: Annotated[bool, typer.Option("--gui", help="Open the simulator's window.")] = False,
    out: Annotated[Path, typer.Option(help="Where pictures and logs go.")] = Path("out/demo"),
) -> None:
    """Watch the agent do a task from camera images, through ROS nodes."""
    from jepa_robot.cli.demo import DEMOS, run_demo, run_scene_demo

    usual = DEMOS.get(task, ("", "", 5))
    robot, bundle, goals = robot or usual[0], bundle or usual[1], goals or usual[2]
    for name, value in (("--robot", robot), ("--model", bundle)):
        if not value:
            raise ValueError(f"{name} is missing, expected one for the task {task!r}")
    if task == "reach":
        run_demo(robot, bundle, goals, seed, gui, out)
    else:
        run_scene_demo(task, robot, bundle, goals, seed, gui, out)


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


def command() -> str:
    """What was typed, for the records."""
    return " ".join(["jepa-robot", *sys.argv[1:]])


def warn(text: str) -> None:
    typer.secho(f"Warning: {text}", fg="yellow", err=True)


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
