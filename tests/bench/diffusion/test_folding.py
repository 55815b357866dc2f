"""Folded networks: cheaper, and to everyone else networks of the pixels. A slip here would draw
images whose pixels are shuffled, or train another network than the one that samples.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor

from bench.diffusion.generator import FOLD, Generator
from bench.diffusion.noise import initial_noise, sample_streams
from bench.diffusion.process import VariancePreserving
from bench.diffusion.sampling import SamplerSettings, denoise
from bench.diffusion.training import TrainingSettings, denoising_loss, train
from bench.errors import UserError

CONFIG = {"num_train_timesteps": 100, "beta_schedule": "linear", "clip_sample": False}


def generator(fold: int | None = 2, **changes: Any) -> Generator:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "sample_size": 4,
        "in_channels": 12,
        "out_channels": 12,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "add_attention": False,
    }
    unet = UNet2DModel(**(options | changes))
    if fold is not None:
        unet.register_to_config(**{FOLD: fold})
    return Generator(unet.eval(), dict(CONFIG))


def fold_slowly(x: Tensor) -> Tensor:
    """The definition: channel c, pixel (2i + a, 2j + b) becomes channel 4c + 2a + b, pixel (i,
    j).
    """
    out = torch.empty(x.shape[0], 4 * x.shape[1], x.shape[2] // 2, x.shape[3] // 2)
    for channel in range(x.shape[1]):
        for a in range(2):
            for b in range(2):
                out[:, 4 * channel + 2 * a + b] = x[:, channel, a::2, b::2]
    return out


def test_a_folded_network_speaks_of_pixels_and_a_plain_one_is_unchanged() -> None:
    folded, plain = generator(), generator(None)
    assert folded.noise_shape == folded.image_shape == (3, 8, 8) and folded.fold == 2
    assert plain.noise_shape == (12, 4, 4) and plain.fold == 1
    x, timesteps = torch.randn(5, 3, 8, 8), torch.arange(5) * 20
    with torch.no_grad():
        answer = folded.predict_noise(x, timesteps)
        expected = plain.predict_noise(fold_slowly(x), timesteps)
    torch.testing.assert_close(fold_slowly(answer), expected)
    assert folded.calls == plain.calls == 5


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_sampling_folded_is_sampling_the_folded_noise(name: str) -> None:
    """DDIM of the pixels ends where DDIM of the folded pixels does, from the same noise; and DDPM,
    whose noise between is drawn per pixel, starts from it too.
    """
    folded, plain = generator(), generator(None)
    steps, spacing = (1, "trailing") if name == "ddpm" else (10, "leading")
    settings = SamplerSettings(name=name, num_inference_steps=steps, spacing=spacing)
    streams = sample_streams(0, range(3))
    noise = initial_noise(streams, (3, 8, 8))
    images = denoise(folded, noise, sample_streams(1, range(3)), settings)
    expected = denoise(plain, fold_slowly(noise), sample_streams(1, range(3)), settings)
    torch.testing.assert_close(fold_slowly(images), expected, rtol=1e-4, atol=1e-4)


def test_training_folded_is_training_on_folded_images() -> None:
    """The same weights after training as by hand on folded batches: loss, teacher and sampling see
    one network.
    """
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8)
    settings = TrainingSettings(steps=3, batch_size=8, precision="float32")
    folded, by_hand = generator(), generator(None)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def loss(predict: Any, rows: Any, noise: Tensor, timesteps: Tensor, schedule: Any) -> Tensor:
        seen.append((rows["images"].clone(), noise.clone(), timesteps.clone()))
        return denoising_loss(
            predict, rows["images"], noise, timesteps, VariancePreserving(schedule)
        )

    losses = train(folded, {"images": images}, loss, settings, 0)
    optimizer = torch.optim.Adam(by_hand.unet.parameters(), lr=settings.learning_rate)
    process = VariancePreserving(by_hand.schedule)
    for step, (batch, noise, timesteps) in enumerate(seen):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * [1.0, 0.75, 0.25][step]
        value = denoising_loss(
            by_hand.predict_noise, fold_slowly(batch), fold_slowly(noise), timesteps, process
        )
        assert float(value.detach()) == pytest.approx(losses[step], rel=1e-5)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(by_hand.unet.parameters(), settings.gradient_clip)
        optimizer.step()
    for one, other in zip(folded.unet.parameters(), by_hand.unet.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_fold_is_kept_by_a_copy_and_by_a_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Or the weights would be those of another network; and diffusers has nothing to warn of."""
    folded = generator()
    folded.save(tmp_path, "card")
    x, timesteps = torch.randn(2, 3, 8, 8), torch.tensor([3, 50])
    with torch.no_grad():
        for other in (folded.clone(), Generator.load(tmp_path)):
            assert other.fold == 2
            torch.testing.assert_close(
                other.predict_noise(x, timesteps), folded.predict_noise(x, timesteps)
            )
    assert Generator.outline(tmp_path).noise_shape == (3, 8, 8)
    assert "not expected" not in capfd.readouterr().err


@pytest.mark.parametrize("fold", [0, -2, 3, 5, 17, 2.0, "2", True, None, [2]])
def test_a_fold_that_cannot_be_is_one_line(tmp_path: Path, fold: Any) -> None:
    generator().save(tmp_path, "card")
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {FOLD: fold}))
    with pytest.raises(UserError, match=r"_fold must be a whole number in 1\.\.16") as caught:
        Generator.outline(tmp_path)
    assert "\n" not in str(caught.value) and str(config) in str(caught.value)
