"""Several defenses at once, as one column of the matrix."""

from __future__ import annotations

from dataclasses import dataclass

from bench.contracts.defense import (
    ClassifierDefense,
    DataDefense,
    Defense,
    Inversion,
    ModelDefense,
    SamplerDefense,
)
from bench.contracts.plugin import Plugin
from bench.errors import UserError
from bench.registry import family_of


@dataclass(frozen=True)
class Composed:
    """``parts``: two or more. Model defenses repair one after the other, each what the one before
    left; sampler defenses then step in at every step, each on what the one before made of it; at
    most one that judges the result (of data, a classifier, an inversion) comes last.

    Raises :class:`UserError` for parts that cannot stand together.
    """

    parts: tuple[Defense, ...]

    def __post_init__(self) -> None:
        names = [part.card.name for part in self.parts]
        if len(names) < 2 or "none" in names:
            raise UserError(
                f"defenses at once must be two or more, 'none' not among them, got {names}"
            )
        judging = [
            part for part in self.parts if not isinstance(part, ModelDefense | SamplerDefense)
        ]
        if len(judging) > 1 or (judging and judging[0] is not self.parts[-1]):
            kinds = " and ".join(f"{part.card.name} ({family_of(part)})" for part in judging)
            raise UserError(
                f"defenses at once: only one may judge what the others leave, and it comes last, "
                f"got {kinds}"
            )
        sampling = [part for part in self.parts if isinstance(part, SamplerDefense)]
        if sampling and judging and isinstance(judging[0], ClassifierDefense | Inversion):
            raise UserError(
                f"defenses at once: {sampling[0].card.name} steps in at sampling, and "
                f"{judging[0].card.name} looks at the weights alone"
            )

    @property
    def name(self) -> str:
        """All parts' names."""
        return " + ".join(part.card.name for part in self.parts)

    def label(self) -> str:
        """All parts' labels."""
        return " + ".join(part.label() for part in self.parts)

    @property
    def family(self) -> str:
        """Of the part that decides what is measured: the one that judges, else a model defense,
        else the sampler's.
        """
        last = self.parts[-1]
        if isinstance(last, DataDefense | ClassifierDefense | Inversion):
            return family_of(last)
        return family_of(
            next((part for part in self.parts if isinstance(part, ModelDefense)), last)
        )


def parts_of(treatment: Plugin | Composed) -> tuple[Plugin, ...]:
    """What a column is made of."""
    return treatment.parts if isinstance(treatment, Composed) else (treatment,)


def name_of(treatment: Plugin | Composed) -> str:
    """What a column is called in commands."""
    return treatment.name if isinstance(treatment, Composed) else treatment.card.name
