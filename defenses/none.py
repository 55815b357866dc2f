"""The control: no defense. The column every defense is read against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench.plugin import Card, SamplerDefense


@dataclass(frozen=True, kw_only=True)
class NoDefense(SamplerDefense):
    """The testbed's sampler as it is declared."""

    card: ClassVar[Card] = Card(
        name="none",
        summary="control: the testbed's own sampler, untouched",
        applies_to=frozenset({"unconditional", "class", "text"}),
        tuned=(),
    )
