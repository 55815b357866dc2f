"""Series are written short, and nothing of them is lost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.curves import length, numbers, shortest

OUTCOMES = [0.0] * 30 + [1.0] * 5 + [0.0]
SHARES = [0.0, *(count / 384 for count in (1, 7, 200, 383)), 1.0]
CURVES = st.one_of(
    st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    st.lists(st.sampled_from([0.0, 1.0, -0.0, 0, 1])),
    st.integers(1, 5000).flatmap(
        lambda of: st.lists(st.integers(-of, 2 * of).map(lambda count: count / of))
    ),
    st.builds(
        lambda first, last, count: np.linspace(first, last, count).tolist(),
        *(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12), st.integers(2, 60)),
    ),
)


@settings(deadline=None)
@given(CURVES)
def test_every_number_comes_back(values: list[float]) -> None:
    form = json.loads(json.dumps(shortest(values)))
    assert length(form) == len(values)
    back = numbers(form)
    assert [float(value).hex() for value in back] == [float(value).hex() for value in values]
    assert all(isinstance(one, int) for one in back if one == int(one) and abs(one) < 2**53 and one)


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (OUTCOMES, {"runs": [30, 5, 1]}),
        ([1.0] * 30, {"runs": [0, 30]}),
        (SHARES, {"of": 384, "counts": [0, 1, 7, 200, 383, 384]}),
        (
            np.linspace(0.1, 2.7, 31).tolist(),
            {"first": 0.1, "last": 2.7, "values": 31},
        ),
        ([0.1, 2.5], [0.1, 2.5]),
        ([1.0, 0.0], [1, 0]),
        ([-0.0] * 30, [-0.0] * 30),
        ([], []),
    ],
)
def test_the_shortest_form_is_taken(values: list[float], form: object) -> None:
    assert repr(shortest(values)) == repr(form)


@pytest.mark.parametrize(
    "form",
    [
        None,
        7,
        "runs",
        {},
        {"runs": 3},
        {"runs": [1.0]},
        {"runs": [True]},
        {"runs": [3], "of": 2},
        {"of": 2.0, "counts": [1]},
        {"of": 2, "counts": ["1"]},
        {"of": 2, "counts": [10**400]},
        {"first": 0, "last": 1, "values": 1},
        {"first": "0", "last": 1, "values": 3},
        {"first": 10**400, "last": 1, "values": 3},
        {"first": float("nan"), "last": 1, "values": 3},
    ],
)
def test_other_forms_are_refused(form: object) -> None:
    with pytest.raises(ValueError, match="must be a list of numbers, or have runs"):
        length(form)


def test_a_length_is_known_before_the_numbers_are_made() -> None:
    """A few bytes may stand for more than the memory holds."""
    assert length({"runs": [2**53, 2**53]}) == 2**54
    assert length({"first": 0, "last": 1, "values": 2**53}) == 2**53
