"""Every scene as a Gymnasium environment: importing this module registers them.

One id for each shipped arm and task that it can do, such as ``jepa_robot/PandaPush-v0``; any other
contract by ``gymnasium.make("jepa_robot/Arm-v0", robot="arm.yaml", task="push")``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from jepa_robot import resources
from jepa_robot.robot.contract import load_contract, measured_size
from jepa_robot_sim.episodes import HAND, OBJECT, Episode
from jepa_robot_sim.scenes import Randomisation
from jepa_robot_sim.tasks import TASKS, make_task
from jepa_robot_sim.world import ArmWorld, Frame

NAMESPACE = "jepa_robot"
ENTRY_POINT = "jepa_robot_sim.environment:ArmEnv"


class ArmEnv(gymnasium.Env):
    """An arm and a scene, one normalised action a camera frame, behind the safety limiter.

    Observations: ``observation`` ``[2 J]`` float32, joint positions (rad) and velocities (rad/s);
    ``achieved_goal`` and ``desired_goal`` ``[3]`` float64 (m, base frame), of the hand for reach
    and of the object for the others. The reward is 0 within the task's distance of the goal, else
    -1. An episode is truncated after the task's steps and never terminates: what counts is how it
    ends. ``info`` has ``is_success`` and ``distance`` (m).

    Args:
        robot: a contract's name or path.
        task: one of ``jepa_robot_sim.tasks.TASKS``.
        randomisation: how much episodes vary: one strength from 0 to 1 for everything, or a
            strength by name (see :class:`jepa_robot_sim.scenes.Randomisation`).
        distractors: how many bodies stand about that have nothing to do with the task.
        render_mode: ``rgb_array``: the cameras side by side, ``[h, n w, 3]`` uint8, as large as the
            contract says. None renders nothing and is faster.

    Raises:
        ValueError: unknown robot or task, the arm cannot do the task, or a strength out of range.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        robot: str = "panda",
        task: str = "reach",
        randomisation: float | Mapping[str, float] | Randomisation = 0.0,
        distractors: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is {render_mode!r}, expected rgb_array or None")
        self.render_mode = render_mode
        self.contract = load_contract(robot)
        self.metadata = {**self.metadata, "render_fps": round(self.contract.rates.image)}
        self.task = make_task(task, self.contract, _randomisation(randomisation, distractors))
        # Episodes are drawn for the contract's cameras, whether or not they are rendered.
        seen = self.contract if render_mode else replace(self.contract, cameras=())
        self._world = ArmWorld(seen, self.task)
        self._episode: Episode | None = None
        self._frame: Frame | None = None
        self._step = 0
        self.action_space = spaces.Box(-1, 1, (self.contract.actions.size,), np.float32)
        felt = measured_size(self.contract.interface())
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (felt,), np.float32),
                "achieved_goal": spaces.Box(-np.inf, np.inf, (3,), np.float64),
                "desired_goal": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; ``options={"episode": Episode}`` chooses which."""
        super().reset(seed=seed)
        chosen = (options or {}).get("episode")
        self._episode = chosen or self.task.sample(self.np_random)
        self._frame, self._step = self._world.reset(self._episode), 0
        return self._observation(), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One control period.

        Raises:
            ValueError: the action has another size, or numbers that are not finite.
        """
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("step() was called before reset()")
        action = np.asarray(action, float)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action is {action}, expected {self.action_space.shape} numbers")
        self._frame = self._world.step(action)
        self._step += 1
        observation = self._observation()
        reward = self.compute_reward(
            observation["achieved_goal"], observation["desired_goal"], info := self._info()
        )
        return observation, float(reward), False, self._step >= self.task.steps, info

    def compute_reward(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any
    ) -> np.ndarray | float:
        """0 within the task's distance, else -1, for goals ``[..., 3]`` (m)."""
        distance = np.linalg.norm(np.asarray(achieved_goal) - desired_goal, axis=-1)
        return np.where(distance < self.task.success_distance, 0.0, -1.0)[()]

    def render(self) -> np.ndarray | None:
        """What the cameras see now."""
        if self.render_mode is None or self._frame is None:
            return None
        return self._side_by_side(self._frame.observation.images)

    def render_goal(self) -> np.ndarray:
        """What the cameras see at the goal, like :meth:`render`.

        Raises:
            ValueError: nothing is rendered, or no episode has begun.
        """
        if self.render_mode is None or self._episode is None:
            raise ValueError("render_goal() was called without render_mode or before reset()")
        return self._side_by_side(self._world.goal_images(self._episode))

    def oracle(self) -> np.ndarray:
        """What the privileged baseline would do now ``[A]``."""
        return self.task.oracle(self._frame.labels, self._episode)

    def close(self) -> None:
        self._world.close()

    def _observation(self) -> dict[str, np.ndarray]:
        seen = self._frame.observation
        return {
            "observation": seen.felt(self.contract.moves_gripper),
            "achieved_goal": self._frame.labels[self.task.goal_label].copy(),
            "desired_goal": np.array(self._episode.goal, float),
        }

    def _info(self) -> dict[str, Any]:
        labels, goal = self._frame.labels, self._episode.goal
        info = {name: labels[name].copy() for name in (HAND, OBJECT) if name in labels}
        info["is_success"] = self.task.is_success(labels, goal)
        info["distance"] = float(np.linalg.norm(labels[self.task.goal_label] - goal))
        return info

    def _side_by_side(self, images: list[np.ndarray]) -> np.ndarray:
        rgb = [
            image if camera.encoding == "rgb8" else image[..., ::-1]
            for camera, image in zip(self.contract.cameras, images, strict=True)
        ]
        heights = {image.shape[0] for image in rgb}
        if len(heights) > 1:
            raise ValueError(f"cameras are {sorted(heights)} pixels high, expected one height")
        return np.concatenate(rgb, axis=1)


def environment_id(robot: str, task: str) -> str:
    """The id of a shipped arm's task, such as ``jepa_robot/PandaPush-v0``."""
    words = f"{robot}_{task}".split("_")
    return f"{NAMESPACE}/{''.join(word[:1].upper() + word[1:] for word in words)}-v0"


def register_all() -> list[str]:
    """Register what there is, once; returns the ids."""
    folder = resources.share_directory() / "config/robots"
    ids = []
    for path in sorted(folder.glob("*.yaml")):
        contract = load_contract(path.stem)
        for name, task in TASKS.items():
            if task.refusal(contract) is None:
                kwargs = {"robot": path.stem, "task": name}
                ids.append(_register(environment_id(path.stem, name), kwargs))
    return [*ids, _register(f"{NAMESPACE}/Arm-v0", {})]


def _register(name: str, kwargs: dict[str, Any]) -> str:
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=ENTRY_POINT, kwargs=kwargs)
    return name


def _randomisation(value: Any, distractors: int) -> Randomisation:
    if isinstance(value, Randomisation):
        return replace(value, distractors=distractors) if distractors else value
    if isinstance(value, Mapping):
        unknown = set(value) - set(Randomisation.__dataclass_fields__)
        if unknown:
            raise ValueError(
                f"randomisation names {sorted(unknown)}, expected some of "
                f"{list(Randomisation.__dataclass_fields__)}"
            )
        return Randomisation(**{"distractors": distractors, **value})
    return Randomisation.full(value, distractors)


IDS = register_all()
