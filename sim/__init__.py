"""PyBullet arms, scenes, cameras and tasks, and the simulated-robot node (jepa_robot_sim)."""
