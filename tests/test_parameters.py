"""Parameters of every plugin the registry finds, drawn from what their annotations say: what is
allowed builds and survives JSON, what is not is refused in one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import registry, testbeds
from bench.artwork import patterns
from bench.artwork.drawn import DRAWN
from bench.constraints import Domain, Option, domains
from bench.contracts.plugin import LABEL_LETTERS, Plugin
from bench.errors import UserError
from bench.names import brief

EVERY = [(kind, name) for kind in registry.GROUPS for name in registry.use().names(kind)]
#: All that a table's column and JSON can hold.
WHOLE = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)


def _seed_of(choice: str, seed: str) -> Callable[[dict[str, Any]], Any]:
    return lambda params: (params.get(seed) or 0) if params.get(choice) == DRAWN else None


#: Parameters that other parameters bind, which no annotation of one says: what they are then.
BOUND: dict[str, Callable[[dict[str, Any]], Any]] = {
    "trigger_seed": _seed_of("trigger", "trigger_seed"),
    "pattern_seed": _seed_of("pattern", "pattern_seed"),
    "pattern_size": lambda params: (
        None if params.get("pattern") in patterns.FULL_IMAGE else params.get("pattern_size")
    ),
    "keep": lambda params: None,
}


def allowed_by(domain: Domain) -> st.SearchStrategy[Any]:
    return st.one_of(*map(_allowed, domain.options))


def _allowed(option: Option) -> st.SearchStrategy[Any]:
    if option.choices:
        return st.sampled_from(option.choices)
    if option.type is float:
        low, high = option.exclusive_minimum, option.exclusive_maximum
        return st.floats(
            option.minimum if low is None else low,
            option.maximum if high is None else high,
            exclude_min=low is not None,
            exclude_max=high is not None,
            allow_nan=False,
            allow_infinity=False,
        )
    if option.type is int:
        step = option.multiple_of or 1
        low = -(2**63) if option.minimum is None else option.minimum
        low = low if option.exclusive_minimum is None else option.exclusive_minimum + 1
        high = 2**63 - 1 if option.maximum is None else option.maximum
        high = high if option.exclusive_maximum is None else option.exclusive_maximum - 1
        return st.integers(-(-low // step), high // step).map(lambda count: count * step)
    if option.type is str:
        return TEXT.filter(lambda text: len(text) >= (option.min_length or 0))
    if option.type is tuple and not option.repeated:
        return st.tuples(*map(allowed_by, option.items))
    if option.type is tuple:
        least, most = option.min_length or 0, option.max_length
        return st.lists(allowed_by(option.items[0]), min_size=least, max_size=most).map(tuple)
    return {bool: st.booleans(), Any: WHOLE}.get(option.type, st.none())


def values_of(cls: type[Plugin]) -> st.SearchStrategy[dict[str, Any]]:
    """Parameters of a plugin, some of them given, that must build."""

    def settled(params: dict[str, Any]) -> dict[str, Any]:
        names = [name for name in BOUND if name in domains(cls)]
        return params | {name: BOUND[name](params) for name in names}

    drawn = {name: allowed_by(domain) for name, domain in domains(cls).items()}
    return st.fixed_dictionaries({}, optional=drawn).map(settled)


def refused_by(domain: Domain) -> st.SearchStrategy[Any]:
    """What a parameter of one type, or ``None``, must not be: out of its bounds, of another type,
    no number at all.
    """
    options = [option for option in domain.options if option.type is not type(None)]
    wrong: list[st.SearchStrategy[Any]] = [st.just({}), st.just({"1": 1})]
    if not options:  # fixed: a parent's parameter that the child has not
        return st.one_of(*wrong, WHOLE, TEXT)
    (option,) = options
    if len(domain.options) == 1:
        wrong.append(st.none())
    if option.type is not tuple:
        wrong.append(st.lists(st.booleans(), max_size=3))
    if option.choices:
        wrong += [WHOLE, TEXT.filter(lambda text: text not in option.choices)]
    if option.type in (float, int):
        wrong += [
            st.booleans(),
            st.sampled_from(["", "many"]),
            st.just(math.nan),
            st.just(math.inf),
        ]
    if option.type in (str, bool) and not option.choices:
        wrong += [WHOLE]
    if option.type is int:
        wrong += [st.floats(allow_nan=False), TEXT]
    if option.minimum is not None:
        wrong.append(st.integers(max_value=option.minimum - 1))
    if option.exclusive_minimum is not None:
        wrong.append(st.integers(max_value=option.exclusive_minimum))
    if option.maximum is not None:
        wrong.append(st.integers(min_value=option.maximum + 1))
    if option.exclusive_maximum is not None:
        wrong.append(st.integers(min_value=option.exclusive_maximum))
    if option.type is float and option.constrained:
        ends = (option.minimum, option.exclusive_minimum)
        low = next((end for end in ends if end is not None), None)
        wrong += [] if low is None else [st.floats(max_value=low, exclude_max=True)]
    return st.one_of(*wrong)


def invalid_values_of(allowed: Mapping[str, Domain]) -> st.SearchStrategy[tuple[str, Any]]:
    """One of the parameters, and a value it must refuse."""
    named = [st.tuples(st.just(name), refused_by(domain)) for name, domain in allowed.items()]
    return st.one_of(*named)


@pytest.mark.parametrize(("kind", "name"), EVERY)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_the_annotations_allow_builds(kind: registry.Group, name: str, data: Any) -> None:
    """``(name, params)`` is all that is kept of a plugin, and its label heads a column."""
    params = data.draw(values_of(registry.use().get(kind, name)))
    plugin = registry.build(kind, name, params)
    restored = json.loads(json.dumps(plugin.params(), allow_nan=False))
    assert registry.build(kind, name, restored) == plugin
    label = plugin.label()
    assert len(label) <= LABEL_LETTERS and label.isascii() and label.isprintable()


WITH_PARAMETERS = [(kind, name) for kind, name in EVERY if domains(registry.use().get(kind, name))]


@pytest.mark.parametrize(("kind", "name"), WITH_PARAMETERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_the_annotations_exclude_is_refused(
    kind: registry.Group, name: str, data: Any
) -> None:
    """Whoever mistypes a suite reads one line that says which parameter, what it may be, what it
    is.
    """
    allowed = domains(registry.use().get(kind, name))
    field, value = data.draw(invalid_values_of(allowed))
    with pytest.raises(UserError) as caught:
        registry.build(kind, name, {field: value})
    _says_which_what_and_why(str(caught.value), name, field, allowed[field], value)


@pytest.mark.parametrize("name", testbeds.names())
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_a_testbed_cannot_be_is_refused(name: str, data: Any) -> None:
    """As of plugins."""
    allowed = testbeds.load(name).domains()
    field, value = data.draw(invalid_values_of(allowed))
    with pytest.raises(UserError) as caught:
        testbeds.build(name, {field: value})
    _says_which_what_and_why(str(caught.value), name, field, allowed[field], value)


def _says_which_what_and_why(line: str, name: str, field: str, domain: Domain, value: Any) -> None:
    assert f"{name}: {field} must be " in line and "\n" not in line
    constraint, _, came = line.partition(f"{field} must be ")[2].partition(", got ")
    assert came.startswith(brief(value)[:20]) or came == repr(float(value))
    options = [option for option in domain.options if option.type is not type(None)]
    if not options:
        assert "null" in constraint
        return
    (option,) = options
    named = [repr(choice) in constraint for choice in option.choices]
    named += [
        f"{end:,}" in constraint or (end == 0 and "positive" in constraint)
        for end in option.bounds.values()
    ]
    of_all = (
        "a finite number",
        "a whole number of at most 18 digits",
        "text of valid Unicode without NUL characters",
    )
    assert constraint in of_all or all(named)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_parameter_that_is_not_there_is_refused(kind: registry.Group, name: str) -> None:
    with pytest.raises(UserError, match="unknown parameter"):
        registry.build(kind, name, {"no_such_parameter": 1})


def _everything() -> dict[str, Mapping[str, Domain]]:
    of_plugins = {name: domains(registry.use().get(kind, name)) for kind, name in EVERY}
    return of_plugins | {name: testbeds.load(name).domains() for name in testbeds.names()}


def test_every_annotation_is_one_that_can_be_checked() -> None:
    """A list, or a type of somebody's own, would be taken as it comes."""
    unknown = [
        f"{name}.{field}: {domain.type}"
        for name, allowed in _everything().items()
        for field, domain in allowed.items()
        if not domain.known
    ]
    assert unknown == [] and len(_everything()) > 20


def test_every_number_of_ours_has_a_bound() -> None:
    """A training of -1 steps, a share of 7: nobody says so until it has run. Numbers of images are
    those that are in the data, or they are refused.
    """
    unbounded = {
        field
        for allowed in _everything().values()
        for field, domain in allowed.items()
        for option in domain.options
        if option.type in (float, int) and not option.bounds
    }
    assert unbounded == {"train_count", "held_out_count"}
