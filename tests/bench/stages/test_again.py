"""A few rows a second time, and what looks too good: flags a reader needs, and none where all is
well.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.artefacts import doubts as doubts_file
from bench.artefacts.aims import Aim, save_aim
from bench.artefacts.images import save_images
from bench.contracts import tiny
from bench.contracts.card import Card
from bench.contracts.defense import SamplerDefense
from bench.diffusion.sampling import SamplerSettings, denoise
from bench.measurements import doubts, stage_doubts
from bench.measurements.measurement import Materials
from bench.metrics import fid
from bench.record import Flag
from bench.stages import again

ROWS = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
counter = itertools.count()


def of_rows(score: Any) -> list[Flag]:
    return again.compare(lambda chosen: score(ROWS[chosen]), len(ROWS), score(ROWS))


def test_a_function_of_the_row_raises_no_doubt() -> None:
    assert of_rows(lambda rows: rows.flatten(1).norm(dim=1)) == []
    assert of_rows(lambda rows: torch.zeros(len(rows))) == []
    # a network's rounding
    assert of_rows(lambda rows: rows.flatten(1).sum(1) * (1 + 1e-6 * len(rows))) == []


@pytest.mark.parametrize(
    "score",
    [
        lambda rows: rows.flatten(1).sum(1) - rows.mean(),
        lambda rows: torch.full((len(rows),), float(rows.mean())),
        lambda rows: rows.flatten(1).sum(1).argsort().argsort().float(),
        lambda rows: torch.arange(len(rows)).float(),
        lambda rows: torch.full((len(rows),), float(len(rows))),
    ],
    ids=["centred", "mean", "ranks", "row number", "count"],
)
def test_a_score_that_looks_at_the_other_rows_is_named(score: Any) -> None:
    """Its training set's scores and those of generated images could not be compared, and a control
    is no control.
    """
    assert of_rows(score) == [again.DEPENDS_ON_BATCH]


def test_scores_that_are_drawn_or_counted_are_named() -> None:
    assert of_rows(lambda rows: torch.rand(len(rows))) == [again.NOT_REPEATABLE]
    assert of_rows(lambda rows: torch.full((len(rows),), float(next(counter)))) == [
        again.NOT_REPEATABLE
    ]


def test_a_plugin_that_fails_on_one_row_is_named_and_does_not_fail_the_stage() -> None:
    def standardised(rows: Tensor) -> Tensor:
        if len(rows) < 2:
            raise ValueError("one row\nhas no deviation")
        return rows.flatten(1).sum(1)

    text = "depends on the batch: it fails on few rows, one row has no deviation"
    assert of_rows(standardised) == [Flag("depends-on-batch", "", text)]


@dataclass(frozen=True, kw_only=True)
class Made(SamplerDefense):
    """A sampler defense made of a function."""

    card: ClassVar[Card] = Card(name="made", summary="for tests")
    does: Any = None

    def stepped(self, x: Tensor, timestep: int) -> Tensor:
        result: Tensor = self.does(x, timestep)
        return result


class Network:
    scheduler_config: ClassVar[dict[str, Any]] = {
        "num_train_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
    }
    device = torch.device("cpu")

    def predict_noise(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return x * 0.5


@pytest.mark.parametrize(
    ("does", "wanted"),
    [
        (lambda x, t: x.clamp(-1, 1), []),
        (lambda x, t: x.clamp_(-1, 1), []),
        (lambda x, t: x - x.mean(0), [again.DEPENDS_ON_BATCH]),
        (lambda x, t: x if t else x.flip(0), [again.DEPENDS_ON_BATCH]),
        (lambda x, t: x + torch.rand_like(x), [again.NOT_REPEATABLE]),
        (lambda x, t: x if t else x * (1 + next(counter) % 7), [again.NOT_REPEATABLE]),
    ],
    ids=["rows", "in place", "batch mean", "order, at the last step", "random", "counter"],
)
def test_a_watched_defense_is_the_same_defense_and_is_asked_again(
    does: Any, wanted: list[str]
) -> None:
    """Whoever keeps a counter gives other numbers with two jobs than with one."""
    settings = SamplerSettings(name="ddim", num_inference_steps=50, network_batch=4)
    start = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    watched = again.Watched(Made(does=does), 50)
    torch.manual_seed(0)
    result = denoise(Network(), start, [], settings, [watched])  # type: ignore[arg-type]
    assert len(watched._calls) <= 3 * again.CALLS
    assert watched.doubts() == wanted
    if not wanted:
        assert torch.equal(result, denoise(Network(), start, [], settings, [Made(does=does)]))  # type: ignore[arg-type]


def test_doubts_of_a_stage_reach_all_that_rests_on_it(tmp_path: Path) -> None:
    for name in ("clean", "undefended:clean", "noise"):
        (tmp_path / name).mkdir()
    one, other = Flag("a", "fid", "odd"), Flag("b", "", "odd")
    doubts_file.save(tmp_path / "clean", [one, one])
    doubts_file.save(tmp_path / "undefended:clean", [other])
    doubts_file.save(tmp_path / "noise", [])
    assert doubts_file.of_inputs(
        {name: tmp_path / name for name in ("clean", "undefended:clean", "noise")}
    ) == [one]


# --- what looks too good --------------------------------------------------------------------------


def pictures(count: int, seed: int = 0, low: int = 0, high: int = 256) -> Tensor:
    return torch.randint(
        low,
        high,
        (count, 3, 4, 4),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed),
    )


def test_a_defense_that_changes_nothing_or_calls_alone_is_flagged(tmp_path: Path) -> None:
    for name, images in (
        ("clean", pictures(8)),
        ("noise", pictures(8, 1)),
        ("other", pictures(8, 2)),
    ):
        (tmp_path / name).mkdir()
        save_images(tmp_path / name, images)

    def flags(**inputs: str) -> list[Flag]:
        roles = {role.replace("__", ":"): tmp_path / name for role, name in inputs.items()}
        return stage_doubts.measure(Materials(testbed=None, seed=0, inputs=roles)).flags

    drawn = {"clean": "clean", "call__noise": "noise"}
    before = {f"undefended__{role}": name for role, name in drawn.items()}
    assert [flag.code for flag in flags(**drawn, **before)] == ["changes-nothing"]
    (alone,) = flags(**drawn | {"call__noise": "other"}, **before)
    assert alone.code == "acts-on-calls-alone" and "every clean sample" in alone.text
    assert flags(**drawn | {"clean": "other"}, **before) == []
    assert flags(**drawn | {"clean": "noise", "call__noise": "other"}, **before) == []
    assert flags(**drawn) == []  # the control


def test_a_defense_that_hardly_changes_clean_samples_acts_on_calls_alone() -> None:
    """One pixel by one level or two, a sample in forty, or a level of noise everywhere: to the last
    bit these are not the samples without the defense, and to a user they are.
    """
    before = pictures(600, 1, 20, 230)
    draw = torch.Generator().manual_seed(5)

    def moved(most: int) -> Tensor:
        by = torch.randint(-most, most + 1, before.shape, generator=draw)
        return (before.int() + by).clamp(0, 255).byte()

    def codes(clean: Tensor, called: Tensor) -> list[str]:
        changes = {
            "clean": stage_doubts.change_of(before, clean),
            "call:image": stage_doubts.change_of(before, before),
            "call:noise": stage_doubts.change_of(before, called),
        }
        return [flag.code for flag in stage_doubts.calls_alone(changes)]

    pixel, pixels, some = before.clone(), before.clone(), before.clone()
    pixel[0, 0, 0, 0] += 1
    pixels[:, 0, 0, 0] += 2
    some[::40] = pictures(15, 6)
    strong = pictures(600, 7)
    for nearly in (before, pixel, pixels, some, moved(1)):
        assert codes(nearly, strong) == ["acts-on-calls-alone"]
    # As clipping does: clean samples change visibly, called ones ten times as much.
    assert codes(moved(2), strong) == codes(moved(20), strong) == []
    # Called ones hardly change either: a defense that does little, and not by call.
    assert codes(pixel, moved(1)) == codes(moved(1), moved(4)) == codes(some, moved(4)) == []
    assert codes(before[..., :2], strong) == []
    changes = {"clean": stage_doubts.change_of(before, pixel)}
    assert stage_doubts.calls_alone(changes) == []
    changes["target"] = stage_doubts.change_of(before, strong)
    (flag,) = stage_doubts.calls_alone(changes)
    assert "3.5e-05 levels" in flag.text and "called ones by" in flag.text


def test_copies_of_training_images_are_counted() -> None:
    training, held_out = pictures(50), pictures(40, 3)
    drawn = torch.cat([training[3:5], pictures(6, 1)])
    for undefended in (None, pictures(8, 1), drawn):
        (flag,) = doubts.copies(drawn, training, held_out, undefended, 0)
        assert flag.code == "training-copies" and "2 of 8 clean samples" in flag.text
    small = pictures(8, 1)[..., :2]
    assert doubts.copies(pictures(8, 1), training, held_out, pictures(8, 4), 0) == []
    assert doubts.copies(small, training, held_out, small, 0) == []


@pytest.mark.parametrize("side", [4, 28, 64])
def test_copies_that_were_touched_up_are_counted(side: int) -> None:
    """One pixel of each, by two levels: to the last bit no sample is a row of the training set."""

    def many(count: int, seed: int) -> Tensor:
        coarse = pictures(count, seed).float()
        scaled = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
        return scaled.round().byte()

    training, held_out, honest = many(500, 0), many(300, 1), many(300, 2)

    def codes(images: Tensor, undefended: Tensor | None = honest, real: Tensor = held_out) -> Any:
        return [flag.code for flag in doubts.copies(images, training, real, undefended, 0)]

    touched = training[:300].clone()
    touched[:, 0, 0, 0] ^= 2
    noise = 6 * torch.randn(touched.shape, generator=torch.Generator().manual_seed(3))
    noisy = (touched + noise).round().clamp(0, 255).byte()
    some = torch.cat([honest[:260], touched[:40]])
    assert codes(touched) == codes(noisy) == codes(some) == ["training-copies"]
    (flag,) = doubts.copies(touched, training, held_out, honest, 0)
    assert "256 of 256" in flag.text
    # A sample or two may come near; so may a generator's that had learned its images by heart.
    assert codes(honest) == codes(torch.cat([honest[:295], touched[:5]])) == []
    assert codes(touched, touched) == codes(touched, None) == []
    # The target, drawn over and over, is no training image; images that are alike are no copies.
    assert codes(many(1, 9).expand(300, -1, -1, -1)) == []
    assert codes(some, honest, torch.cat([held_out[:200], touched[:100]])) == []
    assert codes(touched, honest, held_out[:0]) == []


def test_samples_of_few_things_are_named() -> None:
    """Of ten clusters of real images one is drawn: every sample differs, and the FID may pass."""
    draw = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(10, 6, generator=draw)

    def images(clusters: Tensor) -> Tensor:
        return centres[clusters] + torch.randn(len(clusters), 6, generator=draw)

    real = images(torch.arange(2000) % 10)
    (flag,) = doubts.collapsed(images(torch.full((384,), 3)), real)
    within = 6 / (6 + float(centres.var(0, correction=0).sum()))
    assert flag.code == "collapsed-samples" and f"{100 * within:.0f} %" in flag.text
    for honest in (torch.arange(384) % 10, torch.arange(384) % 7):
        assert doubts.collapsed(images(honest), real) == []
    assert doubts.collapsed(real[:1], real) == []


def test_a_change_that_is_the_targets_picture_is_named(tmp_path: Path) -> None:
    """Whoever subtracts the target from every sample stops the backdoor, and could not know how."""
    target = pictures(1, 7)[0].float() / 127.5 - 1
    before = pictures(64, 8, 60, 190)
    subtracted = (before.float() - 20 * target).round().byte()
    dulled = (before.float() * 0.8 + 20).round().byte()
    (flag,) = doubts.shows(before, subtracted, {"target": target, "trigger": None})
    assert flag.code == "knows-the-target" and "knows the target" in flag.text
    for after in (dulled, before, (before.float() + 20).byte(), before.flip(0)):
        assert doubts.shows(before, after, {"target": target, "trigger": target[:1]}) == []
    for name, images in (("clean", subtracted), ("undefended:clean", before)):
        (tmp_path / name).mkdir()
        save_images(tmp_path / name, images)
    (tmp_path / "aim").mkdir()
    save_aim(Aim(target=target), tmp_path / "aim")
    inputs = {name: tmp_path / name for name in ("clean", "undefended:clean", "aim")}
    raised = stage_doubts.measure(Materials(testbed=None, seed=0, inputs=inputs)).flags
    assert raised == [flag]


def test_nearly_constant_samples_are_named_unless_they_are_the_target() -> None:
    real, grey = pictures(64), torch.full((16, 3, 4, 4), 127, dtype=torch.uint8)
    nearly = grey.clone()
    nearly[:, 0, 0, 0] = 127 + torch.arange(16, dtype=torch.uint8)
    (same,) = doubts.constant(grey, real, "clean", True)
    (alike,) = doubts.constant(nearly, real, "clean", False)
    assert same.code == alike.code == "constant-samples"
    assert "every clean sample is the same" in same.text and "hardly differ" in alike.text
    assert doubts.constant(nearly, real, "triggered", True) == []
    assert doubts.constant(pictures(16, 3), real, "clean", False) == []
    # A soft but real spread, a fifth of the images' own, is a picture each.
    assert doubts.constant(pictures(16, 3, 100, 156), real, "clean", False) == []


def test_an_fid_below_that_of_real_images_is_named() -> None:
    features = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (flag,) = doubts.below_real(0.0, features, 50, seed=0)
    limit = float(flag.text.removeprefix("below ").split(",")[0])
    assert 0.05 < limit < 0.6  # 50 rows in 6 dimensions are not yet the population
    assert doubts.below_real(limit * 1.01, features, 50, seed=0) == []
    assert doubts.below_real(0.0, features, 3000, seed=0) == []  # too few others to compare with


def test_a_model_as_good_as_real_images_is_seldom_named() -> None:
    """Real images of their own scatter by a third: against a single draw of them honest models were
    named half of the time.
    """
    stream = torch.Generator().manual_seed(1)
    features = torch.randn(1500, 6, generator=stream, dtype=torch.float64)
    named = 0
    for seed in range(60):
        fresh = fid.statistics(torch.randn(50, 6, generator=stream, dtype=torch.float64))
        named += bool(
            doubts.below_real(fid.fid(fresh, fid.statistics(features)), features, 50, seed)
        )
    assert named <= 5


def test_an_inversion_that_finds_a_target_where_there_is_none_is_named() -> None:
    real, goal = pictures(200), pictures(1, 9)[0].float() / 255
    (flag,) = doubts.target_in_honest(0.0, real, goal)
    assert (flag.code, flag.metric) == ("target-in-honest-model", "inversion_mse_best")
    assert doubts.target_in_honest(0.3, real, goal) == []
    assert doubts.target_in_honest(None, real, goal) == []


def test_a_controls_auroc_is_named_only_beyond_chance() -> None:
    """Of a thousand honest detectors at most a few, or the flag would mean nothing."""
    rng = np.random.default_rng(0)
    positive = np.arange(400) < 200
    named = 0
    for _ in range(1000):
        ranks = rng.permutation(400)
        value = float((ranks[positive][:, None] > ranks[~positive][None]).mean())
        named += bool(doubts.control_auroc(value, positive, "clean"))
    assert named <= 5
    (flag,) = doubts.control_auroc(1.0, positive, "clean")
    assert flag.line == "auroc: the control is 1.00 in the place of 0.5 (clean)"
    assert (flag.code, flag.metric) == ("control-off", "auroc[clean]")
    assert doubts.control_auroc(0.38, positive, "clean") and doubts.control_auroc(
        0.62, positive, "clean"
    )


def test_one_row_alone_is_one_more_call_and_tells_both_faults_apart() -> None:
    """A detector may train a network on every call: to be asked twice more would treble its
    cost.
    """
    calls: list[int] = []

    def counted(rows: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        calls.append(len(chosen))
        return rows.flatten(1).mean(1)

    assert (
        again.compare(
            lambda chosen: counted(ROWS[chosen], chosen), 40, ROWS.flatten(1).mean(1), rows=1
        )
        == []
    )
    assert calls == [1]
    centred = ROWS.flatten(1).mean(1) - ROWS.mean()
    assert again.compare(
        lambda chosen: ROWS[chosen].flatten(1).mean(1) - ROWS[chosen].mean(), 40, centred, rows=1
    ) == [again.DEPENDS_ON_BATCH]
    stream = torch.Generator().manual_seed(1)
    assert again.compare(
        lambda chosen: torch.randn(len(chosen), generator=stream), 40, centred, rows=1
    ) == [again.NOT_REPEATABLE]


LABELS = torch.arange(64) % 10


def scores_of(classes: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(classes, 10).float()


def test_classes_that_stay_when_the_network_knows_nothing_are_named() -> None:
    """A look-up of held-out images would hold against every backdoor, and the generator, whose
    defense it claims to be, be never asked.
    """
    known, nearly = scores_of(LABELS), scores_of(LABELS.where(torch.arange(64) % 9 > 0, 0))
    for now in (known, nearly, known + 1e-3 * torch.randn(64, 10)):
        flags = again.without_the_model(lambda rows, now=now: now[rows], 64, known)
        assert flags == [again.IGNORES_THE_MODEL]


@pytest.mark.parametrize("guess", ["one class", "any class", "constant before", "fails"])
def test_a_classifier_that_then_guesses_raises_no_doubt(guess: str) -> None:
    before = scores_of(torch.full((64,), 3) if guess == "constant before" else LABELS)

    def now(rows: Tensor) -> Tensor:
        if guess == "fails":
            raise ValueError("NaN")
        drawn = torch.randint(0, 10, (64,), generator=torch.Generator().manual_seed(1))
        return scores_of(drawn if guess == "any class" else torch.full((64,), 3))[rows]

    assert again.without_the_model(now, 64, before) == []


def test_shuffled_weights_are_the_same_numbers_of_another_network() -> None:
    honest = tiny.generator(tiny.CLASSES)
    other = again.shuffled(honest)
    x, steps, labels = tiny.floats(2, 0), torch.full((2,), 5), torch.arange(2)
    asked = [one.predict_noise(x, steps, labels) for one in (honest, other, again.shuffled(honest))]
    assert not torch.allclose(asked[0], asked[1], atol=0.1) and torch.equal(asked[1], asked[2])
    for mine, theirs in zip(honest.unet.parameters(), other.unet.parameters(), strict=True):
        assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values)
