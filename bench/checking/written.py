"""Whether the author has written what only the author can say."""

from __future__ import annotations

from bench.checking.question import Doubtful
from bench.contracts.card import FILL_IN, unwritten
from bench.contracts.plugin import Plugin


def the_card_is_written(plugin: Plugin) -> None:
    """Raises :class:`Doubtful` for texts that ``castlewalls new`` left to the author."""
    if left := unwritten(plugin.card):
        raise Doubtful(
            f"{FILL_IN} is still its {', '.join(left)}; changed later, it moves every result's key"
        )
