"""PyBullet arms, scenes, cameras and tasks, and the simulated-robot node (jepa_robot_sim)."""

from jepa_robot_sim.quiet import quiet

with quiet():
    import pybullet  # noqa: F401  (it prints when it is first imported)
