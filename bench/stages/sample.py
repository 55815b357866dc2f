"""Samples from clean noise, or as the adversary invokes the backdoor, with or without a sampler
defense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from bench.artefacts import doubts
from bench.artefacts.images import save_images
from bench.artefacts.probes import Probe, requested_count, requested_labels
from bench.artefacts.queries import load_query
from bench.contracts.defense import SamplerDefense
from bench.diffusion import sampling
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_uint8
from bench.diffusion.reverse import Reverse
from bench.engine.context import Inputs, Params, Progress, StageContext
from bench.samplers import settings_of
from bench.stages import again, border_attacks, partial
from bench.stages.building import attack_of, generator_of, plugin_of, testbed_of
from bench.stages.drawing import start_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Samples of one :class:`~bench.artefacts.probes.Probe`, with or without a sampler defense."""
    testbed = testbed_of(params)
    generator = generator_of(testbed, inputs, context)
    probe, seed = Probe(**params["draws"]), params["seed"]
    query = load_query(inputs["queries"]) if "queries" in inputs else None
    labels = None if query else requested_labels(testbed, probe)
    count = len(query.noise) if query else requested_count(testbed, probe)
    settings = settings_of(testbed, params)
    defenses = [plugin_of("defenses", spec, SamplerDefense) for spec in params["defenses"]]
    guards = [again.Watched(defense, settings.network_calls) for defense in defenses]
    start: Callable[[Tensor, Sequence[int]], sampling.Start] | None = None
    if query is not None:
        start = start_of(query, _own_way(params, inputs, generator, settings))

    def draw(indices: range, progress: Progress) -> Tensor:
        return sampling.sample(
            generator,
            len(indices),
            seed,
            settings,
            labels=None if labels is None else labels[indices.start : indices.stop],
            start=start,
            guards=guards,
            purpose=probe.stream,
            first=indices.start,
            finish=to_uint8,
            progress=progress,
        )

    together = sampling.images_of_a_batch(settings, generator)
    save_images(out, partial.in_shards(context, generator, count, together, draw))
    # What is doubtful about the generator is so about all it draws.
    doubts.save(
        out, [*doubts.of_inputs(inputs), *(doubt for guard in guards for doubt in guard.doubts())]
    )
    return {"generator_calls": float(generator.calls)}


def _own_way(
    params: Params, inputs: Inputs, generator: Generator, settings: sampling.SamplerSettings
) -> Callable[[], Reverse] | None:
    """The adversary's own sampler, for the calls that bring one; a new one for every batch."""
    if "attack" not in params:
        return None
    attack = attack_of(params, inputs)
    call, schedule, config = (
        str(params["draws"]["call"]),
        generator.schedule,
        generator.scheduler_config,
    )

    def way() -> Reverse:
        usual = sampling.Scheduled(settings, config, [])
        return border_attacks.CheckedReverse(attack, call, schedule, usual)

    return way
