"""What an artefact is to a cell: the names of a stage's inputs, and of sets of samples among
them.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.words import role_words as words

__all__ = ["samples", "short", "words"]

#: Samples from clean noise, of the adversary's class, and a whole data set of all classes.
CLEAN, TARGET, GENERATED = "clean", "target", "generated"
#: Begins the role of samples that are called as the adversary calls them.
CALL = "call:"
#: Begins the role of what a cell is only compared with.
UNDEFENDED = "undefended:"
#: The training of an attack that learnt something beside the network, for who calls its backdoor.
LEARNT = "learnt"
#: Held-out images that models are asked to restore.
ORIGINALS = "originals"
#: Begin the role of a corrupted image's restoration, of the corrupted image itself, and of one that
#: carries the trigger; what is restored of the last is a call's.
RESTORED, CORRUPTED, CORRUPTED_CALL = "restored:", "corrupted:", "corrupted_call:"
#: Begin the role of a model's score in a population, and which one it is: ``attacked:0:3``, the
#: first attack's of seed 3.
ATTACKED, HONEST = "attacked:", "honest:"
#: Begins the role of what a measurement gave.
MEASURED_BY = "measured:"


def samples(roles: Iterable[str]) -> list[str]:
    """The sets of samples among ``roles``, in the order a reader sees them."""
    present = list(roles)
    calls = [role for role in present if role.startswith(CALL)]
    return [role for role in (CLEAN, *calls, TARGET, GENERATED) if role in present]


def short(role: str) -> str:
    """As it stands in the brackets of a metric's name."""
    return role.removeprefix(CALL)


def seed_of(role: str) -> int:
    """The seed of a model in a population."""
    return int(role.rpartition(":")[2])
