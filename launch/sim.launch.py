"""The agent on a simulated robot."""

from launch import LaunchDescription

from jepa_robot.launching import SIMULATOR, describe


def generate_launch_description() -> LaunchDescription:
    return describe(*SIMULATOR)
