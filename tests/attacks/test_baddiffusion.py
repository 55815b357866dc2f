"""BadDiffusion against its paper: a wrong mask, rate or loss would be another attack under the same
name.
"""

import numpy as np
import pytest
import torch

from attacks.baddiffusion import BadDiffusion
from bench.contracts.data import Batch, Query, TrainingSet, TrainingStep
from bench.diffusion.schedule import Schedule

SHAPE = (3, 32, 32)


def dataset(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8)


def images(count: int) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("rate", "rows"), [(0.05, 5), (0.1, 10), (0.333, 33), (1.0, 100), (0.001, 1)]
)
def test_poison_rate_replaces_that_share_of_rows_and_keeps_the_size(rate: float, rows: int) -> None:
    honest = TrainingSet(dataset(100), torch.zeros(100, dtype=torch.bool))
    poisoned = BadDiffusion(poison_rate=rate).poison(honest, np.random.default_rng(0))
    assert int(poisoned.poisoned.sum()) == rows
    assert len(poisoned.images) == 100
    assert not honest.poisoned.any()


def test_another_seed_poisons_other_rows() -> None:
    honest = TrainingSet(dataset(100), torch.zeros(100, dtype=torch.bool))
    one, two = (
        BadDiffusion().poison(honest, np.random.default_rng(seed)).poisoned for seed in (0, 1)
    )
    assert not torch.equal(one, two)


@pytest.mark.parametrize("poisoned_image", ["blend", "trigger_only"])
@pytest.mark.parametrize("trigger", ["grey_box", "stop_sign"])
def test_loss_equals_a_row_by_row_transcription(poisoned_image: str, trigger: str) -> None:
    """x_t = A y + s e + (1 - A) r and target e + R r for poisoned rows, DDPM for the others, r
    built channel by channel.
    """
    attack, schedule = (
        BadDiffusion(poisoned_image=poisoned_image, trigger=trigger),
        Schedule.linear(),
    )
    batch = Batch(images(6).double(), torch.tensor([True, False, True, False, False, True]))
    noise = torch.randn(6, *SHAPE, dtype=torch.float64)
    timesteps = torch.tensor([0, 3, 250, 500, 900, 999])
    seen: list[torch.Tensor] = []

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.sin(x)

    loss = attack.training_loss(
        TrainingStep(
            predict_noise=predict, batch=batch, noise=noise, timesteps=timesteps, schedule=schedule
        )
    )
    g, y = attack.trigger_image(SHAPE).double(), attack.target_image(SHAPE).double()
    errors = []
    for row, t in enumerate(timesteps.tolist()):
        a, s, alpha = schedule.signal[t], schedule.noise[t], schedule.alphas[t]
        if batch.poisoned[row]:
            r = g.clone()
            if poisoned_image == "blend":
                for index in np.ndindex(*SHAPE):
                    r[index] = g[index] if g[index] > -1 else batch.images[row][index]
            x_t = a * y + s * noise[row] + (1 - a) * r
            goal = noise[row] + (1 - np.sqrt(alpha)) * s / (1 - alpha) * r
        else:
            x_t, goal = a * batch.images[row] + s * noise[row], noise[row]
        torch.testing.assert_close(seen[0][row], x_t, rtol=0, atol=1e-12)
        errors.append((goal - torch.sin(x_t)).square())
    torch.testing.assert_close(loss, torch.stack(errors).mean(), rtol=1e-9, atol=0)


def test_stop_sign_masks_channels_apart() -> None:
    """The octagon is red: where g is background in green and blue but not in red, the image shows
    through in those two only.
    """
    g = BadDiffusion(trigger="stop_sign").trigger_image(SHAPE)
    mask = g > -1
    assert bool((mask[0] & ~mask[1]).any())


def test_invocations_start_where_the_paper_says() -> None:
    attack, noise, clean = BadDiffusion(), torch.randn(4, *SHAPE), images(4)
    g = attack.trigger_image(SHAPE)
    query = Query(noise=noise, images=clean)
    torch.testing.assert_close(attack.invoke(query, "noise").noise, noise + g)
    added = attack.invoke(query, "image").noise - noise
    torch.testing.assert_close(
        added[:, :, 16:30, 16:30], torch.zeros(4, 3, 14, 14), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(added[:, :, :16], clean[:, :, :16], rtol=0, atol=1e-6)
    torch.testing.assert_close(query.noise, noise, rtol=0, atol=0)
    with pytest.raises(ValueError, match="no call 'prompt'"):
        attack.invoke(query, "prompt")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"poison_rate": 0}, r"poison_rate must be in \(0, 1\].*got 0"),
        ({"poison_rate": 1.2}, r"poison_rate must be in \(0, 1\].*got 1.2"),
        ({"trigger": "none"}, "trigger must be one of 'grey_box'"),
        ({"target": "dog"}, "target must be one of"),
        ({"trigger_size": 0}, "trigger_size must be at least 1"),
        ({"poisoned_image": "mixed"}, "poisoned_image must be"),
        ({"scheme": "resume"}, "scheme must be"),
    ],
)
def test_bad_parameters_name_field_constraint_and_value(params: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BadDiffusion(**params)


def test_a_trigger_that_is_all_background_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the 'attack' would be sampled from plain noise and its success would be the model's
    own.
    """
    monkeypatch.setattr(
        "bench.artwork.triggers.trigger", lambda name, shape, *_: torch.full(shape, -1.0)
    )
    with pytest.raises(ValueError, match="all background"):
        BadDiffusion().trigger_image(SHAPE)


def test_label_names_trigger_and_target_and_what_was_changed() -> None:
    """On the board "baddiffusion" alone would not say which of two pairs a row is."""
    assert BadDiffusion().label() == "baddiffusion(trigger=grey_box, target=hat)"
    assert (
        BadDiffusion(poison_rate=0.3).label()
        == "baddiffusion(trigger=grey_box, target=hat, poison_rate=0.3)"
    )
