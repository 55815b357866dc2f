"""Class-conditional generators: a wrong label, a lost null label or a wrong guidance would change
what every poisoning number means.
"""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DModel

from bench.diffusion.generator import Generator
from bench.diffusion.process import VariancePreserving
from bench.diffusion.sampling import SamplerSettings, predict_noise, sample
from bench.diffusion.training import TrainingSettings, denoising_loss, train

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
CLASSES = 3


def generator() -> Generator:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
        num_class_embeds=CLASSES + 1,
    )
    return Generator(unet.eval(), dict(CONFIG))


def test_the_null_label_comes_after_the_classes() -> None:
    model = generator()
    assert model.classes == CLASSES
    x, t = torch.randn(4, 3, 8, 8), torch.full((4,), 500)
    with torch.no_grad():
        free = model.predict_noise(x, t)
        assert torch.equal(free, model.predict_noise(x, t, torch.full((4,), CLASSES)))
        assert not torch.equal(free, model.predict_noise(x, t, torch.zeros(4, dtype=torch.int64)))
    assert model.calls == 12


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 7.5])
def test_guidance_is_e_u_plus_w_times_the_difference(scale: float) -> None:
    """The convention of Stable Diffusion; in that of the classifier-free guidance paper the same w
    is one stronger.
    """
    model = generator()
    x, labels = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    settings = SamplerSettings(network_batch=8, guidance_scale=scale)
    with torch.no_grad():
        guided = predict_noise(model, x, 300, settings, labels)
        t = torch.full((5,), 300)
        free, conditional = model.predict_noise(x, t), model.predict_noise(x, t, labels)
    torch.testing.assert_close(guided, free + scale * (conditional - free), rtol=1e-5, atol=1e-5)


def test_guidance_one_asks_the_network_once() -> None:
    model = generator()
    labels = torch.zeros(4, dtype=torch.int64)
    for scale, calls in ((1.0, 8), (2.0, 16)):
        model.calls = 0
        with torch.no_grad():
            predict_noise(
                model,
                torch.randn(4, 3, 8, 8),
                10,
                SamplerSettings(network_batch=8, guidance_scale=scale),
                labels,
            )
        assert model.calls == calls


@pytest.mark.parametrize("name", ["ddim", "ddpm", "sde_dpm_solver++"])
def test_labels_stay_with_their_samples_whatever_the_batch_size(name: str) -> None:
    settings = SamplerSettings(
        name=name, num_inference_steps=4, guidance_scale=2.0, network_batch=4
    )
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1])
    whole = sample(generator(), 7, 3, settings, labels=labels, batch_size=64)
    for size in (1, 3):
        torch.testing.assert_close(
            sample(generator(), 7, 3, settings, labels=labels, batch_size=size),
            whole,
            rtol=0,
            atol=1e-5,
        )
    assert not torch.equal(sample(generator(), 7, 3, settings, labels=labels.flip(0)), whole)


def test_a_negative_guidance_is_refused() -> None:
    with pytest.raises(ValueError, match="guidance_scale must be a number of at least 0, got -1"):
        SamplerSettings(guidance_scale=-1)


def honest(predict, rows, noise, timesteps, schedule):
    return denoising_loss(predict, rows["images"], noise, timesteps, VariancePreserving(schedule))


class Listening(torch.nn.Module):
    """Stands in for the network and records the labels it gets."""

    def __init__(self, network) -> None:
        super().__init__()
        self.network, self.labels_seen = network, []

    @property
    def config(self):
        return self.network.config

    def forward(self, x, timesteps, class_labels=None):
        self.labels_seen.append(class_labels)
        return self.network(x, timesteps, class_labels=class_labels)


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_labels_are_dropped_as_often_as_the_settings_say(dropout: float) -> None:
    model = generator()
    model.unet = listening = Listening(model.unet)
    rows = {
        "images": torch.zeros(32, 3, 8, 8, dtype=torch.uint8),
        "labels": torch.ones(32, dtype=torch.int64),
    }
    train(
        model,
        rows,
        honest,
        TrainingSettings(steps=40, batch_size=16, precision="float32", label_dropout=dropout),
        0,
    )
    labels_seen = torch.cat(listening.labels_seen)
    assert set(labels_seen.tolist()) <= {1, CLASSES}
    assert abs(float((labels_seen == CLASSES).float().mean()) - dropout) < 0.06


def test_a_trained_generator_draws_the_class_it_is_asked_for() -> None:
    """Two classes, dark and bright: guidance must push towards the one that was asked for."""
    model = generator()
    labels = torch.arange(64) % 2
    images = (
        torch.where(labels.reshape(-1, 1, 1, 1) == 1, 230, 25).expand(64, 3, 8, 8).to(torch.uint8)
    )
    settings = TrainingSettings(
        steps=150, batch_size=32, learning_rate=5e-3, precision="float32", label_dropout=0.1
    )
    train(model, {"images": images, "labels": labels}, honest, settings, 0)
    sampler = SamplerSettings(name="ddim", num_inference_steps=20, guidance_scale=2.0, clip="x0")
    dark, bright = (
        sample(model, 16, 0, sampler, labels=torch.full((16,), label)).mean((1, 2, 3))
        for label in (0, 1)
    )
    # From the same noise, so only the label makes the difference.
    assert (bright > dark + 0.1).all()


def test_unconditional_training_does_not_see_the_labels() -> None:
    """An unconditional testbed has labels too; handing them to its network would crash or, worse,
    condition it.
    """
    torch.manual_seed(0)
    model = generator()
    model.unet = UNet2DModel(**{**dict(model.unet.config), "num_class_embeds": None})
    rows = {"images": torch.zeros(8, 3, 8, 8, dtype=torch.uint8), "labels": torch.full((8,), 99)}
    settings = TrainingSettings(steps=1, batch_size=4, precision="float32")
    assert len(train(model, rows, honest, replace(settings, label_dropout=0.5), 0)) == 1
