"""The control: honest training, with the budget an attack would have had. No backdoor, no
invocation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench.plugin import Card, TrainingAttack


@dataclass(frozen=True, kw_only=True)
class NoAttack(TrainingAttack):
    """The row every attack is read against: what the same fine-tuning does to a model when nobody
    cheats.
    """

    card: ClassVar[Card] = Card(
        name="none",
        summary="control: honest training with the same budget",
        applies_to=frozenset({"unconditional", "class", "text"}),
        alters=frozenset({"nothing"}),
        tuned=(),
    )
