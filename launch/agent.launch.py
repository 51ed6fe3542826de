"""The agent alone, for a robot that is already up."""

from launch import LaunchDescription

from jepa_robot.launching import describe


def generate_launch_description() -> LaunchDescription:
    return describe()
