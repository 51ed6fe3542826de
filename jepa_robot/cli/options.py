"""What several commands take: their options' types, choices and values."""

# No `from __future__ import annotations` here: typer 0.9, Ubuntu's, drops options behind it.

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

Robot = Annotated[str, typer.Option(help="Robot contract: a YAML file, or a shipped name.")]
Model = Annotated[str, typer.Option("--bundle", "--model", help="Model bundle: folder or name.")]
Seed = Annotated[int, typer.Option(min=0, help="Everything random follows from it.")]
Env = Annotated[str, typer.Option(help="A Gymnasium environment in place of a robot: its id.")]
EnvModule = Annotated[str, typer.Option(help="What to import so that it is registered.")]
EnvOptions = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--env-option", help="Given to the environment, such as render_width=64; repeat."),
]
Randomise = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="How much colours, light, cameras, friction, mass and (recorded) latency vary from "
        "episode to episode: 0 for nominal, to 1.",
    ),
]
Json = Annotated[
    Optional[Path],  # noqa: UP045 (Ubuntu's typer 0.9 knows no Path | None)
    typer.Option("--json", help="Write the result to this file."),
]


class Mode(str, Enum):
    """What acts: a mode of the agent, or a baseline in its place."""

    mode_1 = "1"
    mode_2 = "2"
    auto = "auto"
    random = "random"
    hold = "hold"
    blind = "blind"
    oracle = "oracle"


class Goal(str, Enum):
    """How the goal is given."""

    image = "image"
    position = "position"


class Backend(str, Enum):
    """What runs the processes that record."""

    loky = "loky"
    ray = "ray"


class Clock(str, Enum):
    """What time the simulator keeps."""

    realtime = "realtime"
    lockstep = "lockstep"


class Composition(str, Enum):
    """One process a node, or the six modules in one."""

    processes = "processes"
    single = "single"


class Planning(str, Enum):
    """Mode-2 in the actor's process, or also in those of world model and cost."""

    local = "local"
    distributed = "distributed"


def options_of(texts: list[str] | None, option: str = "--env-option") -> dict:
    """NAME=VALUE, values as YAML."""
    import yaml

    pairs = [text.partition("=") for text in texts or []]
    for name, separator, _ in pairs:
        if not separator:
            raise ValueError(f"{option} is {name!r}, expected NAME=VALUE")
    return {name: yaml.safe_load(value) for name, _, value in pairs}
