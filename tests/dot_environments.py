"""Environments that the package has never seen, registered when this is imported."""

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE = 40


class Dot(gymnasium.Env):
    """Move a dot about a picture; actions are forces in [0, 4], so that 2 is none."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self, render_mode=None, goal="vector", flag="is_success", actions="box", size=SIZE
    ):
        self.render_mode, self._goal_kind, self._flag, self._size = render_mode, goal, flag, size
        place = spaces.Box(0, 1, (2,), np.float32)
        self.action_space = (
            spaces.Discrete(4) if actions == "discrete" else spaces.Box(0, 4, (2,), np.float32)
        )
        self.observation_space = spaces.Dict(
            {"observation": place, "achieved_goal": place, "desired_goal": place}
            if goal == "vector"
            else {"observation": place}
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._place, self._goal = self.np_random.uniform(0.2, 0.8, (2, 2)).astype(np.float32)
        return self._observe(), self._info()

    def step(self, action):
        self._place = np.clip(self._place + 0.05 * (np.asarray(action) - 2), 0.1, 0.9)
        self._place = self._place.astype(np.float32)
        return self._observe(), 0.0, False, False, self._info()

    def render(self):
        return self._picture(self._place)

    def _picture(self, place):
        picture = np.full((self._size, self._size, 3), 30, np.uint8)
        x, y = (place * self._size).astype(int)
        picture[y - 2 : y + 3, x - 2 : x + 3] = (255, 90, 30)
        return picture

    def _observe(self):
        observation = {"observation": self._place}
        if self._goal_kind == "vector":
            observation |= {"achieved_goal": self._place, "desired_goal": self._goal}
        return observation

    def _info(self):
        info = {"goal": self._picture(self._goal)} if self._goal_kind == "image" else {}
        if self._flag:
            info[self._flag] = bool(np.linalg.norm(self._place - self._goal) < 0.1)
        return info


gymnasium.register("Dot-v0", Dot, max_episode_steps=12)
