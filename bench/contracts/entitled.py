"""Hands a plugin the inputs that its card lists, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.contracts.card import Card, Need
from bench.errors import ContractError


@dataclass(frozen=True)
class Withheld:
    """Placeholder for an input that a plugin did not request; reading it is an error.

    ``plugin``: its name; ``need``: what should have been declared; ``what``: what that would give,
    if that is no need of the card.
    """

    plugin: str
    need: str
    what: str = ""


class Undeclared(ContractError):
    """A plugin reads what its card does not entitle it to."""


class Entitled:
    """Raises :class:`Undeclared` when a field is read that is :class:`Withheld`."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if isinstance(value, Withheld):
            read = f"{type(self).__name__.lower()}.{name}"
            missing = (
                f"it does not declare {value.need} for {value.what}"
                if value.what
                else f"its card's needs do not list {value.need!r}"
            )
            raise Undeclared(f"{value.plugin}: reads {read}, but {missing}")
        return value


def entitled(card: Card, sources: Mapping[str, tuple[Need, Callable[[], Any]]]) -> dict[str, Any]:
    """Each field of ``sources``, made if ``card`` lists its need, and :class:`Withheld` if not."""
    return {
        field: make() if need in card.needs else Withheld(card.name, need)
        for field, (need, make) in sources.items()
    }
