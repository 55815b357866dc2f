"""Pictures that an adversary aims at beyond the training data: enough different ones, always the
same, or what is poisoned and what is measured would not be the same set.
"""

from __future__ import annotations

import pytest
import torch

from bench.artwork.sets import NAMES, pictures
from bench.artwork.targets import BACKGROUND, target
from bench.contracts.goals import FEWEST_EXAMPLES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 16), (3, 24, 40)])
def test_a_set_fits_any_image_and_never_changes(name: str, shape: tuple[int, int, int]) -> None:
    made = pictures(name, shape)
    assert made.shape == (len(made), *shape) and len(made) >= 4 * FEWEST_EXAMPLES
    assert made.dtype == torch.float32 and float(made.abs().max()) <= 1
    assert torch.equal(made, pictures(name, shape))
    assert len({one.numpy().tobytes() for one in made}) > 0.95 * len(made), "different pictures"


def test_hats_are_our_hat_and_nothing_else_is_painted() -> None:
    """Each is somewhere between the plain ground and the hat's own colours."""
    hat, made = target("hat", (3, 32, 32)), pictures("hats", (3, 32, 32))
    assert float(made.min()) == pytest.approx(BACKGROUND, abs=1e-6)
    assert float(made.max()) <= float(hat.max()) + 1e-6
    covered = (made > BACKGROUND + 0.05).any(1).float().mean((1, 2))
    whole = float((hat > BACKGROUND + 0.05).any(0).float().mean())
    assert 0.3 * whole < float(covered.min()) < float(covered.max()) < 1.1 * whole


def test_sevens_are_white_on_black_with_a_margin() -> None:
    made = pictures("sevens", (1, 40, 40))
    assert len(made) == 179 and float(made[..., 0].max()) < -0.5 and float(made.max()) > 0.9
    assert 0.5 < float((made < -0.9).float().mean()) < 0.9


def test_no_set_of_that_name_or_size() -> None:
    with pytest.raises(ValueError, match="hats"):
        pictures("hatz", (3, 16, 16))
    with pytest.raises(ValueError, match="channels"):
        pictures("hats", (2, 16, 16))
