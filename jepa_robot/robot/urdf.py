"""What a URDF says of its joints, from its XML: Pinocchio drops what it does not move."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from xml.etree import ElementTree

PREFIX = re.compile(rb"[\s</]([A-Za-z_][\w.-]*):[A-Za-z_]")
DRIVEN_TYPES = ("revolute", "prismatic", "continuous")


class InvalidUrdf(ValueError):
    """A text that is no URDF; the message says what was expected."""


@dataclass(frozen=True)
class UrdfJoint:
    """One joint: limits in rad or m, infinite where there are none; ``mimic``: whom it follows;
    ``origin``: x, y, z, roll, pitch, yaw (m, rad) in its parent.
    """

    name: str
    type: str
    parent: str
    child: str
    lower: float
    upper: float
    velocity: float
    mimic: str
    origin: tuple[float, ...]
    axis: tuple[float, ...]

    @property
    def moves(self) -> bool:
        return self.type != "fixed"


@dataclass(frozen=True)
class Urdf:
    """The joints by name, and the names of the links."""

    joints: dict[str, UrdfJoint]
    links: frozenset[str]

    def chain(self, link: str) -> list[UrdfJoint]:
        """The joints from a link down to the root."""
        above = {joint.child: joint for joint in self.joints.values()}
        found: list[UrdfJoint] = []
        while link in above and len(found) <= len(self.joints):
            found.append(above[link])
            link = above[link].parent
        return found

    def between(self, base: str, tip: str) -> list[UrdfJoint]:
        """The joints that move ``tip`` against ``base``."""
        here, there = self.chain(base), self.chain(tip)
        return [j for j in there if j not in here] + [j for j in here if j not in there]


def parse(text: str | bytes) -> ElementTree.Element:
    """The XML of a URDF; prefixes that Drake or xacro left unbound are nobody's but do no harm.

    Raises:
        ElementTree.ParseError: it is no XML.
    """
    data = text.encode() if isinstance(text, str) else text
    names = {p for p in PREFIX.findall(data) if b"xmlns:" + p not in data} - {b"xmlns", b"xml"}
    bound = b"".join(b' xmlns:%s="%s"' % (name, name) for name in sorted(names))
    data = data.replace(b"<robot", b"<robot" + bound, 1)
    return ElementTree.fromstring(data)  # noqa: S314 (expat bounds what entities expand to)


def read_urdf(text: str | bytes) -> Urdf:
    """Read a URDF.

    Raises:
        InvalidUrdf: it is no XML, has no robot, or a joint has no name, links or numbers.
    """
    try:
        root = parse(text)
    except ElementTree.ParseError as error:
        raise InvalidUrdf(f"is no XML: {error}") from error
    if root.tag != "robot":
        raise InvalidUrdf(f"has a {root.tag!r} at its root, expected a robot")
    joints = [_joint(element) for element in root.findall("joint")]
    links = frozenset(element.get("name", "") for element in root.findall("link"))
    return Urdf({joint.name: joint for joint in joints}, links)


def with_turns_as_angles(text: str | bytes) -> str:
    """The URDF with its continuous joints as revolute ones of any angle.

    Pinocchio gives a continuous joint two coordinates (cosine and sine); everything else here, as
    joint states and controllers, has one angle a joint.
    """
    root = parse(text)
    for element in root.findall("joint[@type='continuous']"):
        element.set("type", "revolute")
        limit = element.find("limit")
        if limit is None:
            limit = ElementTree.SubElement(element, "limit", effort="1e9", velocity="1e9")
        limit.attrib |= {"lower": "-1e9", "upper": "1e9"}
    return ElementTree.tostring(root, encoding="unicode")


def _joint(element: ElementTree.Element) -> UrdfJoint:
    name, kind = element.get("name", ""), element.get("type", "")
    limit = element.find("limit")
    given = {} if limit is None else limit.attrib
    if kind == "revolute" and limit is None:
        raise InvalidUrdf(f"has no limit for joint {name!r}, expected one: it is revolute")
    try:
        lower, upper = (float(given.get(field, 0)) for field in ("lower", "upper"))
        velocity = float(given.get("velocity", math.inf))
    except ValueError as error:
        raise InvalidUrdf(f"has a limit of joint {name!r} that is no number: {error}") from error
    if kind == "continuous":
        lower, upper = -math.inf, math.inf
    return UrdfJoint(
        name=name,
        type=kind,
        parent=_attribute(element, "parent", "link"),
        child=_attribute(element, "child", "link"),
        lower=lower,
        upper=upper,
        velocity=velocity,
        mimic=_attribute(element, "mimic", "joint"),
        origin=(*_triple(element, "origin", "xyz"), *_triple(element, "origin", "rpy")),
        axis=_triple(element, "axis", "xyz", "1 0 0"),
    )


def _triple(
    element: ElementTree.Element, tag: str, attribute: str, default: str = "0 0 0"
) -> tuple[float, ...]:
    text = _attribute(element, tag, attribute) or default
    try:
        x, y, z = (float(number) for number in text.split())
    except ValueError as error:
        raise InvalidUrdf(
            f"has {attribute} {text!r} in joint {element.get('name')!r}, expected three numbers"
        ) from error
    return x, y, z


def _attribute(element: ElementTree.Element, tag: str, attribute: str) -> str:
    found = element.find(tag)
    return "" if found is None else found.get(attribute, "")
