"""Training: what decides whether an attack is the attack it says, and whether two runs are one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from bench.diffusion import training
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_uint8, to_unit_range
from bench.diffusion.process import VariancePreserving
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import TrainingSettings, denoising_loss, learning_rate_factor, train

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
SETTINGS = TrainingSettings(steps=6, batch_size=8, learning_rate=1e-3, precision="float32")


def generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
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
    )
    return Generator(unet.eval(), dict(CONFIG))


def rows(count: int = 32) -> dict[str, torch.Tensor]:
    return {
        "images": torch.randint(
            0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
        )
    }


def honest(predict, batch, noise, timesteps, schedule):
    return denoising_loss(predict, batch["images"], noise, timesteps, VariancePreserving(schedule))


def weights(model: Generator) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.unet.parameters()])


def test_same_seed_same_weights_and_another_seed_others() -> None:
    trained = []
    for seed in (3, 3, 4):
        model = generator()
        train(model, rows(), honest, SETTINGS, seed)
        trained.append(weights(model))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_training_learns() -> None:
    model = generator()
    losses = train(
        model,
        {"images": torch.full((16, 3, 8, 8), 200, dtype=torch.uint8)},
        honest,
        replace(SETTINGS, steps=150),
        0,
    )
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:10])


def test_loss_is_ddpms_simple_loss() -> None:
    """Mean over rows and pixels of (e - e_theta)^2 at diffusers' own noisy images."""
    images, noise = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 3, 8, 8)
    timesteps = torch.tensor([0, 10, 500, 999])
    noisy = DDPMScheduler.from_config(CONFIG).add_noise(images, noise, timesteps)
    loss = denoising_loss(
        lambda x, t: torch.tanh(x), images, noise, timesteps, VariancePreserving(Schedule.linear())
    )
    torch.testing.assert_close(loss, (torch.tanh(noisy) - noise).square().mean(), rtol=1e-5, atol=0)


def test_every_row_is_seen_once_an_epoch() -> None:
    seen: list[float] = []

    def note(predict, batch, noise, timesteps, schedule):
        seen.extend(batch["row"].tolist())
        return honest(predict, batch, noise, timesteps, schedule)

    train(generator(), rows() | {"row": torch.arange(32)}, note, replace(SETTINGS, steps=8), 0)
    assert sorted(seen[:32]) == sorted(seen[32:]) == list(range(32))
    assert seen[:32] != seen[32:]


def test_average_lags_behind_the_weights() -> None:
    """EMA: averaged weights lie between the start and the raw weights, so they differ from both."""
    raw, averaged, start = generator(), generator(), weights(generator())
    train(raw, rows(), honest, SETTINGS, 0)
    train(averaged, rows(), honest, replace(SETTINGS, ema_decay=0.9), 0)
    assert (weights(averaged) - start).norm() < (weights(raw) - start).norm()
    assert not torch.equal(weights(averaged), start)


def test_bfloat16_stays_close_and_leaves_float32_weights() -> None:
    full, half = generator(), generator()
    train(full, rows(), honest, SETTINGS, 0)
    train(half, rows(), honest, replace(SETTINGS, precision="bfloat16"), 0)
    assert half.unet.conv_in.weight.dtype == torch.float32
    assert not torch.equal(weights(full), weights(half))
    assert (weights(full) - weights(half)).norm() < 0.5 * (
        weights(full) - weights(generator())
    ).norm()


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulation_steps": 4},
        {"gradient_checkpointing": True},
        {
            "accumulation_steps": 8,
            "gradient_checkpointing": True,
            "ema_decay": 0.9,
            "horizontal_flip": True,
        },
    ],
)
def test_saving_memory_changes_the_weights_by_rounding_only(changes: dict[str, Any]) -> None:
    """Who has the smaller GPU would otherwise measure another attack: the same rows, noise and
    timesteps make the same step. SGD's step is the gradient itself; Adam's divides it by its size,
    which would blow rounding up.
    """
    settings = replace(SETTINGS, steps=4, learning_rate=1e-2, gradient_clip=1e9)
    results = []
    for saving in ({}, changes):
        model = generator()
        plain = {
            name: value
            for name, value in changes.items()
            if name in ("ema_decay", "horizontal_flip")
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                torch.optim,
                "Adam",
                lambda trained, lr, weight_decay: torch.optim.SGD(trained, lr=lr),
            )
            losses = train(model, rows(), honest, replace(settings, **(plain | saving)), 0)
        results.append((weights(model), torch.tensor(losses)))
    moved = (results[0][0] - weights(generator())).norm()
    assert moved > 1e-2
    assert (results[1][0] - results[0][0]).norm() < 1e-4 * moved
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-5, atol=0)


