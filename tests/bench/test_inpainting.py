"""A suite's corrupted images: every mistake is one line, before anything runs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bench.contracts.attack import Attack
from bench.diffusion.restoring import Inpainting
from bench.errors import UserError
from bench.faults import suite_faults
from bench.registry import Registry
from bench.suite import Suite, parse_suite


def suite(*entries: Any, **fields: Any) -> Suite:
    data = {"name": "s", "testbeds": ["digits-ddpm"], "inpainting": list(entries)}
    return parse_suite(data | fields, Registry(), "s.yaml")


def test_a_list_is_read_and_its_grid_expanded() -> None:
    both = {"reading": ["as_released", "variance_matched"]}
    read = suite("blur", {"name": "box", "params": {"start": 299}, "grid": both}).inpainting
    assert read == (
        Inpainting(corruption="blur"),
        Inpainting(corruption="box", start=299),
        Inpainting(corruption="box", start=299, reading="variance_matched"),
    )
    assert [one.name for one in read][1] == "box_as_released_299"
    assert suite().inpainting == ()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["boxx"], "unknown corruption 'boxx'.*box"),
        ([{"name": "box", "params": {"corruption": "line"}}], "corruption must not be in params"),
        ([{"name": "box", "params": {"reading": "other"}}], "inpainting box: reading must be"),
        ([{"name": "box", "params": {"start": -1}}], "inpainting: start must be at least 0"),
        ([{"name": "box", "params": {"begin": 1}}], "unknown parameter .*begin"),
        (["box", "box"], "inpainting lists .*box.* twice"),
    ],
)
def test_a_mistake_is_one_line(entries: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        suite(*entries)
    assert str(raised.value).startswith("s.yaml: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"testbeds": ["digits-cfg"]}, "inpainting on digits-cfg: .* unconditional, .* class"),
        ({"samplers": ["ddim", "heun"]}, "must not be one of pndm, heun, got heun"),
        (
            {"testbeds": [{"name": "digits-ddpm", "params": {"sampler": "pndm"}}]},
            "inpainting on digits-ddpm: the sampler must not be one of pndm, heun, got pndm",
        ),
        (
            {"inpainting": [{"name": "box", "params": {"start": 1000}}]},
            "start must be below the schedule's 1000 steps, got 1000",
        ),
    ],
)
def test_what_cannot_be_restored_is_a_fault(fields: dict[str, Any], message: str) -> None:
    attacks: list[Attack] = []
    (line,) = suite_faults(suite(*fields.pop("inpainting", ["box"]), **fields), attacks)
    assert re.search(message, line), line


def test_nothing_is_asked_of_a_suite_without() -> None:
    assert suite_faults(suite(testbeds=["digits-cfg"], samplers=["heun"]), []) == []
