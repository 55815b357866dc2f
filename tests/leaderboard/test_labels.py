"""Short names on the page: two columns of one name would be read as one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.record import PluginSpec
from leaderboard.board import Row, each_attack
from leaderboard.labels import shortened, without


def short(*labels: str) -> list[str]:
    specs = [PluginSpec(name=text, params={"at": n}, label=text) for n, text in enumerate(labels)]
    names = shortened(specs)
    return [names[spec.identity] for spec in specs]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["elijah(family=a, steps=400)"], ["elijah"]),
        (
            ["elijah(family=a, steps=400)", "elijah(family=b, steps=400)", "clip_x0"],
            ["elijah(family=a)", "elijah(family=b)", "clip_x0"],
        ),
        (["dc(p=0.0, keep=((4, 6), (2, 15)))", "dc(p=0.05, keep=((4, 6), (2, 15)))"],
         ["dc(p=0.0)", "dc(p=0.05)"]),
        (["trojdiff(target=hat)", "trojdiff(target=hat, target_class=7)"],
         ["trojdiff", "trojdiff(target_class=7)"]),
        (["anp(epochs=2) + clip_x0", "anp(epochs=5) + clip_x0", "anp(epochs=2)"],
         ["anp(epochs=2) + clip_x0", "anp(epochs=5) + clip_x0", "anp"]),
        (["anp(epochs=2) + clip_x0", "clip_x0"], ["anp + clip_x0", "clip_x0"]),
        # What a stranger's record may hold: brackets that do not match, a tail behind them.
        (["a(b", "a(c) d", "a)x"], ["a(b", "a(c) d", "a)x"]),
    ],
)  # fmt: skip
def test_only_parameters_that_tell_columns_apart_are_written(labels, expected):
    assert short(*labels) == expected


LETTERS = st.text("ab(),=+ []", max_size=12)
MADE = st.builds(
    lambda name, params: f"{name}({', '.join(f'{k}={v}' for k, v in params.items())})",
    st.sampled_from("ab"),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2)),
)


@given(st.lists(LETTERS | MADE, unique=True, max_size=8))
def test_different_labels_stay_different(labels):
    labels = [text for text in labels if text]
    assert len(set(short(*labels))) == len(labels)


def test_an_attack_set_aside_under_every_sampler_is_written_once():
    """Eight lines of one attack's name stood above the first ranking."""
    dud, other = (PluginSpec(name=name, label=f"{name}(a=1)") for name in ("dud", "other"))
    samplers = [PluginSpec(name=name) for name in ("ddpm", "ddim", "heun")]
    rows = [Row(dud, None, sampler) for sampler in samplers] + [Row(other, None, samplers[0])]
    names = shortened([dud, other])
    assert each_attack(rows, names) == ["dud under 3 samplers", "other under ddpm"]
    assert each_attack(rows[1:], names) == ["dud under ddim and heun", "other under ddpm"]
    assert each_attack([Row(dud, None)], names) == ["dud"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("badnets", "badnets"),
        ("x(trigger=a, poison_rate=0.1)", "x(trigger=a)"),
        ("x(keep=((4, 6), (2, 15)), p=0.1)", "x(p=0.1)"),
        (" under ddim(poison_rate=2)", " under ddim"),
    ],
)
def test_a_curve_is_captioned_by_what_does_not_vary(text, left):
    """An axis that was the last parameter left an open bracket behind."""
    assert without(text, "keep" if "keep" in text else "poison_rate") == left
