"""Reading YAML: nothing is dropped in silence, and no file can take the machine's time or
memory.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.names import LONGEST_MESSAGE, brief, shortened
from bench.yaml_reader import read_yaml


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read_text(text: str) -> Any:
        (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
        return read_yaml(tmp_path / "s.yaml")

    return read_text


REPEATED = [
    (
        "attacks: [a]\nseeds: [0]\nattacks: [b]\n",
        "line 3: not valid YAML: 'attacks' is here twice, first in line 1",
    ),
    (
        "a:\n  - name: x\n    params: {p: 1}\n    params: {q: 2}\n",
        "line 4: not valid YAML: 'params' is here twice, first in line 3",
    ),
    ("a: [{name: x, params: {p: 1, p: 1}}]", "'p' is here twice"),
    ("a: 1\n'a': 2", "'a' is here twice"),
    ("b: {1: x, 0x1: y}", "1 is here twice"),
    ("x: &x {a: 1, a: 2}\ny: {<<: *x}", "'a' is here twice"),
    (
        "x: &x {a: 1}\ny: &y {b: 1}\nz: {<<: *x, <<: *y}",
        "'<<' is here twice, first in line 3; merge several with <<: [*a, *b]",
    ),
    ("? [a]\n: {c: 1, c: 2}", "'c' is here twice"),
    *((f"!!{tag} a: 1", "name must be text or a number") for tag in ("seq", "map", "set", "omap")),
]


@pytest.mark.parametrize(("text", "message"), REPEATED)
def test_a_repeated_key_is_refused_at_every_level(read: Any, text: str, message: str) -> None:
    """YAML's parser keeps the last one: a list of attacks would not be run, and nobody would
    know.
    """
    with pytest.raises(UserError) as caught:
        read(text)
    assert (
        message in str(caught.value)
        and str(caught.value).startswith("s.yaml: line ")
        and "\n" not in str(caught.value)
    )


@pytest.mark.parametrize("number", ["010", "1:30", "1:30.5", "-0_17", "007"])
def test_a_number_that_means_another_one_in_yaml_1_1_is_refused(read: Any, number: str) -> None:
    """`seeds: [010]` would run seed 8, `training_steps: 1:30` ninety steps."""
    with pytest.raises(UserError) as caught:
        read(f"a: 1\nseeds: [{number}]")
    problem = (
        f"{number} is a number of base 8 or 60 in YAML 1.1; write it in decimals, or in "
        f"quotes if it is text"
    )
    assert str(caught.value) == f"s.yaml: line 2: not valid YAML: {problem}"


def test_numbers_and_text_that_only_look_like_it_are_read(read: Any) -> None:
    text = "a: [0, -0, 10, 1_000, 0x10, 0.5, .5, 1.0, 00.5, '010', '1:30', 1e-4, a:1]"
    assert read(text) == {
        "a": [0, 0, 10, 1000, 16, 0.5, 0.5, 1.0, 0.5, "010", "1:30", "1e-4", "a:1"]
    }


def test_merge_keys_go_on_working(read: Any) -> None:
    """What is written beats what is merged, also where that is merged again; of several mappings
    the first wins. (PyYAML 6.0.4 gives a parameter its overruled value in the first case, and the
    last mapping's in the second.)
    """
    values = read(
        "p: &p {first: 1, second: 2}\nq: &q {<<: *p, second: 3}\nr: &r {<<: *q, first: 9}\n"
        "s: {<<: [*q, *r, *p], third: 4}\nt: {<<: *r}\nu: {<<: [{first: 7}, {first: 8, second: "
        "8}]}\n"
    )
    assert values["q"] == {"first": 1, "second": 3} and values["r"] == values["t"] == {
        "first": 9,
        "second": 3,
    }
    assert values["s"] == {"first": 1, "second": 3, "third": 4} and values["u"] == {
        "first": 7,
        "second": 8,
    }
    with pytest.raises(
        UserError, match="<< must merge a mapping or a list of mappings, got a scalar"
    ):
        read("a: {<<: 3}")


ANCHORS = "".join(
    f"k{i}: &k{i} [{','.join(['x' if not i else f'*k{i - 1}'] * 10)}]\n" for i in range(9)
)
MERGES = "k0: &k0 {a: 1}\n" + "".join(
    f"k{i}: &k{i} {{<<: [{','.join([f'*k{i - 1}'] * 10)}]}}\n" for i in range(1, 9)
)
TOO_MUCH = [
    (ANCHORS, "more than 100,000 values, counting what aliases repeat"),
    (MERGES, "more than 100,000 values, counting what aliases repeat"),
    ("a: &a [*a]", "an anchor must not hold an alias of itself"),
    ("a: " + "[" * 20_000, "nested more than 50 levels deep"),
    ("{a: " * 20_000, "nested more than 50 levels deep"),
    ("seeds: [" + "9" * 6000 + "]", "line 1: not valid YAML: '99999"),
    (
        "name: 2024-02-31",
        "'2024-02-31' is not a value of type timestamp (day is out of range for month)",
    ),
    ("retries: !!int ''", "line 1: not valid YAML: '' is not a value of type int"),
    ("retries: !!float '-'", "'-' is not a value of type float"),
    ("name: !!bool abc", "'abc' is not a value of type bool"),
    ("name: !!timestamp abc", "'abc' is not a value of type timestamp"),
    ('name: "\\U00110000"', "not valid YAML: chr() arg not in range"),
    ('name: "\\UFFFFFFFF"', "not valid YAML"),
    ("name: a\x07", "not valid YAML: special characters are not allowed, got character U+0007"),
    ("# " + "x" * 17_000_000, "must be at most 16,777,216 bytes, got 17,000,002"),
]


@pytest.mark.parametrize(
    ("text", "message"), TOO_MUCH, ids=[message[:30] for _, message in TOO_MUCH]
)
def test_a_file_that_would_take_all_time_or_memory_is_one_line_at_once(
    read: Any, text: str, message: str
) -> None:
    """Nine lines of aliases mean 10^9 values; writing them into an error message took a minute and
    all memory.
    """
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        read(text)
    assert (
        message in str(caught.value)
        and "\n" not in str(caught.value)
        and len(str(caught.value)) < 400
    )
    assert time.monotonic() - started < 10


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.text("ab<& \n:é", max_size=6)
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc<", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(plain)
def test_whatever_yaml_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    """The checks must not change what any ordinary file says."""
    path = tmp_path_factory.mktemp("yaml") / "s.yaml"
    path.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    assert read_yaml(path) == value


def test_values_in_messages_are_short() -> None:
    """A message never writes out what it complains about, however large that is."""
    bomb: list[Any] = ["x"]
    for _ in range(40):
        bomb = [bomb] * 10
    assert len(brief(bomb)) < 10_000 and len(brief("x" * 10**7)) < 200
    assert brief(10**6000) == "a whole number of 19932 bits" and brief(12) == "12"
    assert (
        brief(datetime.date(2024, 1, 2)) == "datetime.date(2024, 1, 2)"
        and brief("it's") == '"it\'s"'
    )
    assert len(shortened("y\n" * 10**6)) <= LONGEST_MESSAGE and shortened("a\n b") == "a b"
