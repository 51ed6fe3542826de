"""Rows about a topic that the robot publishes: who does, how often, and by what clock."""

from __future__ import annotations

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.seen import FAIL, PASS, SKIP, WARN, Endpoint, Finding, Seen, Stream
from jepa_robot.validation import place

SLOW, SLOWISH, FAST = 0.8, 0.9, 1.25  # of the contract's rate
MOST_AGE = 0.05  # s that a message may be older than our clock says
SIMULATED = 1_000_000_000_000_000_000  # ns: no machine's clock is before the year 2001


def where(contract: RobotContract, path: str) -> str:
    """A field of the contract with its line, such as ``arm.yaml:41 (rates.image)``."""
    return f"{place(contract.source, contract.lines, path)} ({path})"


def check_topic(name: str, stream: Stream, seen: Seen, shares: bool = False) -> Finding:
    """Whether somebody publishes what we take. ``shares``: there may be several of them."""
    if not stream.publishers:
        return Finding(
            name,
            FAIL,
            f"nobody publishes {stream.topic}",
            f"start its driver, or remap the driver's topic to {stream.topic}"
            + others(stream.topic, stream.type, seen),
        )
    found = check_ends(name, stream.topic, stream.type, stream.publishers, "published")
    if found:
        return found
    nodes = [publisher.node for publisher in stream.publishers]
    if not stream.arrivals:
        return Finding(
            name,
            FAIL,
            f"{stream.topic} is there, by {', '.join(nodes)}, but nothing came",
            "see what its driver says; between machines: multicast, firewall, the same "
            "ROS_DOMAIN_ID and RMW_IMPLEMENTATION",
        )
    if len(nodes) > 1:
        return Finding(
            name,
            WARN if shares else FAIL,
            f"{stream.topic} is published by {', '.join(nodes)}",
            "stop all but one" if not shares else "let one publish all joints in each message",
        )
    return Finding(name, PASS, f"{stream.topic} by {nodes[0]}")


def check_ends(
    name: str, topic: str, wanted: str, ends: list[Endpoint], verb: str
) -> Finding | None:
    """What is wrong with a topic's other ends: type or quality of service; None if nothing is."""
    for end in ends:
        if end.type != wanted:
            todo = f"make {end.node} take or send {wanted}"
            if end.type == "sensor_msgs/msg/CompressedImage":
                todo = "let the driver, or image_transport republish, publish raw images there"
            return Finding(
                name, FAIL, f"{topic} is {verb} as {end.type} by {end.node}, not as {wanted}", todo
            )
    for end in ends:
        if end.clash:
            return Finding(
                name,
                FAIL,
                f"{topic}: QoS of {end.node} and ours do not match: {end.clash}",
                f"set {end.node}'s QoS for it to reliable, volatile, without a deadline",
            )
    return None


def others(topic: str, wanted: str, seen: Seen) -> str:
    """Topics of the same type that are there, as a hint; empty without any."""
    same = sorted(n for n, types in seen.topics.items() if wanted in types and n != topic)
    if not same:
        return ""
    more = f" and {len(same) - 4} more" if len(same) > 4 else ""
    return f"; of this type are there: {', '.join(same[:4])}{more}"


def check_rate(
    name: str, stream: Stream, contract: RobotContract, field: str, is_timed: bool = False
) -> Finding:
    """The measured rate against ``rates.FIELD``. ``is_timed``: too many are wrong, too."""
    wanted = getattr(contract.rates, field)
    if not stream.arrivals:
        return Finding(name, SKIP, "nothing came")
    found = f"{stream.rate:.1f} Hz, the contract says {wanted:g}"
    line = where(contract, f"rates.{field}")
    if stream.rate < SLOW * wanted:
        todo = f"make the driver publish at {wanted:g} Hz, or correct {line}"
        return Finding(name, FAIL, found, todo)
    if is_timed and stream.rate > FAST * wanted:
        return Finding(
            name,
            FAIL,
            found,
            f"one action a frame: make the camera publish at {wanted:g} Hz, or correct {line} and "
            "train a bundle for it",
        )
    if stream.rate < SLOWISH * wanted:
        return Finding(name, WARN, found, "look for a busy computer or a lossy network")
    return Finding(name, PASS, found)


def check_age(name: str, stream: Stream, seen: Seen, most: float = MOST_AGE) -> Finding:
    """Whether stamps and our clock agree."""
    if not stream.stamps:
        return Finding(name, SKIP, "nothing came")
    if not any(stream.stamps):
        return Finding(
            name, FAIL, f"{stream.topic} is not stamped", "let its driver set header.stamp"
        )
    if abs(stream.age) <= most:
        return Finding(name, PASS, f"stamps are {1000 * stream.age:.0f} ms old")
    late = "ms old" if stream.age > 0 else "ms ahead"
    found = f"stamps are {1000 * abs(stream.age):.0f} {late}, expected at most {1000 * most:.0f}"
    is_simulated = stream.stamps[-1] < SIMULATED
    if is_simulated != seen.uses_sim_time:
        todo = (
            "it is stamped by a simulated clock: pass --use-sim-time"
            if is_simulated
            else "it is stamped by the wall clock: leave out --use-sim-time, or set use_sim_time "
            f"for {', '.join(p.node for p in stream.publishers)}"
        )
    elif abs(stream.age) > 1:
        todo = "the machines' clocks differ: synchronise them with chrony; or set use_sim_time"
    else:
        todo = (
            "synchronise the machines' clocks with chrony; if they agree (chronyc tracking), the "
            "driver stamps or sends late"
        )
    return Finding(name, FAIL, found, todo)


def check_clock(seen: Seen) -> Finding:
    """Whether /clock is there exactly if it is followed."""
    nodes = ", ".join(publisher.node for publisher in seen.clock.publishers)
    if seen.uses_sim_time:
        if not seen.clock.arrivals:
            return Finding(
                "clock",
                FAIL,
                "--use-sim-time is given, but nothing came on /clock",
                "start the simulator, or leave out --use-sim-time",
            )
        return Finding("clock", PASS, f"/clock at {seen.clock.rate:.0f} Hz by {nodes}")
    if nodes:
        return Finding(
            "clock",
            WARN,
            f"{nodes} publishes /clock, which nobody here follows",
            "with a simulator: pass --use-sim-time; with a real robot: stop the simulator or bag",
        )
    return Finding("clock", PASS, "the machine's own; no /clock")
