"""ANP: if the perturbation were relative, unbounded, or applied elsewhere, its column would be
another method's.
"""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from bench.contracts.access import Access
from bench.contracts.data import TrainingSet
from bench.diffusion.generator import Generator
from defenses.anp import ANP, _perturb

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


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
    )
    return Generator(unet.eval(), dict(CONFIG))


def access(model: Generator, drawn: list | None = None, **fields: Any) -> Access:
    def sample(subject: Generator, count: int) -> torch.Tensor:
        if drawn is not None:
            drawn.append(count)
        with torch.no_grad():
            return subject.predict_noise(
                torch.zeros(count, 3, 8, 8), torch.zeros(count, dtype=torch.int64)
            ).clamp(-1, 1)

    images = torch.randint(
        0, 256, (32, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    clean = TrainingSet(images, torch.zeros(len(images), dtype=torch.bool))
    return Access(
        generator=model, rng=np.random.default_rng(0), sample=sample, clean_data=clean, **fields
    )


def test_zero_perturbation_changes_nothing_and_every_convolution_is_covered() -> None:
    model = generator()
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([5, 900])
    before = model.predict_noise(x, t)
    scales, biases = _perturb(model.unet)
    torch.testing.assert_close(model.predict_noise(x, t), before)
    assert (
        len(scales)
        == len(biases)
        == sum(isinstance(module, torch.nn.Conv2d) for module in model.unet.modules())
    )


def test_perturbation_is_absolute_on_the_output_channels() -> None:
    """y_c = (1 + d_c) conv(x)_c + x_c, on top of the convolution's own bias."""
    convolution = torch.nn.Conv2d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 5, 5)
    plain = convolution(x)
    (scale,), (bias,) = _perturb(torch.nn.Sequential(convolution))
    with torch.no_grad():
        scale[:] = torch.tensor([0.5, -1.0, 2.0]).reshape(1, 3, 1, 1)
        bias[:] = torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)
    expected = plain * torch.tensor([1.5, 0.0, 3.0]).reshape(1, 3, 1, 1) + torch.tensor(
        [0.1, 0.2, 0.3]
    ).reshape(1, 3, 1, 1)
    torch.testing.assert_close(convolution(x), expected)


@pytest.mark.parametrize("size", [1e-4, 3e-3])
def test_a_small_perturbation_is_not_rounded_away_in_half_precision(size: float) -> None:
    """bfloat16 knows no factor between 1 and 1.0078: rounded before it is applied or after, 1 +
    .003 is 1, and the ascent blind.
    """
    convolution = torch.nn.Conv2d(1, 1, 1)
    x = torch.linspace(1, 2, 4096).reshape(1, 1, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = convolution(x)
        (scale,), (bias,) = _perturb(torch.nn.Sequential(convolution))
        scale.fill_(size)
        bias.fill_(-size)
        perturbed = convolution(x)
    assert plain.dtype == torch.bfloat16
    torch.testing.assert_close(perturbed, plain.float() * (1 + size) - size, rtol=1e-6, atol=1e-7)


def test_how_far_it_moved_the_network_is_said_and_remarked_when_it_is_not_the_papers() -> None:
    """A board that shows ANP's numbers must show that the budget never came near, and a twentieth
    of the paper's steps.
    """
    remarks: list[str] = []
    recovered = ANP(epochs=2, batch_size=16, learning_rate=1e-3).invert(
        access(generator(), remark=remarks.append)
    )
    assert (
        recovered.notes["steps_times_learning_rate"] == pytest.approx(4e-3)
        and recovered.notes["budget"] == 4.0
    )
    assert 0 < recovered.notes["largest_perturbation"] < 5e-3
    (line,) = remarks
    assert (
        line.startswith("perturbations reached 0.00")
        and "budget of 4; steps times learning rate is 0.004, the paper's 0.2" in line
    )
    remarks.clear()
    ANP(epochs=2, batch_size=16, learning_rate=0.05).invert(
        access(generator(), remark=remarks.append)
    )
    assert not remarks


def test_it_climbs_the_clean_denoising_loss() -> None:
    """The direction: ANP maximises. A descent would leave the loss where it was."""
    gentle = ANP(learning_rate=1e-8, epochs=2, batch_size=16).invert(access(generator()))
    strong = ANP(learning_rate=0.05, epochs=2, batch_size=16).invert(access(generator()))
    assert strong.notes["last_denoising_loss"] > gentle.notes["last_denoising_loss"] + 0.05


@pytest.mark.parametrize(
    ("clamp", "lowest", "highest"), [("perturbation", 0.02, 0.02), ("scale", 0.98, 1.02)]
)
def test_budget_binds(clamp: str, lowest: float, highest: float) -> None:
    """Paper: |d| <= budget. Code: the scale itself is clamped, so with a tiny budget the scale is
    pulled down at once.
    """
    recovered = ANP(learning_rate=0.5, budget=0.02, epochs=1, batch_size=8, clamp=clamp).invert(
        access(generator())
    )
    largest = recovered.notes["largest_perturbation"]
    assert lowest - 1e-6 <= largest <= highest + 1e-6


def test_it_returns_samples_for_every_epoch_and_leaves_its_weights_alone() -> None:
    model, drawn = generator(), []
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    recovered = ANP(epochs=3, samples=5, batch_size=16).invert(access(model, drawn))
    assert drawn == [5, 5, 5]
    assert [len(images) for images in recovered.targets] == [5, 5, 5]
    assert list(recovered.labels) == ["epoch 1", "epoch 2", "epoch 3"]
    for name, value in model.unet.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("field", ["learning_rate", "budget", "epochs", "batch_size", "samples"])
def test_bad_parameters_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"anp: {field} must be positive, got 0"):
        ANP(**{field: 0})
