"""The agent on a real robot that is already up: checked first, and started only if it passed."""

from launch import LaunchDescription

from jepa_robot.launching import ROBOT, describe


def generate_launch_description() -> LaunchDescription:
    return describe(*ROBOT)
