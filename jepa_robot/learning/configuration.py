"""Settings of training from a YAML file and the command line, into frozen dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

Config = TypeVar("Config")


def configure(
    kind: type[Config], file: str | Path | None = None, overrides: Sequence[str] = ()
) -> Config:
    """Build a configuration.

    Args:
        kind: a dataclass with a default for each field.
        file: YAML with some of its fields.
        overrides: such as ``jepa.encoder.name=vit``; they win over the file. Values are YAML.

    Raises:
        ValueError: names the field that is unknown, or its value and what was expected.
        OSError: the file cannot be read.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = yaml.safe_load(Path(file).read_text()) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{file}: is not YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file}: is {values!r}, expected fields and their values")
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"setting is {override!r}, expected NAME=VALUE")
        *sections, last = name.strip().split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ValueError(f"{section} in {override!r} is {place!r}, expected a section")
        place[last] = yaml.safe_load(text)
    return _build(kind, values, str(file) if file else "", "")


def to_yaml(config: object) -> str:
    """What `configure` reads."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _build(kind: type[Config], values: dict, source: str, prefix: str) -> Config:
    where = f"{source}: " if source else ""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    arguments = {}
    for name, value in values.items():
        if name not in fields:
            raise ValueError(
                f"{where}{prefix}{name} is unknown, expected one of {', '.join(fields)}"
            )
        default = _default(fields[name])
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise ValueError(f"{where}{prefix}{name} is {value!r}, expected a section")
            value = _build(type(default), value, source, f"{prefix}{name}.")
        elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        elif isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        elif type(value) is not type(default):
            raise ValueError(
                f"{where}{prefix}{name} is {value!r}, expected a {type(default).__name__}"
            )
        arguments[name] = value
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML knows."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
