"""How stamped images weather, and the second opinion on patches: what the trigger classifier's
errors are counted on.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.artwork import patterns
from bench.metrics import stamps
from bench.testbeds.data.digits import digits_over_photographs


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return torch.from_numpy(digits_over_photographs()["held_out"][0][:600].copy())


def test_shifts_go_both_ways_and_wrap() -> None:
    images = torch.arange(16).view(1, 1, 4, 4).expand(3, 2, 4, 4)
    offsets = torch.tensor([[1, 0], [-1, 2], [0, 0]])
    moved = stamps.shifted(images, offsets)
    for row, (down, right) in enumerate(offsets.tolist()):
        assert torch.equal(moved[row], images[row].roll((down, right), (1, 2)))


def test_weathered_triggers_have_every_strength_and_stay_near_their_place() -> None:
    """On flat grey, without noise and blur, what is left of a white patch says how strong it was
    made, and where.
    """
    grey = torch.full((400, 3, 16, 16), 100, dtype=torch.uint8)
    stamped = grey.clone()
    stamped[:, :, 8, 8] = 200
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stamps, "BLURRED_SHARE", 0.0)
        patched.setattr(stamps, "NOISY_SHARE", 0.0)
        patched.setattr(stamps, "POSED_SHARE", 0.0)
        weathered = stamps.weathered(grey, stamped, np.random.default_rng(0)).float()
        assert torch.equal(stamps.weathered(grey, None, np.random.default_rng(0)), grey)
    strengths = (weathered.amax((1, 2, 3)) - 100) / 100
    assert 0.3 <= strengths.min() < 0.33 and 1.17 < strengths.max() <= 1.2
    places = (weathered[:, 0] > 100).nonzero()[:, 1:]
    assert len(places) == 400 and set(places.flatten().tolist()) == {6, 7, 8, 9, 10}


def test_weathering_is_the_same_for_the_same_stream_and_changes_nothing_in_place(plain) -> None:
    before = plain.clone()
    first, again = (stamps.weathered(plain, None, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, plain)
    assert torch.equal(plain, before)


@pytest.mark.parametrize(
    "change", [lambda x: x, lambda x: x.flip(3), lambda x: 255 - x, lambda x: x.flip(1)]
)
def test_one_of_the_views_undoes_a_change(plain, change) -> None:
    """At full contrast, the original is among the views of its mirror image, its negative and its
    recoloured copy.
    """
    image = plain[:1].clone()
    image[..., 0, 0], image[..., 0, 1] = 0, 255
    assert any(torch.equal(view, image) for view in stamps.views(change(image)))


def test_the_patch_is_read_off_stamped_images(plain) -> None:
    patch = stamps.patch(plain, patterns.stamp("badnets1", plain))
    assert (patch.top, patch.left, tuple(patch.picture.shape)) == (13, 13, (3, 3, 3))
    assert torch.equal(patch.picture[0], torch.eye(3).flip(0).double())
    # A blend covers everything and a patch of one colour cannot be told by its pattern.
    assert stamps.patch(plain, patterns.stamp("badnets2", plain)) is None
    assert stamps.patch(plain, patterns.stamp("unicolor", plain)) is None
    assert stamps.patch(plain, plain) is None


def test_likeness_finds_the_patch_fainter_and_beside_its_place_and_hardly_anything_else(
    plain,
) -> None:
    """The independent estimate of the trigger classifier's misses needs hardly any false alarm of
    its own.
    """
    stamped = patterns.stamp("badnets1", plain)
    patch = stamps.patch(plain, stamped)
    for images in (stamped, stamped.roll((-1, -2), (2, 3)), (stamped // 3 + 40)):
        assert (stamps.likeness(patch, images) > stamps.TEMPLATE_FLOOR).all()
    assert (stamps.likeness(patch, plain) > stamps.TEMPLATE_FLOOR).float().mean() < 0.01
    assert (stamps.likeness(patch, torch.full_like(plain[:4], 9)) == -1).all()
    # Against numpy's correlation, in place.
    window = plain[:1, :, 13:, 13:].double().flatten()
    assert (
        float(stamps.likeness(patch, plain[:1]))
        >= np.corrcoef(window, patch.picture.flatten())[0, 1] - 1e-12
    )


def test_nonsense_has_every_contrast() -> None:
    spread = stamps.nonsense(200, (3, 16, 16), np.random.default_rng(1)).float().std((1, 2, 3))
    assert spread.min() < 40 and spread.max() > 90


def test_poses_are_small_turns_and_scales_of_a_quarter() -> None:
    """A square in the middle keeps its middle, and changes its outline in about a quarter of the
    rows.
    """
    square = torch.zeros(400, 1, 16, 16)
    square[:, :, 4:12, 4:12] = 200
    posed = stamps.posed(square, np.random.default_rng(2))
    assert (posed[:, :, 6:10, 6:10] > 199).all() and (posed[:, :, :2] < 1).all()
    assert 0.18 < (posed != square).any((1, 2, 3)).float().mean() < 0.32
