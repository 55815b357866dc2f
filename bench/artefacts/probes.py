"""Probes: the sets of samples that a generator is judged by, each declared by what asks for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.artefacts.roles import CALL, CLEAN, GENERATED, TARGET
from bench.artefacts.rows import evenly
from bench.contracts.attack import Attack
from bench.contracts.goals import label_of
from bench.testbeds.testbed import Testbed


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One set of samples to draw.

    ``role``: what it is to a cell. ``count``: the field of the testbed's counts that says how many;
    ``None`` there is as many as the training set has rows. ``stream``: samples of one stream share
    their noise, so that they can be compared in pairs. ``label``: the one class that is asked for;
    ``None``: all alike often, where there are classes. ``call``: the attack's, by name.
    """

    role: str
    count: str
    stream: Literal["sample", "generated"] = "sample"
    label: int | None = None
    call: str | None = None

    def params(self) -> dict[str, Any]:
        """JSON-ready; ``Probe(**params)`` is the inverse."""
        return asdict(self)


#: Every testbed's: what a user draws, who knows of no backdoor.
CLEAN_PROBE = Probe(role=CLEAN, count="clean_samples")
#: Of testbeds with classes: a whole data set, drawn for those who train on one or judge it.
GENERATED_PROBE = Probe(role=GENERATED, count="generated_samples", stream="generated")


def probes(testbed: Testbed, attack: Attack) -> tuple[Probe, ...]:
    """By which a generator is judged: the testbed's own, that of the attack's goal, and one for
    each of its calls, in the order in which the attack declares them.
    """
    label = label_of(attack.goal(), testbed.prompts()) if testbed.has_classes() else None
    aimed = [] if label is None else [Probe(role=TARGET, count="class_samples", label=label)]
    calls = [
        Probe(role=CALL + call.name, count="triggered_samples", call=call.name)
        for call in type(attack).calls
    ]
    return (CLEAN_PROBE, *aimed, *calls)


def requested_count(testbed: Testbed, probe: Probe) -> int:
    """How many samples it is."""
    count: int | None = getattr(testbed.counts, probe.count)
    return testbed.data.rows if count is None else count


def requested_labels(testbed: Testbed, probe: Probe) -> Tensor | None:
    """The classes (n,) a generator is asked for; ``None`` where there are none."""
    if not testbed.has_classes():
        return None
    count = requested_count(testbed, probe)
    return evenly(testbed, count) if probe.label is None else torch.full((count,), probe.label)
