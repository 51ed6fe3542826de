"""What was observed of a running robot, and what is found by comparing it. No ROS, no judgement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

PASS, NOTE, WARN, FAIL, SKIP = "pass", "note", "warn", "fail", "skip"


@dataclass(frozen=True)
class Finding:
    """One row of `jepa-robot check`: what was looked at, what was found, and what to do."""

    name: str
    status: str
    found: str
    todo: str = ""


@dataclass(frozen=True)
class Endpoint:
    """A publisher or subscription of somebody else: its node's full name, the message type, and
    why its quality of service does not match ours (empty where it does).
    """

    node: str
    type: str
    clash: str = ""


@dataclass
class Stream:
    """What came on a topic. Arrivals in s on the steady clock; stamps and ages in ns, an age being
    our clock at the arrival minus the stamp.
    """

    topic: str
    type: str
    publishers: list[Endpoint] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    ages: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Messages a second; 0 where fewer than two came."""
        if len(self.arrivals) < 2:
            return 0.0
        return (len(self.arrivals) - 1) / max(self.arrivals[-1] - self.arrivals[0], 1e-9)

    @property
    def longest_gap(self) -> float:
        """The longest time between two messages, in s."""
        return float(np.diff(self.arrivals).max()) if len(self.arrivals) > 1 else np.inf

    @property
    def age(self) -> float:
        """The median age, in s."""
        return float(np.median(self.ages)) / 1e9


@dataclass(frozen=True)
class JointSample:
    """One message of joint states, in its own order: rad, rad/s."""

    names: tuple[str, ...]
    positions: np.ndarray
    velocities: np.ndarray


@dataclass
class CameraSeen:
    """What came of one camera.

    ``kinds``: width, height and encoding of its images; ``digests``: a hash of each image's bytes;
    ``picture`` ``[H, W, 3]`` uint8: the last image that can be read; ``distance`` of it from the
    bundle's training pictures: above 1 is unlike them, None where no bundle tells.
    """

    images: Stream
    infos: Stream
    kinds: set[tuple[int, int, str]] = field(default_factory=set)
    digests: list[int] = field(default_factory=list)
    picture: np.ndarray | None = None
    distance: float | None = None
    intrinsics: tuple[float, float, float, float] | None = None  # fx, fy, cx, cy
    info_size: tuple[int, int] | None = None
    distortion: tuple[float, ...] = ()


@dataclass(frozen=True)
class SafetySeen:
    """What the safety stage last said: its state and code, whether it runs dry, and its words."""

    state: str
    code: str
    is_dry_run: bool
    text: str


@dataclass
class Seen:
    """Everything that was observed. Topics are resolved names.

    ``topics``: types by topic of the whole graph. ``commands``: subscriptions of the command
    topic. ``writers``: by topic, others that publish on what is ours alone. ``parameters`` of the
    controller's node, by the last part of their names; None where it did not answer. ``latch``:
    the reason of a stop that is kept on this machine; ``release``: the service that ends it.
    """

    joints: Stream
    cameras: dict[str, CameraSeen]
    uses_sim_time: bool = False
    clock: Stream = field(default_factory=lambda: Stream("/clock", "rosgraph_msgs/msg/Clock"))
    samples: list[JointSample] = field(default_factory=list)
    topics: dict[str, list[str]] = field(default_factory=dict)
    command_topic: str = ""
    command_type: str = ""
    commands: list[Endpoint] = field(default_factory=list)
    gripper_topic: str = ""
    gripper_type: str = ""
    grippers: list[Endpoint] = field(default_factory=list)
    writers: dict[str, list[str]] = field(default_factory=dict)
    controller: str = ""
    parameters: dict[str, Any] | None = None
    description: str = ""
    safety: SafetySeen | None = None
    latch: str = ""
    release: str = "/safety/release"
