"""Constraints as data: one annotation says what a parameter may be, to whoever reads ``show``,
makes a mistake, or draws values.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MinLen, MultipleOf, Predicate, Timezone

from bench.constraints import Note, OneOf, domain, domains
from bench.errors import UserError
from bench.params import construct
from bench.plugin import Card, SamplerDefense, require

CARD = Card(name="mine", summary="for tests")

READ = [
    (float, "float", "a number", {}),
    (
        Annotated[float, Interval(gt=0, le=1)],
        "float",
        "a number in (0, 1]",
        {"exclusive_minimum": 0, "maximum": 1},
    ),
    (
        Annotated[float, Interval(ge=0, lt=1.5)],
        "float",
        "a number in [0, 1.5)",
        {"minimum": 0, "exclusive_maximum": 1.5},
    ),
    (
        Annotated[int, Ge(1), Note("pixels")] | None,
        "int | None",
        "a whole number of at least 1, or null (pixels)",
        {"minimum": 1, "nullable": True, "note": "pixels"},
    ),
    (
        Annotated[float | None, Gt(0)],
        "float | None",
        "a positive number, or null",
        {"exclusive_minimum": 0, "nullable": True},
    ),
    (
        Annotated[int, Gt(0), MultipleOf(8)],
        "int",
        "a positive whole number, a multiple of 8",
        {"exclusive_minimum": 0, "multiple_of": 8},
    ),
    (Annotated[Annotated[int, Gt(2)], "words", Lt(9)], "int", "a whole number in (2, 9)", None),
    (Annotated[float, Le(-1)], "float", "a number of at most -1", {"maximum": -1}),
    (Literal["z", "ks"], "str", "one of 'z', 'ks'", {"choices": ["z", "ks"]}),
    (
        Annotated[str, OneOf(("hat", "cat"))] | None,
        "str | None",
        "one of 'hat', 'cat', or null",
        {"choices": ["hat", "cat"], "nullable": True},
    ),
    (
        int | Literal["auto"],
        "int | str",
        "a whole number, or 'auto'",
        {"any_of": [{}, {"choices": ["auto"]}]},
    ),
    (
        Annotated[tuple[Annotated[int, Ge(1)], ...], Len(1, 3)],
        "tuple[int, ...]",
        "a list of a whole number of at least 1, of 1 to 3 items",
        {"min_length": 1, "max_length": 3, "items": {"minimum": 1}},
    ),
    (
        tuple[Annotated[int, Ge(1)], float],
        "tuple[int, float]",
        "a list [a whole number of at least 1, a number]",
        {"items": [{"minimum": 1}, {}]},
    ),
    (Annotated[str, MinLen(1)], "str", "text of 1 or more letters", {"min_length": 1}),
    (Any, "Any", "anything", {}),
]


@pytest.mark.parametrize(("hint", "written", "words", "description"), READ)
def test_an_annotation_is_read_for_people_and_for_programs(hint, written, words, description):
    read = domain(hint)
    assert (read.type, read.words, read.known) == (written, words, True)
    assert description is None or read.description() == description


@pytest.mark.parametrize(
    ("hint", "allowed", "refused"),
    [
        (Annotated[float, Interval(gt=0, le=1)], [1, 0.5, 1e-300], [0, 1.01, "0.5", True, None]),
        (Annotated[float, Interval(ge=0, lt=1)], [0, 0.99], [1, -1e-9, math.nan, -math.inf]),
        (Annotated[int, Ge(1)] | None, [1, None], [0, 1.0, False, "1", math.nan]),
        (Annotated[float, Gt(0)], [1e300], [math.inf, 10**400]),
        (Annotated[int, MultipleOf(4)], [-4, 0, 8], [2, 4.0]),
        (Literal[1, "a"], [1, "a"], [True, 1.0, "b", None]),
        (tuple[Annotated[int, Ge(1)], ...], [(), (1, 2), [3]], [(0,), (1, "2"), 1, "12"]),
        (Annotated[str, Len(1, 2)], ["a", "ab"], ["", "abc", 1]),
    ],
)
def test_a_value_is_judged_by_all_of_it(hint, allowed, refused):
    assert [value for value in allowed if domain(hint).refusal(value)] == []
    assert [value for value in refused if not domain(hint).refusal(value)] == []


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (
            Annotated[float, Predicate(math.isfinite)],
            "a constraint must be one of Gt, Ge, .*OneOf, ",
        ),
        (Annotated[float, Timezone(None)], "a constraint must be one of"),
        (Annotated[str, Gt(0)], "exclusive_minimum must be of a type that can have it, got str"),
        (Annotated[float, MultipleOf(2)], "multiple_of must be of a type .*, got float"),
        (Annotated[dict, Len(1)], "min_length must be of a type that can have it, got dict"),
        (Annotated[int, Gt(0), Ge(1)], "there must be one minimum, got two"),
        (Annotated[Annotated[int, Le(3)], Le(1)], "maximum must be given once, got 3 and 1"),
    ],
)
def test_a_constraint_that_would_be_passed_over_is_an_error(hint, message):
    """Whoever wrote it believes that it holds."""
    with pytest.raises(TypeError, match=message):
        domain(hint)


@dataclass(frozen=True, kw_only=True)
class Mine(SamplerDefense):
    card: ClassVar[Card] = CARD
    rate: Annotated[float, Interval(gt=0, le=1), Note("for none use none")] = 0.1
    mode: Literal["a", "b"] = "a"
    free: float = 1.0
    sloppy: int = 0.5  # its author's own affair, as ever


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"rate": 2}, "mine: rate must be in (0, 1] (for none use none), got 2"),
        ({"rate": math.nan}, "mine: rate must be a finite number, got nan"),
        ({"rate": "x"}, "mine: rate must be a number in (0, 1] (for none use none), got 'x'"),
        ({"mode": "c"}, "mine: mode must be one of 'a', 'b', got 'c'"),
        ({"free": math.inf}, "mine: free must be a finite number, got inf"),
    ],
)
def test_a_plugin_refuses_in_one_line(params, line):
    with pytest.raises(ValueError) as caught:
        Mine(**params)
    assert str(caught.value) == line
    assert Mine(free=-3.0).sloppy == 0.5


@dataclass(frozen=True, kw_only=True)
class Older(SamplerDefense):
    """As plugins were written before, without a word to the base."""

    card: ClassVar[Card] = CARD
    rate: float = 0.5
    mode: Literal["a"] = None
    table: dict[str, int] | None = None
    names: "list[str]" = ()

    def __post_init__(self):
        require(0 < self.rate <= 1, self, "rate", "in (0, 1]")


def test_a_plugin_that_checks_by_hand_goes_on_working():
    assert construct(Older, "defense mine", {"rate": 1}).rate == 1.0
    assert construct(Older, "defense mine", {"table": None}).mode is None
    with pytest.raises(UserError, match=r"^mine: rate must be in \(0, 1\], got 3.0$"):
        construct(Older, "defense mine", {"rate": 3})


@pytest.mark.parametrize(
    ("field", "value", "annotation"),
    [("table", {"a": 1}, "dict[str, int] | None"), ("names", ["a"], "list[str]")],
)
def test_an_unknown_type_does_not_pass_as_fitting(field, value, annotation):
    with pytest.raises(UserError) as caught:
        construct(Older, "defense mine", {field: value})
    assert str(caught.value) == (
        f"defense mine: {field} cannot be given: its annotation must be float, int, bool, str, "
        f"Literal, tuples of them, Any, or one of them and None, got {annotation}"
    )


def test_an_annotation_that_cannot_be_read_is_one_line():
    """A name that was imported for the type checker alone."""
    namespace = {"__annotations__": {"rate": "Rate", "card": "ClassVar[Card]"}, "rate": 1.0}
    mine = dataclass(frozen=True, kw_only=True)(
        type("Lost", (SamplerDefense,), {**namespace, "card": CARD, "__module__": __name__})
    )
    with pytest.raises(UserError, match="^defense mine: Lost: rate must have an annotation that"):
        construct(mine, "defense mine", {})


def test_the_annotation_nearest_to_the_class_counts():
    @dataclass(frozen=True, kw_only=True)
    class Narrower(Mine):
        rate: Annotated[float, Gt(3)] = 4.0

    assert domains(Narrower)["rate"].words == "a number above 3"
    assert domains(Narrower)["mode"] == domains(Mine)["mode"]
    with pytest.raises(ValueError, match="rate must be above 3, got 1"):
        Narrower(rate=1)
