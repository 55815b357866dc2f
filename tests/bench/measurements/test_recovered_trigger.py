"""What an inversion recovered of a trigger: nearer is lower, and a constant image stands beside
it.
"""

from pathlib import Path

import pytest
import torch

from bench.artefacts.aims import Aim, save_aim
from bench.artefacts.images import save_images
from bench.diffusion.images import to_uint8
from bench.measurements import named
from bench.measurements.measurement import Materials, Measured

TRIGGER = torch.full((3, 8, 8), -1.0)
TRIGGER[:, 4:, 4:] = 1.0


def measured(
    folder: Path, epochs: list[torch.Tensor] | None, trigger: torch.Tensor | None = TRIGGER
) -> Measured:
    inputs = {name: folder / name for name in ("aim", "recovered")}
    for made in inputs.values():
        made.mkdir()
    save_aim(Aim(trigger=trigger), inputs["aim"])
    if epochs is not None:
        save_images(
            inputs["recovered"], torch.stack([to_uint8(images) for images in epochs]), "triggers"
        )
    return named("recovered_trigger").measured(Materials(testbed=None, seed=0, inputs=inputs))


def test_the_trigger_itself_is_at_no_distance_and_its_negative_farthest(tmp_path: Path) -> None:
    exact, grey, negative = (
        image.expand(2, -1, -1, -1) for image in (TRIGGER, torch.zeros_like(TRIGGER), -TRIGGER)
    )
    result = measured(tmp_path, [negative, exact, grey])
    assert result.series["trigger_mse"] == pytest.approx([1.0, 0.0, 0.25], abs=1e-2)
    assert result.metrics["trigger_mse_best"].value == pytest.approx(0, abs=1e-4)
    assert result.metrics["trigger_mse_last"].value == pytest.approx(0.25, abs=1e-2)
    # A quarter of the pixels is 1: the best constant is their mean.
    assert result.metrics["trigger_mse_constant"].value == pytest.approx(0.25 * 0.75)
    assert result.metrics["trigger_mse_best"].higher_is_better is False


def test_a_cosine_is_of_the_last_epoch_and_a_flat_image_stands_beside_it(tmp_path: Path) -> None:
    """Half the length is the same direction; black has half of it with three quarters of -1."""
    half, black = TRIGGER / 2, torch.full_like(TRIGGER, -1.0)
    for folder, last, cosine in (
        ("half", half, 1.0),
        ("black", black, 0.5),
        ("negative", -TRIGGER, -1.0),
    ):
        (tmp_path / folder).mkdir()
        result = measured(tmp_path / folder, [torch.stack([one, one]) for one in (TRIGGER, last)])
        number = result.metrics["trigger_cosine"]
        assert number.value == pytest.approx(cosine, abs=1e-4) and number.higher_is_better is True
        assert number.n == 2
        assert result.metrics["trigger_cosine_constant"].value == pytest.approx(0.5)


def test_a_grey_trigger_has_no_direction_and_keeps_its_error(tmp_path: Path) -> None:
    grey = torch.zeros(3, 8, 8)
    result = measured(tmp_path, [grey[None]], grey)
    assert result.metrics["trigger_mse_last"].value == pytest.approx(0, abs=1e-4)
    assert "trigger_cosine" not in result.metrics
    (flag,) = [one for one in result.flags if one.metric == "trigger_cosine"]
    assert "no direction" in flag.text


@pytest.mark.parametrize(
    ("epochs", "trigger", "reason"),
    [
        (None, TRIGGER, "this inversion recovers no trigger"),
        ([], None, "this attack has no trigger to draw"),
    ],
)
def test_without_a_trigger_the_reason_is_given(
    tmp_path: Path, epochs: object, trigger: object, reason: str
) -> None:
    result = measured(tmp_path, None if epochs is None else None, trigger)  # type: ignore[arg-type]
    assert (
        result.metrics == {}
        and set(result.absent.values()) == {reason}
        and "trigger_mse_best" in result.absent
    )
