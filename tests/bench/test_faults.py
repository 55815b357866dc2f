"""What cannot be run together is said before anything runs: a class there is not, a trigger larger
than the image, no row to poison.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.contracts.attack import TrainingAttack
from bench.contracts.data import TrainingSet
from bench.contracts.goals import ReachClass
from bench.faults import suite_faults
from bench.registry import Registry
from bench.suite import parse_suite
from bench.testbeds.data.digits import Digits


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


def faults(registry: Registry, testbed: str, *attacks: dict[str, Any]) -> list[str]:
    entries = [{"name": entry.pop("name"), "params": entry} for entry in map(dict, attacks)]
    suite = parse_suite(
        {"name": "s", "testbeds": [testbed], "attacks": entries}, registry, "s.yaml"
    )
    return suite_faults(suite, [*suite.attacks, registry.attack("none")])


def test_an_attack_is_checked_where_it_is_met_alone(registry: Registry) -> None:
    """A suite whose attack does not fit a testbed must be free to leave it out there."""
    attack = {"name": "badnets", "params": {"poison_rate": 0.95}}
    suite = {"name": "s", "testbeds": ["digits-cfg", "digits-sd"]}
    lines = []
    for names in (["digits-cfg", "digits-sd"], ["digits-sd"]):
        parsed = parse_suite(suite | {"attacks": [attack | {"testbeds": names}]}, registry, "s")
        lines.append([line.partition(":")[0] for line in suite_faults(parsed, [*parsed.attacks])])
    assert lines == [["badnets on digits-cfg", "badnets on digits-sd"], ["badnets on digits-sd"]]


REFUSED = [
    (
        "digits-cfg",
        {"name": "badnets", "target_class": 11},
        "target_class must be one of the training set's labels (0, 1",
    ),
    (
        "digits-cfg",
        {"name": "wanet", "poison_rate": 1e-4},
        "poison_rate must be at least one row of the 5748, got 0.0001",
    ),
    (
        "digits-cfg",
        {"name": "badnets", "poison_rate": 0.95},
        "5460 rows are among the 5168 to be had outside class 6, got 0.95",
    ),
    (
        "digits-cfg",
        {"name": "badnets", "poison_rate": 0.6, "duplicates": "clean"},
        "among the 2584 to be had outside class 6",
    ),
    (
        "digits-sd",
        {"name": "clean_label", "poison_rate": 0.5},
        "2874 rows are among the 580 to be had in class 6, got 0.5",
    ),
    (
        "digits-sd",
        {"name": "badnets", "pattern_size": 17},
        "size must be a whole number from 3 to 16 at 16 x 16 pixels, got 17",
    ),
    (
        "digits-ddpm",
        {"name": "baddiffusion", "trigger_size": 400},
        "size must be a whole number from 2 to 15 at 16 x 16 pixels",
    ),
]


@pytest.mark.parametrize(("testbed", "attack", "message"), REFUSED)
def test_an_attack_that_a_testbed_does_not_fit_is_one_line(
    registry: Registry, testbed: str, attack: Any, message: str
) -> None:
    (line,) = faults(registry, testbed, attack)
    assert message in line and line.startswith(f"{attack['name']} on {testbed}: ")


def test_all_pairs_that_do_not_fit_are_listed_at_once(registry: Registry) -> None:
    pairs = [
        {"name": "badnets", "target_class": 11, "pattern_size": 17},
        {"name": "wanet", "poison_rate": 1e-4},
    ]
    assert len(faults(registry, "digits-cfg", *pairs)) == 3
    assert (
        faults(
            registry,
            "digits-cfg",
            {"name": "badnets", "poison_rate": 0.8},
            {"name": "relabel_only"},
        )
        == []
    )
    # An attack that does not apply to this kind of testbed is skipped, so nothing of it can be
    # wrong.
    assert faults(registry, "digits-ddpm", *pairs) == []


class Elsewhere(TrainingAttack):
    def goal(self) -> ReachClass:
        return ReachClass(10)


def test_an_attack_of_ones_own_needs_no_check_of_its_class(registry: Registry) -> None:
    """The classes are the testbed's, so the harness knows."""
    own = registry.attack("badnets")
    object.__setattr__(own, "target_class", 3)
    assert (
        suite_faults(parse_suite({"name": "s", "testbeds": ["digits-cfg"]}, registry, "s"), [own])
        == []
    )
    outside = Elsewhere()
    type(outside).card = own.card  # type: ignore[misc]
    (line,) = suite_faults(
        parse_suite({"name": "s", "testbeds": ["digits-cfg"]}, registry, "s"), [outside]
    )
    assert line == "badnets on digits-cfg: the target class must be from 0 to 9, got 10"


def test_planning_asks_for_no_pixels(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """At paper scale the images are gigabytes that nobody has decoded yet."""
    for what in ("train_images", "held_out_images"):
        monkeypatch.setattr(Digits, what, lambda self: pytest.fail("images were read"))
    assert (
        faults(
            registry, "digits-sd", {"name": "badnets"}, {"name": "clean_label"}, {"name": "wanet"}
        )
        == []
    )


@pytest.mark.parametrize("duplicates", ["none", "clean", "poisoned"])
def test_faults_at_planning_are_the_errors_of_poisoning(
    registry: Registry, duplicates: str
) -> None:
    """The check and the attack may not disagree: either would cost a run."""
    labels = torch.tensor([0] * 6 + [1] * 4)
    images = torch.zeros((10, 3, 16, 16), dtype=torch.uint8)
    for rate in np.arange(1, 100) / 100:
        attack = registry.attack(
            "badnets", {"target_class": 0, "poison_rate": float(rate), "duplicates": duplicates}
        )
        faults = attack.faults(
            TrainingSet(images.to("meta"), torch.zeros(10, dtype=torch.bool), labels)
        )
        try:
            attack.poison(
                TrainingSet(images, torch.zeros(10, dtype=torch.bool), labels),
                np.random.default_rng(0),
            )
            assert faults == []
        except ValueError as error:
            assert faults == [str(error)]
    alike = TrainingSet(
        images.to("meta"), torch.zeros(10, dtype=torch.bool), torch.zeros(10, dtype=torch.int64)
    )
    assert registry.attack("badnets", {"target_class": 0}).faults(alike) == [
        "badnets: all 10 rows are of class 0, so there is no other row to poison"
    ]
