"""The diffusion classifier with and without pruning, on the shipped class-conditional model: how
often they agree, and what it saves.

Both classify the same held-out images with the same draws, by the parameters of the suite `poison`;
so a difference is the pruning's alone. Calls are images through the network.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from bench import registry
from bench.contracts.access import Access
from bench.contracts.defense import ClassifierDefense
from bench.diffusion.noise import numpy_stream
from bench.diffusion.precision import autocast
from bench.testbeds import build
from benchmarks.timing import Row, Settings

PARAMS = {"timesteps": 30, "keep": [[4, 6], [2, 15]]}
AGREEMENT = 0.99


def pruning(settings: Settings) -> list[Row]:
    """Agreement, the remaining share of calls, and both accuracies; each repetition uses its own
    ``batch_size`` images and random draws.
    """
    figures: dict[str, list[float]] = {}
    for repetition in range(settings.repetitions):
        for name, value in compare(settings.batch_size, repetition).items():
            figures.setdefault(name, []).append(value)
    return [
        Row(
            quantity=name,
            unit="share",
            values=tuple(values),
            goal=AGREEMENT if name.startswith("same") else None,
        )
        for name, values in figures.items()
    ]


def compare(count: int, seed: int) -> dict[str, float]:
    """The values of one repetition, by name."""
    testbed = build("digits-cfg")
    order = torch.from_numpy(
        numpy_stream(seed, "pruning").permutation(len(testbed.data.held_out_images()))
    )[:count]
    images, labels = testbed.data.held_out_images()[order], testbed.data.held_out_labels()
    assert labels is not None  # digits have them
    labels = labels[order]
    whole = {name: value for name, value in PARAMS.items() if name != "keep"}
    pruned, unpruned = (
        registry.build("defenses", "diffusion_classifier", params) for params in (PARAMS, whole)
    )
    predictions, calls = [], []
    for defense in (pruned, unpruned):
        assert isinstance(defense, ClassifierDefense)
        generator = testbed.base_generator().to("cpu")
        access = Access(
            generator=generator,
            rng=numpy_stream(seed, "defense"),
            sample=SimpleNamespace(),  # type: ignore[arg-type]
        )
        with torch.no_grad(), autocast(generator.device, testbed.sampler.precision):
            predictions.append(defense.classify(images, access).argmax(1))
        calls.append(generator.calls)
    return {
        "same prediction, pruned and not": float((predictions[0] == predictions[1]).float().mean()),
        "calls, pruned / not": calls[0] / calls[1],
        "accuracy, pruned": float((predictions[0] == labels).float().mean()),
        "accuracy, not pruned": float((predictions[1] == labels).float().mean()),
    }
