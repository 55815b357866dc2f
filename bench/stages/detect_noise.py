"""A detector's scores of the adversary's initial noise and of clean noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.artefacts import doubts
from bench.artefacts.arrays import save_scores
from bench.artefacts.images import Remarks, unsaid
from bench.diffusion.images import to_unit_range
from bench.diffusion.noise import initial_noise, numpy_stream, sample_streams
from bench.engine.context import Inputs, Params, StageContext
from bench.plugin import Attack, NoiseDetector, Query
from bench.stages import again, border
from bench.stages.building import evidence_of, plugin_of, testbed_of

NOISE_SAMPLES = 512


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """A detector's scores of the adversary's initial noise and of clean noise, from three streams:
    what it is judged against, a control, and what fixes its threshold.
    """
    testbed, seed = testbed_of(params), params["seed"]
    detector = plugin_of("detectors", params["defense"], NoiseDetector)
    attack = plugin_of("attacks", params["attack"], Attack)
    held_out = testbed.held_out_images()
    shape = (held_out.shape[1], held_out.shape[2], held_out.shape[3])
    clean = initial_noise(sample_streams(seed, range(NOISE_SAMPLES)), shape)
    chosen = numpy_stream(seed, "held-out images").permutation(len(held_out))
    query = Query(
        noise=clean, images=to_unit_range(held_out[chosen[np.arange(NOISE_SAMPLES) % len(chosen)]])
    )
    asked = {
        "reference": initial_noise(
            sample_streams(seed, range(NOISE_SAMPLES), "reference noise"), shape
        ),
        "threshold": initial_noise(
            sample_streams(seed, range(NOISE_SAMPLES), "threshold noise"), shape
        ),
        "clean": clean,
        **{
            invocation: border.invoked(attack, query, invocation)
            for invocation in type(attack).invocations
        },
    }
    scores, found, remarks = {}, list[str](), Remarks()
    for name, noise in asked.items():

        def score(
            chosen: Tensor, noise: Tensor = noise, remark: Callable[[str], None] = unsaid
        ) -> Tensor:
            evidence = evidence_of(detector, testbed, None, inputs, seed, context, remark)
            return border.scores(detector, detector.score(noise[chosen], evidence), len(chosen))

        scores[name] = score(torch.arange(len(noise)), remark=remarks)
        found += again.compare(score, len(noise), scores[name])
    doubts.save(out, found)
    remarks.save(out)
    save_scores(out, {name: values.numpy() for name, values in scores.items()})
    return {}
