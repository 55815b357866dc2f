"""What all plugins share.

A plugin is a frozen, keyword-only dataclass. Its fields are its hyper-parameters, and their
annotations say what they may be; its methods are its behaviour; its ``card`` is its declaration.
``(name, params)`` rebuilds it exactly. A plugin reads no global state, environment or clock; its
randomness comes only through what it is handed; and it **never measures itself**: it returns
artefacts, the harness owns every number.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

from bench.constraints import refusals_of
from bench.contracts.card import Card, Need

LABEL_LETTERS = 200


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A card, and parameters that survive JSON."""

    card: ClassVar[Card]
    #: What the harness can hand a plugin of this family; a card's ``needs`` are among it.
    offered: ClassVar[frozenset[Need]] = frozenset()
    #: Of these it is handed one at most: with both it would know what it is asked to work out.
    apart: ClassVar[frozenset[Need]] = frozenset()
    #: Parameters that belong to the method's name for a reader; :meth:`label` always has them.
    always_shown: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuses what would make two plugins look like one, or promise what nobody can keep.
        Raises ``TypeError``.
        """
        super().__init_subclass__(**options)
        for method in ("label", "params"):
            if method in vars(cls):
                raise TypeError(
                    f"{cls.__name__} must not define {method}(): a plugin is known by its card's "
                    f"name and its fields"
                )
        card = vars(cls).get("card")
        if card is None:
            return
        if not isinstance(card, Card):
            raise TypeError(f"{cls.__name__}: card must be a Card, got {type(card).__name__}")
        unmet = sorted(card.needs - cls.offered)
        if unmet:
            can = ", ".join(repr(need) for need in sorted(cls.offered)) or "nothing"
            raise TypeError(
                f"{card.name}: needs lists {unmet}, but a plugin of its family is handed {can}"
            )

        if cls.apart and cls.apart <= card.needs:
            both = " and ".join(repr(need) for need in sorted(cls.apart))
            raise TypeError(
                f"{card.name}: needs must not list both {both}: a plugin of its family would know "
                f"altered rows by comparison"
            )

    def __post_init__(self) -> None:
        """Refuses what the annotations of the fields exclude (:mod:`bench.constraints`) with a
        ``ValueError``. A subclass calls it, then checks what relates several fields.
        """
        for field, constraint in refusals_of(self):
            require(False, self, field, constraint)

    @final
    def params(self) -> dict[str, Any]:
        """The hyper-parameters as JSON-ready values; ``type(self)(**self.params()) == self``."""
        return dataclasses.asdict(self)

    @final
    def label(self) -> str:
        """The name a reader sees: the card's name, :attr:`always_shown`, and the parameters that
        differ from their defaults.

        Printable ASCII, at most :data:`LABEL_LETTERS`; a longer one ends in a hash, so that two
        plugins never share one.
        """
        changed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name in self.always_shown or getattr(self, field.name) != field.default
        }
        text = self.card.name + (
            f"({', '.join(f'{key}={value}' for key, value in changed.items())})" if changed else ""
        )
        escaped = text.encode("unicode_escape").decode("ascii")
        if len(escaped) <= LABEL_LETTERS:
            return escaped
        digest = hashlib.sha256(escaped.encode()).hexdigest()[:8]
        return f"{escaped[: LABEL_LETTERS - len(digest) - 4]}... {digest}"


def require(condition: bool, plugin: Plugin, field: str, constraint: str) -> None:
    """Raise ``ValueError`` naming the plugin, the field, the constraint and the value unless
    ``condition`` holds.
    """
    if not condition:
        raise ValueError(
            f"{plugin.card.name}: {field} must be {constraint}, got {getattr(plugin, field)!r}"
        )


def refusals(*checks: Callable[[], object]) -> list[str]:
    """The messages of those checks that raise ``ValueError``."""
    lines = []
    for check in checks:
        try:
            check()
        except ValueError as error:
            lines.append(str(error))
    return lines