def test_pieces_that_do_not_fill_a_batch_are_named() -> None:
    """A smaller batch than the declared one would be another training."""
    with pytest.raises(ValueError, match="batch_size must be a multiple of 3 pieces, got 8"):
        train(generator(), rows(), honest, replace(SETTINGS, accumulation_steps=3), 0)


def with_dropout() -> Generator:
    model = generator()
    untyped: Any = model.unet
    torch.manual_seed(0)
    return Generator(UNet2DModel(**{**untyped.config, "dropout": 0.5}), dict(CONFIG))


def test_dropout_is_the_seeds_own() -> None:
    """A worker's earlier stages leave torch's stream somewhere; the order of stages must not change
    a generator.
    """
    trained = []
    for before in (1, 2):
        model = with_dropout()
        torch.manual_seed(before)
        train(model, rows(), honest, SETTINGS, 0)
        trained.append(weights(model))
        assert torch.equal(
            torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(before))
        )
    assert torch.equal(trained[0], trained[1])


def test_a_loss_that_explodes_is_named() -> None:
    with pytest.raises(FloatingPointError, match="training loss became nan at step 0$"):
        train(
            generator(), rows(), lambda *arguments: honest(*arguments) * float("nan"), SETTINGS, 0
        )


@pytest.fixture
def loss_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 as on a GPU: accelerate's optimiser over torch's own scaler, which works on a CPU
    too.
    """
    from accelerate import Accelerator

    class Scaling(Accelerator):
        def __init__(self) -> None:
            super().__init__(cpu=True)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)

    monkeypatch.setattr(training, "_accelerator", lambda settings, device: Scaling())


@pytest.mark.usefixtures("loss_scaling")
def test_float16_skips_the_steps_that_overflow() -> None:
    """The scaler begins too high on purpose: hours of training must not end because its first steps
    overflow.
    """
    broken, seen = {0, 1, 4}, []

    def sometimes(*arguments: Any) -> torch.Tensor:
        seen.append(len(seen))
        return honest(*arguments) * (float("inf") if seen[-1] in broken else 1.0)

    model = generator()
    losses = train(model, rows(), sometimes, SETTINGS, 0)
    assert [not np.isfinite(loss) for loss in losses] == [step in broken for step in range(6)]
    assert weights(model).isfinite().all()
    assert not torch.equal(weights(model), weights(generator()))


@pytest.mark.usefixtures("loss_scaling")
def test_float16_that_has_diverged_is_named() -> None:
    """Ten steps in a row without a finite loss are no overflow any more; nine are let through."""
    settings = replace(SETTINGS, steps=30)
    with pytest.raises(FloatingPointError, match="became nan at step 9, as in the 9 steps before"):
        train(
            generator(), rows(), lambda *arguments: honest(*arguments) * float("nan"), settings, 0
        )
    count = iter(range(30))
    losses = train(
        generator(),
        rows(),
        lambda *arguments: honest(*arguments) * (1.0 if next(count) % 10 == 9 else np.nan),
        settings,
        0,
    )
    assert np.isfinite(losses).sum() == 3


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("constant", 50, 1.0),
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.5),
        ("cosine", 100, 0.0),
        ("one_cycle", 10, 0.04),
        ("one_cycle", 19, 1.0),
    ],
)
def test_learning_rate_follows_its_schedule(schedule: str, step: int, factor: float) -> None:
    settings = TrainingSettings(steps=100, warmup_steps=10, schedule=schedule)  # type: ignore[arg-type]
    assert learning_rate_factor(settings, 0) == pytest.approx(0.1)
    assert learning_rate_factor(settings, 4) == pytest.approx(0.5)
    assert learning_rate_factor(settings, step) == pytest.approx(factor, abs=0.01)


def test_uint8_and_unit_range_are_inverse() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit_range(pixels)), pixels)
    assert to_unit_range(pixels).min() == -1
    assert to_unit_range(pixels).max() == 1


def test_saved_generator_is_a_diffusers_folder_and_comes_back_the_same(tmp_path) -> None:
    """A checkpoint must open in anybody's diffusers, as safetensors, with its warning and its
    origin beside it.
    """
    from diffusers import DDPMPipeline

    model = generator()
    model.save(tmp_path, "# card\nbackdoored", {"attack": "x"})
    assert not list(tmp_path.rglob("*.bin"))
    assert "backdoored" in (tmp_path / "README.md").read_text()
    opened = DDPMPipeline.from_pretrained(tmp_path)
    assert opened.scheduler.config.clip_sample is CONFIG.get("clip_sample", True)
    loaded = Generator.load(tmp_path)
    assert torch.equal(weights(loaded), weights(model))
    assert loaded.schedule == model.schedule
    assert loaded.image_shape == (3, 8, 8)
