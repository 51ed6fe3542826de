"""The six modules' nodes in one process (composition `single`)."""

from __future__ import annotations

from jepa_robot.nodes.actor import ActorNode
from jepa_robot.nodes.configurator import ConfiguratorNode
from jepa_robot.nodes.cost import CostNode
from jepa_robot.nodes.memory import MemoryNode
from jepa_robot.nodes.perception import PerceptionNode
from jepa_robot.nodes.runtime import main
from jepa_robot.nodes.world_model import WorldModelNode


def run() -> None:
    main(PerceptionNode, WorldModelNode, CostNode, ActorNode, MemoryNode, ConfiguratorNode)


if __name__ == "__main__":
    run()
