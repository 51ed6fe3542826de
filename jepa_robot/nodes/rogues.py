"""Notices whoever else publishes commands. Without DDS security nobody can stop them."""

from __future__ import annotations

from rclpy.node import Node

GHOST = 30.0  # s until DDS has surely forgotten a killed process: before that a twin may be dead


class RogueWatch:
    """Looks at the publishers of a topic on which only this node may publish."""

    def __init__(self, node: Node, topic: str) -> None:
        self._node, self._topic = node, node.resolve_topic_name(topic)
        self._twin_since: float | None = None

    def look(self, now: float) -> str:
        """Who else publishes at ``now`` (s on a steady clock), in words; empty if nobody does.

        A publisher of our own name may be what DDS remembers of the process that we replace.
        """
        own = (self._node.get_name(), self._node.get_namespace())
        found = self._node.get_publishers_info_by_topic(self._topic)
        names = [(info.node_name, info.node_namespace) for info in found]
        others = sorted({f"{space.rstrip('/')}/{name}" for name, space in set(names) - {own}})
        if others:
            return f"{', '.join(others)} publishes on {self._topic}, expected nobody but us"
        if names.count(own) < 2:
            self._twin_since = None
            return ""
        if self._twin_since is None:
            self._twin_since = now
        if now - self._twin_since < GHOST:
            return ""
        return f"another {own[0]} publishes on {self._topic}, expected nobody but us"
