"""LoRA: if more than the adapters changed, or fusing lost what they learnt, "LoRA" on the board
would mean something else.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from bench.diffusion.generator import Generator
from bench.diffusion.lora import TARGETS, add_adapters, fuse_adapters
from bench.diffusion.process import VariancePreserving
from bench.diffusion.text_to_image import TextToImage
from bench.diffusion.training import TrainingSettings, denoising_loss, train
from bench.errors import UserError

SETTINGS = TrainingSettings(
    steps=3, batch_size=4, learning_rate=1e-2, precision="float32", lora_rank=2, ema_decay=0.5
)


def honest(predict, rows, noise, timesteps, schedule):
    return denoising_loss(predict, rows["images"], noise, timesteps, VariancePreserving(schedule))


def rows() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=draw)
    return {"images": images, "labels": torch.arange(16) % 5}


@pytest.fixture()
def generator(stable_diffusion: Path) -> TextToImage:
    return TextToImage.load(
        stable_diffusion,
        prompts=tuple(f"A photo of a {name}" for name in "one two three four five".split()),
    )


def weights(generator: Generator) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in generator.unet.state_dict().items()}


def is_target(name: str) -> bool:
    return any(name.endswith(f".{target}.weight") for target in TARGETS)


def test_before_fusing_only_adapters_change_and_afterwards_only_the_projections(
    generator, monkeypatch
) -> None:
    before, seen = weights(generator), {}
    monkeypatch.setattr(
        "bench.diffusion.training.fuse_adapters",
        lambda network: (seen.update(weights(generator)), fuse_adapters(network))[0],
    )
    optimised = []
    adam = torch.optim.Adam
    monkeypatch.setattr(
        torch.optim,
        "Adam",
        lambda given, **options: (optimised.extend(given), adam(given, **options))[1],
    )
    train(generator, rows(), honest, SETTINGS, 0)
    plain = {
        name.replace(".base_layer", ""): value for name, value in seen.items() if "lora" not in name
    }
    assert plain.keys() == before.keys() and all(
        torch.equal(plain[name], before[name]) for name in before
    )
    adapters = [name for name in seen if "lora" in name]
    assert len(adapters) == 2 * sum(map(is_target, before)) == len(optimised) > 0
    # zero at first: they have learnt
    assert all(seen[name].any() for name in adapters if "lora_B" in name)
    after = weights(generator)
    assert after.keys() == before.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(
        filter(is_target, before)
    )
    for name in filter(is_target, before):
        assert torch.linalg.matrix_rank((after[name] - before[name]).double(), atol=1e-5) <= 2
    assert all(parameter.requires_grad for parameter in generator.unet.parameters())
    assert not generator.unet.training


def test_the_saved_folder_is_a_normal_one_and_predicts_the_same(generator, tmp_path: Path) -> None:
    train(generator, rows(), honest, SETTINGS, 0)
    generator.save(tmp_path / "sd", "card")
    again = TextToImage.load(tmp_path / "sd", prompts=generator.prompts)
    assert not [
        path
        for path in (tmp_path / "sd").rglob("*")
        if "lora" in path.name or "adapter" in path.name
    ]
    draw = torch.Generator().manual_seed(0)
    x, t, labels = (
        torch.randn(3, *generator.noise_shape, generator=draw),
        torch.tensor([3, 300, 900]),
        torch.tensor([1, 2, 3]),
    )
    with torch.no_grad():
        torch.testing.assert_close(
            again.predict_noise(x, t, labels),
            generator.predict_noise(x, t, labels),
            rtol=1e-4,
            atol=1e-5,
        )
    # What was trained once can be trained again, whole or in part.
    train(again, rows(), honest, SETTINGS, 1)
    train(again, rows(), honest, replace(SETTINGS, lora_rank=None), 1)


def test_fusing_changes_no_prediction(generator) -> None:
    add_adapters(generator.unet, 2, seed=0)
    with torch.no_grad():
        for name, value in generator.unet.named_parameters():
            if "lora_B" in name:
                value.copy_(
                    0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
                )
        x, t, labels = torch.ones(1, *generator.noise_shape), torch.tensor([100]), torch.tensor([4])
        apart = generator.predict_noise(x, t, labels)
        fuse_adapters(generator.unet)
        torch.testing.assert_close(
            generator.predict_noise(x, t, labels), apart, rtol=1e-4, atol=1e-5
        )


def test_adapters_follow_the_seed_and_leave_the_global_state_alone(generator) -> None:
    adapters = []
    for seed in (0, 0, 1):
        unet = generator.clone().unet
        before = torch.random.get_rng_state()
        add_adapters(unet, 2, seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        adapters.append(
            torch.cat(
                [value.flatten() for name, value in unet.named_parameters() if "lora_A" in name]
            )
        )
    assert torch.equal(adapters[0], adapters[1]) and not torch.equal(adapters[0], adapters[2])


def test_frozen_parameters_are_not_handed_to_the_optimizer(generator, monkeypatch) -> None:
    """Weight decay or momentum must never touch what somebody froze; by default everything is
    trained.
    """
    generator.unet.conv_in.requires_grad_(False)
    before = weights(generator)
    train(
        generator,
        rows(),
        honest,
        replace(SETTINGS, lora_rank=None, optimizer="adamw", weight_decay=0.5),
        0,
    )
    changed = {
        name for name, value in weights(generator).items() if not torch.equal(value, before[name])
    }
    assert not {name for name in changed if name.startswith("conv_in")} and len(
        changed
    ) > 0.9 * len(before)


def test_without_peft_one_line_says_what_to_install(generator, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="needs peft: pip install peft") as caught:
        train(generator, rows(), honest, SETTINGS, 0)
    assert "\n" not in str(caught.value)


def test_a_rank_or_a_network_that_cannot_be_is_refused(generator) -> None:
    with pytest.raises(
        ValueError, match="lora_rank must be at least 1, or null for full training, got 0"
    ):
        add_adapters(generator.unet, 0, 0)
    plain = UNet2DModel(sample_size=8, block_out_channels=(4, 4), norm_num_groups=2,
    down_block_types=("DownBlock2D",) * 2,
                        up_block_types=("UpBlock2D",) * 2, add_attention=False)  # fmt: skip
    with pytest.raises(
        ValueError, match="lora_rank must be null for a UNet2DModel, which takes no adapters, got 4"
    ):
        add_adapters(plain, 4, 0)
