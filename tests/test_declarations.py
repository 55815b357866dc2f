"""What a plugin may call itself and ask for: two columns that look alike, or a need that nobody
meets, would be believed wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bench.artefacts.roles import CLEAN, GENERATED, TARGET
from bench.contracts import goals, plugin
from bench.contracts.access import Access
from bench.contracts.attack import EditingAttack, TrainingAttack
from bench.contracts.card import Card
from bench.contracts.data import TrainingSet
from bench.contracts.defense import ClassifierDefense, DataDefense, SamplerDefense
from bench.contracts.entitled import Withheld
from bench.errors import ContractError, UserError
from bench.measurements import table
from bench.registry import Registry
from bench.suite import parse_suite

CARD = Card(name="mine", summary="for tests")


@dataclass(frozen=True, kw_only=True)
class Free(SamplerDefense):
    """A parameter of any text."""

    card: ClassVar[Card] = CARD
    text: Any = "a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cl\u0456p_xt"}, "at most 64 ASCII letters"),
        ({"name": "n" * 65}, "at most 64 ASCII letters"),
        ({"name": "two words"}, "must be a Python identifier"),
        ({"name": 7}, "must be a Python identifier"),
        ({"summary": "s" * 201}, "one line of at most 200 letters"),
        ({"summary": "\x1b[2J"}, "one line"),
        ({"summary": "a\nb"}, "one line"),
        (
            {"applies_to": ["unconditional"]},
            r"applies_to must be a frozenset, .* got \['unconditional'\]",
        ),
        ({"needs": "weights"}, "needs must be a frozenset, .* got 'weights'"),
        ({"needs": frozenset({"oracle"})}, r"needs must be among .* got \['oracle'\]"),
        ({"needs": frozenset({"trigger", "prompts"})}, r"got \['prompts', 'trigger'\]"),
    ],
)
def test_a_card_that_cannot_be_kept_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CARD, **change)


def test_a_need_that_the_family_is_never_handed_is_refused() -> None:
    """It would run without, as if that were what the method can do."""
    for family in (SamplerDefense, TrainingAttack):
        with pytest.raises(TypeError, match="mine: needs lists .* handed nothing"):
            type("Mine", (family,), {"card": replace(CARD, needs=frozenset({"clean data"}))})
    with pytest.raises(TypeError, match="mine: needs lists .* handed 'clean data', 'weights'"):
        type("Mine", (EditingAttack,), {"card": replace(CARD, needs=frozenset({"classifier"}))})


def test_who_cleans_a_set_is_not_handed_the_original_beside_it() -> None:
    """It would compare row by row, and filter with what it is to find out."""
    both = frozenset({"clean data", "training data"})
    for family in (DataDefense, ClassifierDefense):
        with pytest.raises(TypeError, match="mine: needs must not list both 'clean data' and 'tr"):
            type("Mine", (family,), {"card": replace(CARD, needs=both)})
        for need in both:
            type("Mine", (family,), {"card": replace(CARD, needs=frozenset({need}))})


@pytest.mark.parametrize("method", ["label", "params"])
def test_what_a_plugin_is_known_by_is_not_its_to_define(method: str) -> None:
    with pytest.raises(TypeError, match=rf"Mine must not define {method}\(\)"):
        type("Mine", (SamplerDefense,), {"card": CARD, method: lambda self: "clip_xt"})
    with pytest.raises(TypeError, match="card must be a Card, got dict"):
        type("Mine", (SamplerDefense,), {"card": {"name": "mine"}})


def test_labels_are_printable_ascii_and_short_and_stay_apart() -> None:
    for text in ("\u202e(tx_pilc)", "\x1b[2J", "a\nb", "x" * 500, "é"):
        label = Free(text=text).label()
        assert label.isascii() and label.isprintable() and len(label) <= plugin.LABEL_LETTERS
        assert label.startswith("mine(text=")
    assert Free(text="x" * 500).label() != Free(text="x" * 501).label()
    assert Free(text="b").label() == "mine(text=b)" and Free().label() == "mine"


@pytest.mark.parametrize(
    "names",
    [
        ("clean",),
        ("noise", "reference"),
        ("threshold",),
        ("noise", "noise"),
        ["noise"],
        ("a b",),
        (7,),
    ],
)
def test_an_invocation_takes_no_name_of_the_harness(names: Any) -> None:
    """As `clean`, its samples would take the place of the clean ones: FID and the control would be
    of triggered samples.
    """
    with pytest.raises(TypeError, match="invocation|call"):
        type("Mine", (TrainingAttack,), {"card": CARD, "invocations": names})


def test_what_stands_in_brackets_beside_a_call_is_no_calls_name() -> None:
    """`mse[clean]` would be of triggered samples, or of a constant image."""
    declared = [words.name for one in table().values() for words in one.metrics]
    fixed = {name.partition("[")[2].rstrip("]") for name in declared}
    attacks = [Registry().attack(name) for name in Registry().names("attacks")]
    fixed -= {call.name for attack in attacks for call in attack.calls}  # their own words
    assert {name for name in fixed if name.isidentifier()} | {
        CLEAN,
        TARGET,
        GENERATED,
        "constant",
    } <= goals.RESERVED
    # What a noise detector's scores are called beside the calls'.
    assert {"reference", "threshold"} <= goals.RESERVED


def test_what_the_card_does_not_ask_for_cannot_be_read() -> None:
    """A column that used the weights without saying so would be compared with those that do without
    them.
    """
    held: dict[str, Any] = {name: Withheld("mine", "weights") for name in ("generator", "sample")}
    clean = TrainingSet(torch.zeros(1), torch.zeros(1))
    access = Access(rng=np.random.default_rng(0), clean_data=clean, **held)
    for read, message in (
        (
            lambda: access.generator,
            r"^mine: reads access.generator, but its card's needs do not list 'weights'$",
        ),
        (lambda: access.sample, "reads access.sample"),
        (lambda: access.train_set, "reads access.train_set, .* 'training data'"),
        (lambda: access.recovered, "reads access.recovered, but it does not declare uses"),
    ):
        with pytest.raises(ContractError, match=message):
            read()
    assert access.clean_images is clean.images and "rng" in repr(access)


PLUGIN = """
from dataclasses import dataclass
from typing import Any, ClassVar
from bench.plugin import *
from bench.plugin import Card, NoiseDetector, SamplerDefense
{decorated}
class P({family}):
    card: ClassVar[Card] = Card(name="{name}", summary="for tests")
    strength: Any = {default}
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(
        name: str = "mine",
        family: str = "SamplerDefense",
        default: str = "1",
        decorated: bool = True,
    ) -> Path:
        path = tmp_path / f"{name}.py"
        line = "@dataclass(frozen=True, kw_only=True)" if decorated else ""
        path.write_text(PLUGIN.format(name=name, family=family, default=default, decorated=line))
        return path

    return write


