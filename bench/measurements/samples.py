"""Declarations of a metric of samples: one for each way samples are drawn, in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.words import BY_IMAGE, BY_NOISE, BY_OTHER_CALLS, CLEAN_NOISE, MetricWords

_DRAWN = {
    "noise": (BY_NOISE, "drawn from noise that carries the trigger"),
    "image": (BY_IMAGE, "drawn from noise plus a real image that carries the trigger"),
    "clean": (
        CLEAN_NOISE,
        "drawn from clean noise (no trigger: what the backdoor costs honest users)",
    ),
    "*": (BY_OTHER_CALLS, "drawn as the adversary calls it, by {}"),
}


def of_samples(
    family: str,
    title: str,
    sentence: str,
    controls: tuple[int, int],
    headlines: Mapping[str, int],
    **shared: Any,
) -> tuple[MetricWords, ...]:
    """``family[noise]``, ``[image]``, ``[clean]`` and ``[*]``, any other call. ``sentence``: with
    ``{}`` for how the samples were drawn. ``controls``: the places in the table of controls of what
    is called and of clean samples; ``headlines``: by call; ``shared``: further fields of each.
    """
    return tuple(
        MetricWords(
            name=f"{family}[{call}]",
            title=f"{title}, {{}}" if call == "*" else title,
            sentence=sentence.replace("{}", drawn),
            group=group,
            control=controls[call == "clean"],
            headline=headlines.get(call, 0),
            **shared,
        )
        for call, (group, drawn) in _DRAWN.items()
    )
