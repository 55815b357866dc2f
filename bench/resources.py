"""What a stage needs of the machine that makes it, as a testbed declares it: it decides where a
stage is made, no number and no key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from bench.constraints import refusals_of


@dataclass(frozen=True, kw_only=True)
class Resources:
    """``gpu``: whether it needs one; ``memory_gb``, ``gpu_memory_gb``: the most that a stage takes
    of main memory and of a GPU's; ``None`` where nobody says.
    """

    gpu: bool = False
    memory_gb: Annotated[float, Gt(0)] | None = None
    gpu_memory_gb: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        for name, wanted in refusals_of(self):
            raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

    @property
    def words(self) -> str:
        """For people; empty if nothing is declared."""
        memory = "" if self.memory_gb is None else f"{self.memory_gb:g} GB of memory"
        on_it = "" if self.gpu_memory_gb is None else f"{self.gpu_memory_gb:g} GB of a GPU's"
        parts = ["a GPU" if self.gpu else "", memory, on_it]
        return ", ".join(part for part in parts if part)


def most_memory(resources: Iterable[Resources]) -> float:
    """The most main memory, in GB, that any of them declares; 0 if none does."""
    return max((one.memory_gb or 0.0 for one in resources), default=0.0)
