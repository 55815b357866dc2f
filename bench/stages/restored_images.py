"""What a generator makes of corrupted images, with or without a sampler defense."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from bench.artefacts import doubts
from bench.artefacts.images import save_images
from bench.artefacts.inpainted import load_inputs
from bench.contracts.defense import SamplerDefense
from bench.diffusion.images import to_uint8
from bench.diffusion.restoring import Inpainting, Later, restore
from bench.diffusion.sampling import images_at_once
from bench.engine.context import Inputs, Params, Progress, StageContext
from bench.samplers import settings_of
from bench.stages import again, partial
from bench.stages.building import generator_of, plugin_of, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """As many images as were handed in."""
    testbed, seed, task = testbed_of(params), params["seed"], Inpainting(**params["task"])
    generator = generator_of(testbed, inputs, context)
    corrupted, settings = load_inputs(inputs["corrupted"]), settings_of(testbed, params)
    calls = len(Later(settings, generator.scheduler_config, [], task.start).timesteps)
    defenses = [plugin_of("defenses", spec, SamplerDefense) for spec in params["defenses"]]
    guards = [again.Watched(defense, calls) for defense in defenses]

    def draw(indices: range, progress: Progress) -> Tensor:
        rows = corrupted[indices.start : indices.stop]
        return to_uint8(
            restore(
                generator,
                rows,
                seed,
                settings,
                task,
                guards,
                first=indices.start,
                progress=progress,
            )
        )

    batch = images_at_once(settings)
    save_images(out, partial.in_shards(context, generator, len(corrupted), batch, draw))
    doubts.save(
        out, [*doubts.of_inputs(inputs), *(doubt for guard in guards for doubt in guard.doubts())]
    )
    return {"generator_calls": float(generator.calls)}