def test_a_name_stands_for_one_plugin_of_all_kinds(file: Callable[..., Path]) -> None:
    """Defenses and detectors are columns side by side, and `none` is the control's."""
    with pytest.raises(
        UserError, match="two plugins are named 'strip': .*strip.py and .*rename one"
    ):
        Registry([file("strip")])
    for family in ("NoiseDetector", "SamplerDefense"):
        with pytest.raises(
            UserError, match="the name 'none' is reserved for the controls; rename P"
        ):
            Registry([file("none", family)])


def test_fields_are_parameters_only_in_a_dataclass(file: Callable[..., Path]) -> None:
    with pytest.raises(
        UserError, match=r"mine.py: P must be a @dataclass\(frozen=True, kw_only=True\)"
    ):
        Registry([file(decorated=False)])


@pytest.mark.parametrize("default", ["float('nan')", "object()"])
def test_parameters_that_are_no_json_are_one_line(file: Callable[..., Path], default: str) -> None:
    with pytest.raises(UserError, match="defense mine: parameters must be JSON values, and finite"):
        Registry([file(default=default)]).defense("mine")


def test_two_plugins_of_one_label_are_refused(file: Callable[..., Path]) -> None:
    """`1` and the text `1` are two parameters, and one column to a reader."""
    entries = [{"name": "mine", "params": {"strength": value}} for value in (2, "2")]
    with pytest.raises(UserError, match=r"defenses lists mine\(strength=2\) twice"):
        parse_suite(
            {"name": "s", "testbeds": ["digits-ddpm"], "defenses": entries},
            Registry([file()]),
            "s.yaml",
        )
