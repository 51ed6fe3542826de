"""Reading YAML into validated values, with errors that name file, line, field and expectation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml


class InvalidFile(ValueError):
    """A file does not say what its schema expects."""


class Section:
    """One mapping of a YAML file that knows its own place in the file."""

    def __init__(
        self, data: Any, source: str, path: str = "", lines: dict[str, int] | None = None
    ) -> None:
        self.source, self.path, self.lines = source, path, lines or {}
        if not isinstance(data, dict):
            what = path or "the file"
            raise InvalidFile(f"{self.place(path)}: {what} is {data!r}, expected a mapping")
        self._data = data
        self._read: set[str] = set()

    @classmethod
    def from_file(cls, path: Path) -> Section:
        """Read a YAML file.

        Raises:
            InvalidFile: if it is missing, is no YAML or holds no mapping.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidFile(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidFile(f"{path}: is not YAML: {error}") from error
        return cls.from_text(text, str(path))

    @classmethod
    def from_text(cls, text: str, source: str) -> Section:
        """Read YAML.

        Raises:
            InvalidFile: if it is no YAML, names a field twice or holds no mapping.
        """
        lines: dict[str, int] = {}
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            if node is not None:
                _note_lines(node, "", source, lines)
            data = None if node is None else loader.construct_document(node)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            if isinstance(error, InvalidFile):
                raise
            raise InvalidFile(f"{source}: is not YAML: {error}") from error
        return cls(data, source, "", lines)

    def place(self, path: str) -> str:
        return place(self.source, self.lines, path)

    def __contains__(self, field: str) -> bool:
        return field in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(list(map(str, self._data)))

    def fail(self, field: str, expected: str) -> InvalidFile:
        """The error to raise for ``field``."""
        where = self._where(field)
        if field not in self._data:
            return InvalidFile(f"{self.place(where)}: {where} is missing, expected {expected}")
        value = self._data[field]
        return InvalidFile(f"{self.place(where)}: {where} is {value!r}, expected {expected}")

    def end(self) -> None:
        """Refuse fields that nobody asked for: most often they are misspelt."""
        unknown = sorted(set(self._data) - self._read, key=str)
        if unknown:
            where = self._where(unknown[0])
            raise InvalidFile(
                f"{self.place(where)}: {where} is not a known field, "
                f"expected one of {', '.join(sorted(self._read))}"
            )

    def value(self, field: str, default: Any = ..., expected: str = "a value") -> Any:
        self._read.add(field)
        if field not in self._data:
            if default is ...:
                raise self.fail(field, expected)
            return default
        return self._data[field]

    def text(self, field: str, default: Any = ..., choices: Sequence[str] = ()) -> str:
        expected = f"one of {', '.join(choices)}" if choices else "a non-empty text"
        value = self.value(field, default, expected)
        if field not in self._data and default is not ...:
            return value
        if not isinstance(value, str) or not value or (choices and value not in choices):
            raise self.fail(field, expected)
        return value

    def number(
        self, field: str, default: Any = ..., low: float = -math.inf, high: float = math.inf
    ) -> float:
        expected = f"a number{_range(low, high)}"
        value = self.value(field, default, expected)
        if not _is_number(value) or not low <= value <= high:
            raise self.fail(field, expected)
        return float(value)

    def integer(self, field: str, default: Any = ..., low: int = 0, high: int = 2**31) -> int:
        expected = f"a whole number{_range(low, high)}"
        value = self.value(field, default, expected)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(field, expected)
        return value

    def numbers(self, field: str, length: int | None = None, default: Any = ...) -> tuple:
        expected = f"a list of {'some' if length is None else length} numbers"
        value = self.value(field, default, expected)
        if field not in self._data:
            return default
        fits = isinstance(value, (list, tuple)) and all(_is_number(v) for v in value)
        if not fits or (length is not None and len(value) != length):
            raise self.fail(field, expected)
        return tuple(float(v) for v in value)

    def section(self, field: str, default: Any = ...) -> Section:
        value = self.value(field, default, "a mapping")
        return Section(value, self.source, self._where(field), self.lines)

    def sections(self, field: str, at_least: int = 1) -> Iterator[Section]:
        expected = f"a list of at least {at_least} mapping(s)"
        value = self.value(field, expected=expected)
        if not isinstance(value, list) or len(value) < at_least:
            raise self.fail(field, expected)
        for index, item in enumerate(value):
            yield Section(item, self.source, f"{self._where(field)}[{index}]", self.lines)

    def _where(self, field: str) -> str:
        return f"{self.path}.{field}" if self.path else str(field)


def place(source: str, lines: dict[str, int], path: str) -> str:
    """``source:line`` of a field by its full path, or of the nearest that is there."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return f"{source}:{lines[path]}" if path in lines else source


def _note_lines(node: yaml.Node, path: str, source: str, lines: dict[str, int]) -> None:
    """Where each field stands, by its full path; a field that is there twice is an error."""
    if path:
        lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            line = key.start_mark.line + 1
            if name in lines:
                raise InvalidFile(f"{source}:{line}: {name} is there twice, expected once")
            lines[name] = line
            _note_lines(value, name, source, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, f"{path}[{index}]", source, lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _range(low: float, high: float) -> str:
    if low == -math.inf and high == math.inf:
        return ""
    return f" from {low:g} to {high:g}" if high < 2**31 else f" of at least {low:g}"
