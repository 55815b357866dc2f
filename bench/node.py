"""A value of a YAML file with its location, so that every error is one line that says where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.errors import UserError
from bench.names import brief

NUMBER = int | float


@dataclass(frozen=True)
class Node:
    """``location``: where the value is, such as ``poison/02-rates.yaml: claims[1].left``."""

    value: Any
    location: str

    def fault(self, problem: str) -> UserError:
        """The error about this value, to raise."""
        return UserError(f"{self.location}: {problem}")

    def fields(self, known: Iterable[str], needed: Iterable[str] = ()) -> dict[str, Node]:
        """The entries of a mapping. Raises :class:`UserError` for a key that is not known, or one
        that is missing.
        """
        entries = self.entries()
        names = sorted({*known, *needed})
        for key in entries:
            if key not in names:
                raise self.fault(f"has no key {brief(key)}; known: {', '.join(names)}")
        for key in needed:
            if key not in entries:
                raise self.fault(f"needs the key {key}")
        return entries

    def entries(self) -> dict[str, Node]:
        """The entries of a mapping whose keys are text."""
        if not isinstance(self.value, dict) or not all(isinstance(key, str) for key in self.value):
            raise self.fault(f"must be a mapping with names, got {brief(self.value)}")
        joint = "." if ": " in self.location else ": "
        return {
            key: Node(value, f"{self.location}{joint}{key}") for key, value in self.value.items()
        }

    def items(self) -> list[Node]:
        """The items of a list."""
        if not isinstance(self.value, list):
            raise self.fault(f"must be a list, got {brief(self.value)}")
        return [Node(value, f"{self.location}[{index}]") for index, value in enumerate(self.value)]

    def text(self) -> str:
        """One line or more; never empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.fault(f"must be text, got {brief(self.value)}")
        return self.value

    def number(self) -> float:
        """Whole or not."""
        if not isinstance(self.value, NUMBER) or isinstance(self.value, bool):
            raise self.fault(f"must be a number, got {brief(self.value)}")
        return self.value

    def flag(self) -> bool:
        """``true`` or ``false``."""
        if not isinstance(self.value, bool):
            raise self.fault(f"must be true or false, got {brief(self.value)}")
        return self.value

    def texts(self) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(item.text() for item in self.items())
