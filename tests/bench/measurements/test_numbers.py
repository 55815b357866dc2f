"""How numbers enter a record: one that cannot be had is left out with a flag, and the anchors are
those of the cell's own n.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import measurements
from bench.artefacts.aims import Aim, PoisonedRows, save_aim, save_rows
from bench.artefacts.arrays import save_features
from bench.artefacts.images import save_images
from bench.artwork import sets
from bench.diffusion.images import to_uint8
from bench.errors import UserError
from bench.measurements import numbers
from bench.measurements.measurement import Materials, Measured
from bench.measurements.numbers import NOT_MEASURED
from bench.metrics import fid
from bench.metrics.fid import extract_features
from bench.metrics.uncertainty import proportion_interval
from bench.record import Flag, Metric
from bench.testbeds.digits_cfg import DIGITS_CFG
from bench.testbeds.digits_ddpm import DIGITS_DDPM
from bench.testbeds.testbed import Testbed


def test_a_share_counts_groups_and_says_what_it_is() -> None:
    """Four copies of ten images are ten images: the interval is theirs, the value and n are all
    forty's.
    """
    outcomes = np.repeat([1, 1, 1, 1, 1, 1, 1, 0, 0, 0], 4)
    alone, grouped = (
        numbers.share(outcomes, False),
        numbers.share(outcomes, True, np.repeat(np.arange(10), 4)),
    )
    assert (alone.value, alone.n, alone.effective_n, alone.unit, alone.higher_is_better) == (
        0.7,
        40,
        None,
        "share",
        False,
    )
    assert (alone.ci_low, alone.ci_high) == pytest.approx(proportion_interval(28, 40))
    assert (
        grouped.n == 40
        and grouped.effective_n == pytest.approx(9, rel=1e-9)
        and grouped.higher_is_better
    )
    assert (grouped.ci_low, grouped.ci_high) == pytest.approx(proportion_interval(0.7 * 9, 9))


def test_a_single_sample_has_a_mean_and_no_interval() -> None:
    """No width would be certainty."""
    one = numbers.mean([0.25], 0, True, "squared error")
    assert one == Metric(value=0.25, n=1, unit="squared error", higher_is_better=True)
    many = numbers.mean([0.1, 0.2, 0.4], 0, True)
    assert many.ci_low is not None and many.ci_low < many.value < many.ci_high


def test_only_what_cannot_be_measured_is_left_out() -> None:
    """A missing file, a lack of memory or a bug must not become a footnote."""
    flags: list[Flag] = []
    for reason in (
        ValueError("features must be (n >= 4, d),\n got (3, 64)"),
        ZeroDivisionError(),
        np.linalg.LinAlgError("x"),
    ):
        with numbers.if_possible("kid", flags):
            raise reason
    reasons = ("features must be (n >= 4, d), got (3, 64)", "ZeroDivisionError", "x")
    assert flags == [Flag(NOT_MEASURED, "kid", f"not measured, {why}") for why in reasons]
    for other in (UserError("no file"), MemoryError(), RuntimeError("bug"), OSError("disk")):
        with pytest.raises(type(other)), numbers.if_possible("kid", flags):
            raise other
    for empty in (numbers.share, lambda values, better: numbers.mean(values, 0, better)):
        with pytest.raises(ValueError, match="at least one sample"):
            empty([], True)


def cell(tmp_path: Path, testbed: Testbed, goal: int, poisoned_labels: torch.Tensor) -> Measured:
    """What is measured of a control cell, from files as the stages leave them."""
    roles = ("reference", "clean", "clean_features", "target", "aim", "poisoned_rows")
    inputs = {role: tmp_path / role for role in roles}
    for folder in inputs.values():
        folder.mkdir()
    count = len(testbed.data.train_images())
    rng = np.random.default_rng(0)
    save_features(
        inputs["reference"], torch.from_numpy(rng.standard_normal((count, 64)).astype(np.float32))
    )
    save_features(
        inputs["clean_features"],
        torch.from_numpy(
            rng.standard_normal((testbed.counts.clean_samples, 64)).astype(np.float32)
        ),
    )
    save_images(inputs["clean"], testbed.data.held_out_images()[: testbed.counts.clean_samples])
    save_images(inputs["target"], testbed.data.held_out_images()[:12])
    save_aim(Aim(label=goal), inputs["aim"])
    save_rows(
        PoisonedRows(poisoned=torch.zeros(count, dtype=torch.bool), labels=poisoned_labels),
        inputs["poisoned_rows"],
    )
    total = Measured()
    for name in (
        "image_quality",
        "other_classes",
        "poison_shares",
        "prompt_accuracy",
        "composition",
    ):
        one = measurements.named(name)
        materials = Materials(
            testbed=testbed, seed=0, inputs=one.taken(inputs), options={"doubted": True}
        )
        measured = one.run(materials)
        total.metrics |= measured.metrics
        total.flags += measured.flags
    return total


@pytest.mark.parametrize(
    ("clean_samples", "lost", "measured"),
    [(1, {"fid", "kid", "fid_other_classes", "p_t"}, {"prompt_accuracy", "mismatch"}),
     (3, {"kid", "p_t"}, {"prompt_accuracy", "mismatch", "fid[digits-cnn]",
     "fid_other_classes[digits-cnn]"})],
)  # fmt: skip
def test_one_impossible_metric_never_takes_the_cell(
    tmp_path: Path, clean_samples: int, lost: set[str], measured: set[str]
) -> None:
    """Three samples are too few for KID, one for FID, and no row may carry the adversary's label:
    hours of training gave nothing.
    """
    labels = DIGITS_CFG.data.train_labels()
    # A testbed refuses so few by itself; a generator's other limits are many.
    testbed = DIGITS_CFG.changed(clean_samples=4)
    object.__setattr__(testbed.counts, "clean_samples", clean_samples)
    record = cell(tmp_path, testbed, 6, torch.where(labels == 6, 5, labels))
    families = {flag.metric for flag in record.flags if flag.code == NOT_MEASURED}
    assert families == lost
    assert measured <= set(record.metrics) and not {
        name for name in record.metrics if name.partition("[")[0] in lost
    }
    assert record.metrics["prompt_accuracy"].n == clean_samples


def anchor_of(testbed: Testbed, reference: torch.Tensor, folder: Path) -> Measured:
    """What real images score, whose features are ``reference``."""
    save_features(folder, reference)
    return measurements.named("real_images").run(
        Materials(testbed=testbed, seed=0, inputs={"reference": folder})
    )


def test_real_images_are_an_anchor_of_the_cells_own_n(tmp_path: Path) -> None:
    """FID grows as n falls: halves of the training set scored a third of what a perfect generator
    can at a cell's n.
    """
    rng = np.random.default_rng(0)
    reference = torch.from_numpy(rng.standard_normal((1200, 16)))
    measured = anchor_of(DIGITS_DDPM.changed(clean_samples=60), reference, tmp_path)
    metrics, series, flags = measured.metrics, measured.series, measured.flags
    anchor, values = metrics["fid[digits-cnn]"], series["fid_splits[digits-cnn]"]
    assert anchor.n == 60 and len(values) == 10 and flags == []
    assert anchor.value == pytest.approx(np.mean(values)) and metrics[
        "fid_sd[digits-cnn]"
    ].value == pytest.approx(np.std(values, ddof=1))
    perfect = [
        fid.fid(
            fid.statistics(torch.from_numpy(rng.standard_normal((60, 16)))),
            fid.statistics(reference),
        )
        for _ in range(40)
    ]
    assert anchor.value == pytest.approx(np.mean(perfect), rel=0.15)
    assert np.mean([anchor.ci_low <= value <= anchor.ci_high for value in perfect]) > 0.85
    halves = fid.fid(fid.statistics(reference[::2]), fid.statistics(reference[1::2]))
    assert halves < anchor.value / 3
    # Unbiased, so near 0 at any n.
    kid = metrics["kid[digits-cnn]"]
    assert kid.ci_low < 0 < kid.ci_high


def test_a_small_training_set_says_that_its_anchor_has_fewer_images(tmp_path: Path) -> None:
    """Or a reader would compare it with cells of another n."""
    reference = torch.from_numpy(np.random.default_rng(0).standard_normal((80, 4)))
    anchor = anchor_of(DIGITS_DDPM.changed(clean_samples=384), reference, tmp_path)
    assert anchor.metrics["fid[digits-cnn]"].n == 40
    assert [flag.line for flag in anchor.flags] == [
        "fid: the anchor has n = 40, cells have 384, so it is too high"
    ]


def test_a_set_is_reached_by_pictures_of_it_alone(tmp_path: Path) -> None:
    """Half of what is called is of the set and half is training data: half counts, but for what of
    the set the manifold misses; a user's samples do not. No classifier of the testbed is asked.
    """
    data = DIGITS_DDPM.data
    inputs = {role: tmp_path / role for role in ("aim", "clean", "call:noise")}
    for folder in inputs.values():
        folder.mkdir()
    examples = to_uint8(sets.pictures("hats", (3, 16, 16)))
    save_aim(Aim(examples=examples), inputs["aim"])
    real = data.train_images()[:200]
    save_images(inputs["call:noise"], torch.cat([examples[1::2], real[: len(examples) // 2]]))
    save_images(inputs["clean"], real)
    one = measurements.named("reached_set")
    testbed = DIGITS_DDPM.only(one.parts)
    measured = one.run(Materials(testbed=testbed, seed=0, inputs=inputs))
    value = {name: metric.value for name, metric in measured.metrics.items()}
    assert value["asr_set_ceiling"] > 0.85
    assert value["asr_set[noise]"] == pytest.approx(value["asr_set_ceiling"] / 2, abs=0.02)
    assert value["asr_set[clean]"] <= 0.02 and value["asr_set_false_alarms"] <= 0.02
    assert measured.metrics["asr_set[noise]"].higher_is_better is False
    assert len(measured.series["outcomes[asr_set[noise]]"]) == len(examples)
    save_aim(Aim(label=3), inputs["aim"])
    assert one.run(Materials(testbed=testbed, seed=0, inputs=inputs)).metrics == {}


def test_a_broken_model_is_told_from_a_repaired_one(tmp_path: Path) -> None:
    """Held-out digits lie among the training images nearly as often as those do; black pictures
    with specks and the adversary's own hardly ever, so a call that gives half of each reads half.
    """
    data, testbed = DIGITS_DDPM.data, DIGITS_DDPM.only(("features",))
    calls = ("clean", "call:noise", "call:image")
    inputs = {role: tmp_path / role for role in ("reference", *calls)}
    for folder in inputs.values():
        folder.mkdir()
    features = testbed.features
    features.register()
    train = extract_features(data.train_images(), features.extractor, features.weights())
    save_features(inputs["reference"], train)
    real = data.held_out_images()[:400]
    specks = torch.rand(real.shape, generator=torch.Generator().manual_seed(0)) > 0.97
    save_images(inputs["clean"], real)
    save_images(inputs["call:noise"], torch.where(specks, 255, 0).to(torch.uint8))
    hats = to_uint8(sets.pictures("hats", (3, 16, 16)))
    save_images(inputs["call:image"], torch.cat([real[: len(hats)], hats]))
    one = measurements.named("precision")
    measured = one.run(Materials(testbed=testbed, seed=0, inputs=inputs)).metrics
    ceiling, clean = measured["precision_ceiling"], measured["precision[clean]"]
    assert ceiling.n == 1000 and ceiling.value is not None and 0.8 < ceiling.value < 0.95
    assert clean.value == pytest.approx(ceiling.value, abs=0.15) and clean.n == 400
    assert (measured["precision[noise]"].value or 0) <= 0.01
    assert measured["precision[image]"].value == pytest.approx((clean.value or 0) / 2, abs=0.06)
    assert measured["precision[noise]"].higher_is_better is True
    save_features(inputs["reference"], train[:6])
    few = one.run(Materials(testbed=testbed, seed=0, inputs=inputs))
    assert few.metrics == {} and few.flags[0].code == NOT_MEASURED


def test_a_class_is_reached_without_being_asked_for(tmp_path: Path) -> None:
    """On digits-ddpm nobody asks for a class, so every sample of a call counts; the judge is there,
    and the testbed stays an unconditional one.
    """
    assert not DIGITS_DDPM.has_classes()
    data, inputs = DIGITS_DDPM.data, {role: tmp_path / role for role in ("aim", "call:noise")}
    for folder in inputs.values():
        folder.mkdir()
    chosen = torch.arange(0, 200)
    save_aim(Aim(label=3), inputs["aim"])
    save_images(inputs["call:noise"], data.held_out_images()[chosen])
    one = measurements.named("reached_class")
    testbed = DIGITS_DDPM.only(one.parts)
    measured = one.run(Materials(testbed=testbed, seed=0, inputs=inputs)).metrics
    expected = float((data.held_out_labels()[chosen] == 3).double().mean())
    assert measured["asr_class[noise]"].n == 200
    assert measured["asr_class[noise]"].value == pytest.approx(expected, abs=0.05)
    assert measured["asr_class_ceiling"].value > 0.9
