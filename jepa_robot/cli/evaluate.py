"""`jepa-robot evaluate`: through the ROS graph in lock-step, or in process."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jepa_robot import graph
from jepa_robot.evaluation import ACTING, InProcessRunner, evaluate, sample_episodes
from jepa_robot.files import IsLocked, lock
from jepa_robot.models import Bundle
from jepa_robot.modules.actor import OFF
from jepa_robot.modules.intrinsic import fingerprint
from jepa_robot.modules.tasks import Task, load_task, task_text
from jepa_robot.robot.contract import RobotContract, load_contract
from jepa_robot_sim.scenes import Randomisation

DOMAINS = 100  # 1 to 100: higher ones have ports that others may have


def run_evaluation(
    robot: str,
    bundle_name: str,
    task_name: str,
    mode: str,
    goal: str,
    goals: int,
    seed: int,
    through_ros: bool,
    composition: str,
    progress: Callable[[int, int], object],
    randomise: float = 0.0,
) -> dict:
    """Evaluate a bundle; the options are the command's.

    Raises:
        ValueError: names the bundle, task, mode or robot that does not fit.
    """
    contract = load_contract(robot)
    bundle = Bundle(bundle_name)
    bundle.check_fits(contract)
    task = replace(load_task(task_name), goal_position=None, seed=seed)
    # Not when actions arrive: through ROS that is not ours to vary, and both ways are to agree.
    varied = replace(Randomisation.full(float(randomise)), latency=0.0)
    judge, episodes = sample_episodes(contract, task.name, goals, seed, varied)
    if through_ros:
        settings = graph.Settings(
            robot=robot,
            model=bundle_name,
            task=task_name,
            simulator="lockstep",
            scene=task.name,
            paused=True,
            composition=composition,
        )
        result = _through_ros(
            settings, contract, bundle, task, judge, mode, goal, episodes, progress
        )
    else:
        runner = InProcessRunner(contract, bundle, task, judge, mode, goal)
        result = evaluate(runner, contract, episodes, seed, progress)
        runner.close()
    about = {
        "task": task.name,
        "mode": mode,
        "goal": goal,
        "seed": seed,
        "randomise": randomise,
        "bundle": bundle.id,
        "intrinsic": fingerprint(),
        "robot": contract.name,
        "through": f"ros, {composition}" if through_ros else "in process",
    }
    return {**about, **result}


def _through_ros(
    settings: graph.Settings,
    contract: RobotContract,
    bundle: Bundle,
    task: Task,
    judge,
    mode: str,
    goal: str,
    episodes: list,
    progress: Callable[[int, int], object],
) -> dict:
    own_domain()
    from jepa_robot.nodes.client import AgentClient
    from jepa_robot.nodes.evaluation import RosRunner
    from jepa_robot.processes import ProcessGroup

    text = task_text(replace(task, mode=ACTING.get(mode, OFF)))
    with tempfile.TemporaryDirectory(prefix="jepa_robot_") as folder:
        logs = Path(folder)
        group = ProcessGroup(settings, logs)
        with group, AgentClient(contract, watch=group.watch) as client:
            runner = RosRunner(client, bundle, judge, mode, goal, text)
            return evaluate(runner, contract, episodes, task.seed, progress)


def own_domain() -> None:
    """Give this process and its children a ROS domain of their own, on this machine only.

    Lock-step's /clock is global in a domain; whoever sets ROS_DOMAIN_ID chooses it. ROS_HOME is
    new, too: a stop that an earlier simulated robot latched is not for this one.
    """
    if "ROS_HOME" not in os.environ:
        os.environ["ROS_HOME"] = home = tempfile.mkdtemp(prefix="jepa_robot_ros_home_")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
    if "ROS_DOMAIN_ID" not in os.environ:
        os.environ["ROS_DOMAIN_ID"] = str(_free_domain())
    os.environ.update(graph.environment(local_only=True))


def _free_domain() -> int:
    """A domain that no other evaluation or demo on this machine has, until this process ends."""
    for number in range(DOMAINS):
        domain = 1 + (os.getpid() + number) % DOMAINS
        try:
            stream = lock(Path(tempfile.gettempdir()) / f"jepa_robot_domain_{domain}.lock")
        except (IsLocked, OSError):  # of another process, or another user's file
            continue
        atexit.register(stream.close)
        return domain
    raise RuntimeError(f"all of {DOMAINS} ROS domains are in use, expected one that is free")
