"""Any Gymnasium environment as something to record, to learn from and to act in.

What it must have: Box actions, ``render_mode="rgb_array"``, and, for evaluation, a success flag in
``info`` and a goal: a vector ``desired_goal`` beside ``achieved_goal`` in a Dict observation, or an
image under ``goal`` in a Dict observation or in ``info``. Nothing of it but pictures and
``achieved_goal``, as a label, is recorded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from jepa_robot.dataset import About
from jepa_robot.evaluation import wilson_interval
from jepa_robot.models import Bundle
from jepa_robot.modules.actor import MODE_1, MODE_2, Actor, ActorConfig
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.perception import Observation, Perception, preprocess
from jepa_robot.modules.world_model import WorldModel
from jepa_robot_sim.collect import Columns, with_last
from jepa_robot_sim.exploration import explore, stay_near

CAMERA = "render"
GOAL_LABEL = "achieved_goal"
SUCCESS_FLAGS = ("is_success", "success")
GOAL_IMAGES = ("goal", "goal_image", "desired_goal")
POLICIES = ("1", "2", "random", "hold")
LONGEST_EPISODE = 200  # steps, where the environment sets no limit
WEIGHTS = {"goal_latent": 1.0, "goal_position": 1.0, "effort": 0.002}


class InvalidEnvironment(ValueError):
    """An environment that lacks something; the message names it."""


@dataclass(frozen=True)
class View:
    """What is seen of an environment at one step.

    ``labels`` has ``achieved_goal`` where the environment tells it; ``goal`` is a vector, and
    ``goal_image`` a picture, where there is one; ``success`` is None where no flag is told.
    """

    picture: np.ndarray
    labels: dict[str, np.ndarray]
    goal: np.ndarray | None
    goal_image: np.ndarray | None
    success: bool | None
    is_over: bool


class GymWorld:
    """An environment with actions in [-1, 1].

    Args:
        name: its id.
        module: what to import first, so that it is registered; may be empty.
        options: given to the environment when it is made, such as the size of its pictures.

    Raises:
        InvalidEnvironment: there is no such environment, or it lacks Box actions or pictures.
    """

    def __init__(self, name: str, module: str = "", options: Mapping | None = None) -> None:
        import gymnasium

        try:
            if module:
                importlib.import_module(module)
            self.env = gymnasium.make(name, render_mode="rgb_array", **(options or {}))
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            raise InvalidEnvironment(
                f"environment is {name!r}: {error}; expected a registered id that can be made "
                "with render_mode rgb_array, and the module that registers it"
            ) from error
        self.name = name
        space = self.env.action_space
        if (
            not isinstance(space, gymnasium.spaces.Box)
            or not np.isfinite([space.low, space.high]).all()
        ):
            raise InvalidEnvironment(
                f"{name}: actions are {space}, expected a Box with finite bounds"
            )
        self._low, self._high = space.low.ravel(), space.high.ravel()
        self.actions = self._low.size
        limit = self.env.spec.max_episode_steps if self.env.spec else None
        self.steps = limit or LONGEST_EPISODE
        view = self.reset(0)
        height, width = view.picture.shape[:2]
        camera = {"name": CAMERA, "width": width, "height": height, "encoding": "rgb8"}
        half = (self._high - self._low) / 2
        channels = [
            {"name": f"action_{index}", "unit": "", "scale": float(scale)}
            for index, scale in enumerate(half)
        ]
        rate = self.env.metadata.get("render_fps") or 1.0
        self.interface = {
            "joints": [],
            "actions": {"kind": "environment", "channels": channels},
            "cameras": [{**camera, "crop": [0, 0, width, height]}],
            "time_step": 1.0 / float(rate),
        }
        self.goal_label = GOAL_LABEL if GOAL_LABEL in view.labels else ""

    def reset(self, seed: int) -> View:
        """Begin an episode that depends on the seed alone."""
        observation, info = self.env.reset(seed=seed)
        return self._view(observation, info, False)

    def step(self, action: np.ndarray) -> View:
        """Act for one step: ``[A]`` in [-1, 1]."""
        scaled = self._low + (np.clip(action, -1, 1) + 1) / 2 * (self._high - self._low)
        space = self.env.action_space
        observation, _, terminated, truncated, info = self.env.step(
            scaled.reshape(space.shape).astype(space.dtype)
        )
        return self._view(observation, info, bool(terminated or truncated))

    def close(self) -> None:
        self.env.close()

    def _view(self, observation: object, info: dict, is_over: bool) -> View:
        picture = self.env.render()
        if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[-1] < 3:
            what = getattr(picture, "shape", type(picture).__name__)
            raise InvalidEnvironment(
                f"{self.name}: render() gives {what}, expected a picture [h, w, 3]"
            )
        told = observation if isinstance(observation, dict) else {}
        vectors = {
            name: np.asarray(told[name], np.float32).ravel()
            for name in (GOAL_LABEL, "desired_goal")
            if name in told and np.ndim(told[name]) == 1
        }
        labels = {GOAL_LABEL: vectors[GOAL_LABEL]} if GOAL_LABEL in vectors else {}
        flags = [bool(info[name]) for name in SUCCESS_FLAGS if name in info]
        images = [
            np.asarray(source[name])
            for source in (told, info)
            for name in GOAL_IMAGES
            if name in source and np.ndim(source[name]) == 3
        ]
        return View(
            np.ascontiguousarray(picture[..., :3], np.uint8),
            labels,
            vectors.get("desired_goal") if labels else None,
            _as_picture(images[0], picture.shape) if images else None,
            flags[0] if flags else None,
            is_over,
        )


@dataclass(frozen=True)
class GymSource:
    """An environment that is explored at random; ``image_size`` is that of stored pictures."""

    name: str
    module: str = ""
    options: dict = field(default_factory=dict)
    image_size: tuple[int, int] = (64, 64)
    episode_steps: int = 50

    def open(self) -> GymRecorder:
        return GymRecorder(self)


class GymRecorder:
    """Records smooth random actions that come back; an episode may end early."""

    def __init__(self, source: GymSource) -> None:
        self._source = source
        self._world = GymWorld(source.name, source.module, source.options)
        self.about = About(self._world.interface, source.name, self._world.goal_label)

    def record(self, rng: np.random.Generator) -> Columns:
        world, views, actions = self._world, [], []
        plan = stay_near(rng, explore(rng, self._source.episode_steps, world.actions))
        views.append(world.reset(int(rng.integers(2**31))))
        for action in plan:
            views.append(world.step(action))
            actions.append(action)
            if views[-1].is_over:
                break
        cameras, size = world.interface["cameras"], self._source.image_size
        pictures = [preprocess([view.picture], cameras, size)[0] for view in views]
        columns = {"pixels": np.stack(pictures), "action": with_last(actions)}
        for name in views[0].labels:
            columns[name] = np.stack([view.labels[name] for view in views])
        return {**columns, "scripted": np.zeros((len(views), 1), np.uint8)}


class GymPolicy:
    """A bundle's modes, or a baseline, in an environment."""

    def __init__(self, world: GymWorld, bundle: Bundle, mode: str, planner: dict) -> None:
        if mode not in POLICIES:
            raise ValueError(f"mode is {mode!r}, expected one of {', '.join(POLICIES)}")
        self._world, self._bundle, self._mode, self._planner = world, bundle, mode, planner
        self._perception = Perception(bundle)
        self._cost = Cost(bundle, None)
        self._actor = Actor(bundle, WorldModel(bundle), self._cost)

    def begin(self, view: View, seed: int) -> None:
        """Take up an episode's goal.

        Raises:
            InvalidEnvironment: it has none.
        """
        self._rng, self._time = np.random.default_rng(seed), 0
        self._perception.forget()
        if self._mode not in "12":
            return
        bundle, size = self._bundle, self._bundle.latent_size
        goal: dict = {}
        if view.goal is not None and bundle.goal_size:
            position = view.goal[None]
            latent = bundle.session("goal_encoder")(position=position)[0]
            goal["position"] = view.goal.tolist()
        elif view.goal_image is not None:
            latent = goal["latent"] = self._perception.encode_goal([view.goal_image])[0]
        else:
            raise InvalidEnvironment(
                f"{self._world.name}: tells no goal, expected desired_goal beside achieved_goal in "
                f"its observation, or an image under one of {', '.join(GOAL_IMAGES)}"
            )
        section = {"weights": WEIGHTS, "goal": goal}
        self._cost.configure(CostConfig.for_bundle(section, bundle))
        mode = MODE_1 if self._mode == "1" else MODE_2
        section = {"mode": mode, "seed": seed, "goal_latent": latent, "planner": self._planner}
        self._actor.configure(ActorConfig.from_section(section, size))

    def act(self, view: View) -> np.ndarray:
        """``[A]`` in [-1, 1]."""
        if self._mode == "random":
            return self._rng.uniform(-1, 1, self._world.actions).astype(np.float32)
        if self._mode == "hold":
            return np.zeros(self._world.actions, np.float32)
        self._time += 1
        stamp = int(self._time * self._bundle.manifest["time_step"] * 1e9)
        nothing = np.zeros(0)
        state = self._perception.encode(Observation(stamp, [view.picture], nothing, nothing))
        return self._actor.act(state)[0]


