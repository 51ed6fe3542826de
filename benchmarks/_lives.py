"""Episodes that a push bundle's agent lives through in simulation, as memory has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jepa_robot.evaluation import sample_episodes
from jepa_robot.models import Bundle
from jepa_robot.modules.actor import MODE_1
from jepa_robot.modules.agent import InProcessAgent
from jepa_robot.modules.tasks import load_task
from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.exploration import practice_noise
from jepa_robot_sim.scenes import Variation
from jepa_robot_sim.world import ArmWorld

TASK = "push"


def live(
    contract: RobotContract,
    bundle: Bundle,
    count: int,
    seed: int,
    noise: float,
    competence: float = 1.0,
    variation: Variation | None = None,
    steps: int = 0,
) -> list[dict[str, np.ndarray]]:
    """Episodes of ``state`` ``[T, S]``, ``action`` ``[T, A]``, and ``goal`` ``[T, D]``.

    Args:
        contract: the robot.
        bundle: whose policy acts, towards goal pictures.
        count: of episodes.
        seed: of places, goals and noise.
        noise: how much is added to actions.
        competence: what the policy's own actions count; 0 is to play at random.
        variation: of the world; None for none.
        steps: of an episode; 0 for as long as the task.
    """
    judge, episodes = sample_episodes(contract, TASK, count, seed)
    rng, task = np.random.default_rng(seed), replace(load_task(TASK), mode=MODE_1)
    world, agent = ArmWorld(contract, judge), InProcessAgent(contract, bundle)
    lived: list[dict[str, np.ndarray]] = []
    for plain in episodes:
        episode = plain if variation is None else replace(plain, variation=variation)
        meant = agent.configurator.with_image(task, world.goal_images(episode))
        agent.begin(meant)
        added = noise * practice_noise(rng, steps or judge.steps, contract.actions.size)
        frame, states, actions = world.reset(episode), [], []
        for row in added:
            action = competence * agent.act(frame.observation) + row
            actions.append(np.clip(action, -1, 1).astype(np.float32))
            states.append(agent.state[0])
            frame = world.step(actions[-1])
        lived.append(
            {
                "state": np.array(states),
                "action": np.array(actions),
                "goal": np.repeat(_goal(bundle, meant.goal_position), len(states), axis=0),
            }
        )
    world.close()
    return lived


def _goal(bundle: Bundle, position: Sequence[float]) -> np.ndarray:
    """``[1, D]``: a place as critic and policy are told it."""
    return bundle.session("goal_encoder")(position=np.float32([position]))
