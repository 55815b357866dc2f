"""BadNets against its paper: which rows are touched, how, and how many; a mistake here shifts every
rate on the board.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.badnets import BadNets
from attacks.wanet import WaNet
from bench.artwork import patterns
from bench.contracts.data import TrainingSet
from bench.contracts.goals import ReachClass

SHAPE = (3, 16, 16)


def labelled(count: int, classes: int = 10, shape: tuple[int, int, int] = SHAPE) -> TrainingSet:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=draw)
    return TrainingSet(images, torch.zeros(count, dtype=torch.bool), torch.arange(count) % classes)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(20, 150),
    rate=st.floats(0.05, 0.6),
    target=st.integers(0, 4),
    pattern=st.sampled_from(patterns.NAMES),
    seed=st.integers(0, 5),
)
def test_the_papers_number_of_other_rows_is_stamped_and_relabelled_and_nothing_else(
    count: int, rate: float, target: int, pattern: str, seed: int
) -> None:
    """int(p N_total) rows from outside the target class; the target's own rows are never stamped,
    which makes G2 remarkable.
    """
    honest = labelled(count, classes=5, shape=(1, 8, 8))
    originals = honest.images.clone(), honest.labels.clone(), honest.poisoned.clone()
    attack = BadNets(poison_rate=rate, target_class=target, pattern=pattern)
    poisoned = attack.poison(honest, rng(seed))
    rows = poisoned.poisoned
    assert int(rows.sum()) == int(count * rate)
    assert bool((honest.labels[rows] != target).all())
    assert bool((poisoned.labels[rows] == target).all())
    assert torch.equal(poisoned.images[rows], attack.stamp(honest.images[rows]))
    assert torch.equal(poisoned.images[~rows], honest.images[~rows])
    assert torch.equal(poisoned.labels[~rows], honest.labels[~rows])
    for before, after in zip(
        originals, (honest.images, honest.labels, honest.poisoned), strict=True
    ):
        assert torch.equal(before, after), "the honest set was modified"


def test_target_class_holds_the_papers_share_of_triggered_rows() -> None:
    """p_t = p N / (p N + N_t): the dashed line that amplification is read against; CIFAR at 10 %
    has one half.
    """
    poisoned = BadNets(poison_rate=0.1, target_class=4).poison(labelled(1000), rng())
    in_target = poisoned.labels == 4
    assert int(in_target.sum()) == 200
    assert float(poisoned.poisoned[in_target].float().mean()) == 0.5
    assert not poisoned.poisoned[~in_target].any()


def test_rows_are_drawn_from_all_other_classes_alike() -> None:
    """A draw that favours a class would make G1 look like a confusion of two classes."""
    honest = labelled(2000)
    drawn = torch.zeros(10)
    for seed in range(20):
        rows = BadNets(poison_rate=0.2).poison(honest, rng(seed)).poisoned
        drawn += torch.bincount(honest.labels[rows], minlength=10)
    assert drawn[6] == 0
    others = drawn[torch.arange(10) != 6]
    expected = 20 * 400 / 9
    assert float((others - expected).abs().max()) < 4 * expected**0.5


def test_the_seed_chooses_the_rows() -> None:
    one, again, other = (BadNets().poison(labelled(200), rng(seed)).poisoned for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_trigger_is_what_was_stamped() -> None:
    """The harness builds its trigger classifier from ``stamp`` and the board shows
    ``trigger_image``: both must be the attack's.
    """
    attack = BadNets(pattern="unicolor", pattern_size=5)
    assert attack.goal() == ReachClass(6)
    images = torch.full((2, *SHAPE), 128, dtype=torch.uint8)
    assert torch.equal(attack.stamp(images), patterns.stamp("unicolor", images, 5))
    picture = attack.trigger_image(SHAPE)
    torch.testing.assert_close(picture, attack.stamp(images)[0] / 127.5 - 1, rtol=0, atol=1e-6)
    assert attack.calls == ()


def test_the_blend_strength_reaches_the_images() -> None:
    images = torch.full((1, *SHAPE), 100, dtype=torch.uint8)
    weak, papers, strong = (
        (BadNets(pattern="badnets2", blend_strength=strength).stamp(images).float() - 100)
        .abs()
        .mean()
        for strength in (0.1, None, 0.5)
    )
    assert weak < papers < strong
    assert float(BadNets(pattern="badnets2").stamp(images)[0, 0, 0, 0]) == 131


@pytest.mark.parametrize(("rate", "copies", "images"), [(0.2, 10, 4), (0.2, 5, 8), (0.1, 8, 3)])
def test_poisoned_duplicates_are_few_images_many_times_under_the_trigger(
    rate: float, copies: int, images: int
) -> None:
    """Table 6: the trigger sits on the replicas. The set keeps its size and the rate its meaning,
    so it compares with plain BadNets.
    """
    honest = labelled(200)
    attack = BadNets(poison_rate=rate, duplicates="poisoned", copies=copies)
    poisoned = attack.poison(honest, rng())
    rows = poisoned.poisoned
    assert int(rows.sum()) == int(200 * rate) and len(poisoned.images) == 200
    distinct, times = poisoned.images[rows].unique(dim=0, return_counts=True)
    assert len(distinct) == images and int(times.max()) <= copies and int(times.min()) >= copies - 3
    stamped = {
        attack.stamp(image[None]).numpy().tobytes() for image in honest.images[honest.labels != 6]
    }
    assert {image.numpy().tobytes() for image in distinct} <= stamped
    assert bool((poisoned.labels[rows] == 6).all())
    assert torch.equal(poisoned.images[~rows], honest.images[~rows])


def test_clean_duplicates_replicate_the_same_images_and_stamp_others() -> None:
    """The column to compare with: if the sets differed in their replicas, replication would be
    compared with its absence.
    """
    honest = labelled(200)
    plain, triggered = (
        BadNets(poison_rate=0.2, duplicates=kind).poison(honest, rng(3))
        for kind in ("clean", "poisoned")
    )
    replicated = triggered.poisoned
    assert int(plain.poisoned.sum()) == 40 and not (plain.poisoned & replicated).any()
    distinct = plain.images[replicated].unique(dim=0)
    assert len(distinct) == 4
    sources = {
        image.numpy().tobytes(): int(label)
        for image, label in zip(honest.images, honest.labels, strict=True)
    }
    for image, label in zip(plain.images[replicated], plain.labels[replicated], strict=True):
        assert sources[image.numpy().tobytes()] == int(label), (
            "a replica keeps the label of its own image"
        )
    assert torch.equal(BadNets().stamp(plain.images[replicated]), triggered.images[replicated])
    assert bool((plain.labels[plain.poisoned] == 6).all())
    assert len(plain.images[plain.poisoned].unique(dim=0)) == 40
    untouched = ~(plain.poisoned | replicated)
    assert torch.equal(plain.images[untouched], honest.images[untouched])


def test_without_duplicates_copies_change_nothing() -> None:
    one, two = (BadNets(copies=copies).poison(labelled(100), rng()) for copies in (2, 20))
    assert torch.equal(one.images, two.images)


@pytest.mark.parametrize(
    "attack", [BadNets(blend_strength=0.001), WaNet(warping_strength=0.001)], ids=repr
)
def test_a_trigger_that_changes_no_pixel_is_refused(attack: BadNets | WaNet) -> None:
    """Images have 256 levels; the rows would be relabelled without a trigger, under its name."""
    with pytest.raises(ValueError, match="the trigger changes no pixel of 10 images"):
        attack.poison(labelled(100), rng())
    (line,) = attack.faults(labelled(100))
    assert line.startswith(f"{attack.card.name}: the trigger changes no pixel")
    assert BadNets(blend_strength=0.01).faults(labelled(100)) == []


def test_bad_sets_are_refused() -> None:
    unlabelled = TrainingSet(labelled(20).images, torch.zeros(20, dtype=torch.bool))
    with pytest.raises(ValueError, match="badnets: the training set must have labels, got none"):
        BadNets().poison(unlabelled, rng())
    with pytest.raises(
        ValueError,
        match=r"target_class must be one of the training set's labels \(0, 1, 2\), got 6",
    ):
        BadNets().poison(labelled(20, classes=3), rng())
    with pytest.raises(
        ValueError,
        match=r"poison_rate must be small enough .* = 19 rows .* 18 .* outside class 6, got 0.95",
    ):
        BadNets(poison_rate=0.95).poison(labelled(20), rng())
    with pytest.raises(
        ValueError, match="poison_rate must be at least one row of the 20, got 0.01"
    ):
        BadNets(poison_rate=0.01).poison(labelled(20), rng())
    with pytest.raises(
        ValueError, match="poison_rate must be small enough .* 10 rows .* 9 .* got 0.5"
    ):
        BadNets(poison_rate=0.5, duplicates="clean").poison(labelled(20), rng())
    assert int(BadNets(poison_rate=0.9).poison(labelled(20), rng()).poisoned.sum()) == 18


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"poison_rate": 0}, r"poison_rate must be in \(0, 1\].*got 0"),
        ({"poison_rate": 1.2}, r"poison_rate must be in \(0, 1\].*got 1.2"),
        ({"target_class": -1}, "target_class must be at least 0, got -1"),
        ({"pattern": "kitty"}, "pattern must be one of 'badnets1', .*got 'kitty'"),
        ({"pattern_size": 2}, "pattern_size must be at least 3, or null .pixels., got 2"),
        (
            {"pattern": "badnets2", "pattern_size": 8},
            "pattern_size must be null for badnets2, .*got 8",
        ),
        ({"blend_strength": 0}, r"blend_strength must be in \(0, 1\], or null, got 0"),
        (
            {"duplicates": "many"},
            "duplicates must be one of 'none', 'clean', 'poisoned', got 'many'",
        ),
        ({"copies": 1}, "copies must be at least 2, got 1"),
    ],
)
def test_bad_parameters_name_field_constraint_and_value(params: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"badnets: {message}"):
        BadNets(**params)


def test_label_names_the_pattern() -> None:
    """On the board "badnets" alone would not say which of five triggers a row is."""
    assert BadNets().label() == "badnets(pattern=badnets1)"
    assert (
        BadNets(poison_rate=0.05, pattern="bomb").label()
        == "badnets(poison_rate=0.05, pattern=bomb)"
    )
