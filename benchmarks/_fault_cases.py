"""The cases of the fault bench: what is done to a running agent, and what must follow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

NODES = ("perception", "world_model", "cost", "actor", "memory", "configurator", "safety")
RELAYED = ("state", "action", "plan")
FRAMES = 3  # within which a content fault must hold the arm


@dataclass(frozen=True)
class Case:
    """One trial.

    ``fault`` is what the fake robot is told; ``act`` what the bench does itself: ``kill SIGNAL
    NODE``, ``rogue TOPIC`` or ``stop PHASE``. ``codes``: one of them must be seen on safety_state;
    none means that the arm may go on. ``since`` and ``within``: from which event on the hold is
    timed, and the limit in s. ``is_clocked``: on the fake robot's own /clock.
    """

    name: str
    mode: int
    seed: int
    duration: float
    fault: dict = field(default_factory=dict)
    act: str = ""
    codes: tuple[str, ...] = ()
    since: str = ""
    within: float = 0.0
    is_clocked: bool = False

    @property
    def is_kill(self) -> bool:
        """A process ends and must be started again."""
        return self.act.startswith(("kill SIGKILL", "kill SIGSEGV"))


def all_cases(
    contract, seed: int = 0, repeats: int = 1, only: str = "", modes: Sequence[int] = (1, 2)
) -> list[Case]:
    """Every kind of case in every mode; moments, durations and strengths follow from the seed."""
    cases: list[Case] = []
    for repeat in range(repeats):
        for mode in modes:
            rng = np.random.default_rng([seed, repeat, mode])
            for make in KINDS:
                for values in make(contract, rng):
                    values.setdefault("duration", round(rng.uniform(0.5, 1.2), 3))
                    case_seed = int(rng.integers(2**31))
                    case = Case(mode=mode, seed=case_seed, **values)
                    if re.search(only, case.name):
                        cases.append(case)
    return cases


def short_cases(contract, seed: int = 0) -> list[Case]:
    """About a third of the kinds, in alternating modes: what fits into two minutes."""
    modes = {mode: all_cases(contract, seed, modes=(mode,)) for mode in (1, 2)}
    kinds = dict.fromkeys(case.name for case in modes[1])
    chosen = [name for name in kinds if "SIGKILL" in name or not name.startswith("node")][::2]
    chosen += [name for name in kinds if "SIGSTOP" in name][::3]
    return [
        next(case for case in modes[1 + index % 2] if case.name == name)
        for index, name in enumerate(chosen)
    ]


def _inputs(contract, rng):
    watchdogs = contract.watchdogs
    for _ in range(3):
        yield {
            "name": "input camera stopped",
            "fault": {"kind": "camera_stopped"},
            "codes": ("action_stale",),
            "since": "last image",
            "within": watchdogs.action,
        }
        yield {
            "name": "input joint_states stopped",
            "fault": {"kind": "joints_stopped"},
            "codes": ("joint_states_stale",),
            "since": "last joints",
            "within": watchdogs.joint_states,
        }


def _content(contract, rng):
    within = FRAMES / contract.rates.image
    for kind, since in (
        ("camera_black", "first image"),
        ("camera_half", "first image"),
        ("camera_swapped", "first image"),
        ("camera_frozen", "told frozen"),
    ):
        for _ in range(2):
            yield {
                "name": f"content {kind}",
                "fault": {"kind": kind},
                "codes": ("hold_requested", "action_stale"),
                "since": since,
                "within": within,
            }
    for kind in ("camera_cut", "camera_size", "camera_late"):
        yield {
            "name": f"content {kind}",
            "fault": {"kind": kind},
            "codes": ("hold_requested", "action_stale"),
            "since": "last image",
            "within": contract.watchdogs.action,
        }


def _joints(contract, rng):
    for kind in ("joints_late", "joints_missing", "joints_nan"):
        yield {
            "name": f"joints {kind}",
            "fault": {"kind": kind},
            "codes": ("joint_states_stale",),
            "since": "last joints",
            "within": contract.watchdogs.joint_states,
        }
    joint, jump = int(rng.integers(7)), float(rng.choice([-1, 1]) * rng.uniform(0.3, 1.0))
    jumps = {"joint": joint % len(contract.joints), "jump": jump}
    yield {"name": "joints joints_jump", "fault": {"kind": "joints_jump", **jumps}}
    yield {
        "name": "joints joints_jumped",
        "fault": {"kind": "joints_jumped", **jumps},
        "codes": ("joint_jump", "tracking"),
    }
    yield {"name": "joints joints_permuted", "fault": {"kind": "joints_permuted"}}
    yield {
        "name": "joints controller_inactive",
        "fault": {"kind": "controller_inactive"},
    }


def _network(contract, rng):
    for topic in ("image", "joint_states", *RELAYED, "command"):
        share = round(float(rng.uniform(0.1, 0.5)), 2)
        yield {
            "name": f"network lost {topic}",
            "fault": {"kind": "lost", "topic": topic, "share": share},
        }
    for topic in ("image", "joint_states", "state", "action", "command"):
        yield {
            "name": f"network duplicated {topic}",
            "fault": {"kind": "duplicated", "topic": topic, "share": 0.5},
        }
        yield {
            "name": f"network reordered {topic}",
            "fault": {"kind": "reordered", "topic": topic, "share": 0.4},
        }
    delay = round(float(rng.uniform(0.02, 0.5)), 3)
    for topic in ("image", "action"):
        yield {
            "name": f"network delayed {topic}",
            "fault": {"kind": "delayed", "topic": topic, "delay": delay},
        }


def _nodes(contract, rng):
    for signal in ("SIGKILL", "SIGSTOP", "SIGSEGV"):
        for node in NODES:
            yield {
                "name": f"node {signal} {node}",
                "act": f"kill {signal} {node}",
                "duration": round(float(rng.uniform(0.3, 1.5)), 3),
            }


def _stops(contract, rng):
    """In every phase: on the way, while control ramps up, in a hold, and kept across a restart."""
    stopped = {"codes": ("stop_requested",)}
    yield {"name": "stop moving", "act": "stop moving", **stopped}
    yield {"name": "stop ramping", "act": "stop ramping", **stopped}
    fault = {"kind": "camera_stopped"}
    yield {"name": "stop held", "act": "stop held", "fault": fault, "duration": 0.6, **stopped}
    yield {"name": "stop restarted", "act": "stop restarted", **stopped}


def _rogues(contract, rng):
    for topic in ("action", "plan"):
        yield {
            "name": f"rogue on {topic}",
            "act": f"rogue {topic}",
            "codes": ("two_sources",),
        }
    yield {"name": "rogue on command", "act": "rogue command", "codes": ("rogue_command",)}


def _clock(contract, rng):
    yield {
        "name": "clock stopped",
        "fault": {"kind": "clock_stopped"},
        "codes": ("joint_states_stale", "action_stale"),
        "is_clocked": True,
    }
    for jump in (-5.0, 5.0, -0.5, 0.5, 3600.0):
        yield {
            "name": f"clock jump {jump:g} s",
            "fault": {"kind": "clock_jump", "jump": jump},
            "is_clocked": True,
        }


KINDS = (_inputs, _content, _joints, _network, _nodes, _stops, _rogues, _clock)