def evaluate_environment(
    world: GymWorld,
    bundle: Bundle,
    mode: str,
    goals: int,
    seed: int,
    planner: dict | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict:
    """How many episodes end in success.

    Returns:
        ``success_rate`` at the end of the episodes with its Wilson 95 % interval ``low``,
        ``high``, and ``any_time_rate``, at some time in them; ``successes``, one an episode.

    Raises:
        InvalidEnvironment: it lacks a goal or a success flag.
    """
    bundle.check_interface(world.interface, world.name)
    policy = GymPolicy(world, bundle, mode, planner or {})
    ends, anys = [], []
    for index in range(goals):
        flags = _episode(world, policy, seed + index)
        ends.append(flags[-1])
        anys.append(any(flags))
        progress(index + 1, goals)
    low, high = wilson_interval(sum(ends), goals)
    return {
        "environment": world.name,
        "bundle": bundle.id,
        "mode": mode,
        "seed": seed,
        "goals": goals,
        "success_rate": sum(ends) / goals,
        "low": low,
        "high": high,
        "any_time_rate": sum(anys) / goals,
        "successes": ends,
    }


def _episode(world: GymWorld, policy: GymPolicy, seed: int) -> list[bool]:
    """The success flag after each step."""
    view = world.reset(seed)
    policy.begin(view, seed)
    flags: list[bool] = []
    for _ in range(world.steps):
        view = world.step(policy.act(view))
        if view.success is None:
            raise InvalidEnvironment(
                f"{world.name}: info has no success flag, expected "
                f"{' or '.join(SUCCESS_FLAGS)} after each step"
            )
        flags.append(view.success)
        if view.is_over:
            break
    return flags


def _as_picture(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A goal image as ``[h, w, 3]`` uint8 of the rendered pictures' size."""
    if image.shape[0] in (1, 3) and image.shape[-1] not in (1, 3):
        image = image.transpose(1, 2, 0)
    if image.shape[:2] != shape[:2]:
        import cv2

        image = cv2.resize(image, shape[1::-1], interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., :3], np.uint8)
