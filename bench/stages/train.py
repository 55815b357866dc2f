"""The generator an attack leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bench.artefacts import doubts
from bench.artefacts.learnt import save_learnt
from bench.contracts.attack import TrainingAttack
from bench.diffusion.training import TrainingSettings, train
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border_attacks, partial
from bench.stages.building import plugin_of, poison_doubts, poisoned_set, testbed_of
from bench.stages.model_card import model_card
from bench.testbeds.testbed import Testbed


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """The generator an attack leaves behind, as a diffusers folder whose card says what it is."""
    testbed = testbed_of(params)
    attack, seed = plugin_of("attacks", params["attack"], TrainingAttack), params["seed"]
    poisoned = poisoned_set(testbed, attack, seed)
    doubts.save(out, poison_doubts(testbed, poisoned))
    generator = (
        testbed.base_generator() if attack.scheme == "finetune" else testbed.fresh_generator(seed)
    )
    settings = _settings(testbed, attack)

    learning = None
    if type(attack).learns:
        learning = border_attacks.Learning(attack, generator.noise_shape)

    def loss(predict: Any, rows: Mapping[str, Tensor], *drawn: Any) -> Tensor:
        knowing = attack if learning is None else learning.knowing()
        return border_attacks.training_loss(knowing, predict, rows, *drawn)

    rows = {"images": poisoned.images, "poisoned": poisoned.poisoned}
    if poisoned.labels is not None:
        rows["labels"] = poisoned.labels
        generator, rows["labels"] = testbed.asked(generator, poisoned.labels)
    teacher = generator.clone() if type(attack).has_teacher else None
    checkpoints = partial.checkpoints(context)
    try:
        losses = train(
            generator,
            rows,
            loss,
            settings,
            seed,
            device=context.device,
            teacher=teacher,
            progress=context.progress,
            checkpoints=checkpoints,
            beside=learning,
        )
    except FloatingPointError as error:
        raise FloatingPointError(f"{attack.card.name}: {error}") from error
    context.earlier_seconds = checkpoints.earlier_seconds if checkpoints else 0.0
    metadata = {
        "attack": params["attack"],
        "testbed": params["testbed"],
        "seed": seed,
        "poisoned_rows": int(poisoned.poisoned.sum()),
        "rows": len(poisoned.images),
        "training": {**vars(settings)},
        "provenance": context.provenance,
    }
    generator.save(out / "generator", model_card(attack, testbed, metadata), metadata)
    if learning is not None:
        save_learnt(learning.tensors, out)
    np.savez(out / "losses.npz", losses=np.asarray(losses))
    return {"generator_calls": float(generator.calls)}


def _settings(testbed: Testbed, attack: TrainingAttack) -> TrainingSettings:
    settings = testbed.training_settings(attack.scheme)
    changes = {"steps": attack.training_steps, "learning_rate": attack.learning_rate}
    return TrainingSettings(
        **{
            **vars(settings),
            **{name: value for name, value in changes.items() if value is not None},
        }
    )
