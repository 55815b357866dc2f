"""Fine-tuning: every other repair is compared with it, so its share of clean data must be what it
says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bench.checking.use import access
from bench.contracts import tiny
from bench.contracts.access import Access
from bench.diffusion.generator import Generator
from bench.diffusion.schedule import Schedule
from defenses._finetuning import clean_loss, some_clean
from defenses.finetune import Finetune

QUICK: dict[str, Any] = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}


@pytest.mark.parametrize(("share", "rows"), [(0.01, 1), (0.05, 3), (0.1, 6), (1.0, 60)])
def test_it_sees_its_share_of_the_clean_images_and_no_others(share: float, rows: int) -> None:
    given = Access(
        rng=np.random.default_rng(0), generator=tiny.generator(), clean_data=tiny.training_set(60)
    )
    chosen = some_clean(given, share)
    assert set(chosen) == {"images"} and len(chosen["images"]) == rows
    known = {image.numpy().tobytes() for image in tiny.pixels(60)}
    drawn = {image.numpy().tobytes() for image in chosen["images"]}
    assert len(drawn) == rows and drawn <= known


def test_images_keep_their_labels_where_there_are_classes() -> None:
    given = tiny.access(Finetune(), conditional=True)
    chosen = some_clean(given, 0.5)
    labels = {
        image.numpy().tobytes(): int(label)
        for image, label in zip(given.clean_data.images, given.clean_data.labels, strict=True)
    }
    for image, label in zip(chosen["images"], chosen["labels"], strict=True):
        assert labels[image.numpy().tobytes()] == int(label)


def test_the_loss_is_the_clean_one() -> None:
    """0 for who knows the noise, its second moment for who says 0."""
    noise, timesteps = tiny.floats(4, 0), torch.tensor([0, 10, 500, 999])
    rows, schedule = {"images": tiny.floats(4, 1)}, Schedule.linear()
    assert float(clean_loss(lambda x, t: noise, rows, noise, timesteps, schedule)) == 0
    blind = clean_loss(lambda x, t: torch.zeros_like(x), rows, noise, timesteps, schedule)
    torch.testing.assert_close(blind, noise.square().mean())


def test_a_step_moves_weights_by_the_learning_rate() -> None:
    """Adam's first step is the learning rate times the gradient's sign."""
    given = tiny.access(Finetune())
    before = [weight.detach().clone() for weight in given.generator.unet.parameters()]
    repaired = Finetune(steps=1, batch_size=4, learning_rate=1e-3).repair(given)
    moved = torch.cat(
        [
            (weight.detach() - old).abs().flatten()
            for weight, old in zip(repaired.unet.parameters(), before, strict=True)
        ]
    )
    assert float(moved.max()) == pytest.approx(1e-3, rel=1e-2)
    assert float(moved.median()) == pytest.approx(1e-3, rel=1e-2)


def test_a_model_asked_for_classes_is_repaired_too() -> None:
    rows = tiny.training_set(12)
    assert rows.labels is not None
    given = Access(
        rng=np.random.default_rng(0),
        generator=tiny.generator(3),
        clean_data=replace(rows, labels=rows.labels % 3),
    )
    repaired = Finetune(**QUICK).repair(given)
    assert not repaired.unet.training
    assert not torch.equal(repaired.unet.conv_out.bias, tiny.generator(3).unet.conv_out.bias)


def test_it_weakens_the_planted_backdoor(to_target: Callable[[Generator], float]) -> None:
    defense = Finetune(steps=30, batch_size=16, learning_rate=2e-3)
    given = access(defense)
    before = to_target(given.generator)
    assert before < 0.01 < to_target(defense.repair(given))


@pytest.mark.parametrize("field", ["clean_share", "steps", "batch_size", "learning_rate"])
def test_bad_parameters_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"finetune: {field} must be .*, got 0"):
        Finetune(**{field: 0})
