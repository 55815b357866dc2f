"""What a defender's plugin can reach from where it runs: nothing that says what is poisoned.

Each spy looks where a plugin could look: through the frames of those who called it, into all that
their variables hold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from bench import registry
from bench.artefacts.aims import Aim, PoisonedRows
from bench.contracts.attack import Attack
from bench.contracts.data import Query, TrainingSet
from bench.diffusion.sampling import Start

#: The method of each plugin that the harness calls.
METHODS = {
    "clip_x0": "predicted_x0",
    "anp": "invert",
    "noise_shift": "score",
    "train_on_generated": "clean",
    "diffusion_classifier": "classify",
    "strip": "score",
}


def above(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of ours that called."""
    while frame is not None and "/tests/" not in frame.f_code.co_filename:
        if "/bench/" in frame.f_code.co_filename:
            yield frame
        frame = frame.f_back


def contents(values: object, seen: set[int], depth: int = 6) -> Iterator[object]:
    """All that a value holds, and what those hold."""
    if id(values) in seen or depth == 0 or isinstance(values, (ModuleType, type, str, bytes)):
        return
    seen.add(id(values))
    yield values
    inner: list[object] = []
    if isinstance(values, dict):
        inner = [*values.values()]
    elif isinstance(values, (list, tuple, set)):
        inner = [*values]
    elif not isinstance(values, torch.Tensor):
        inner = [*getattr(values, "__dict__", {}).values()]
        inner += [cell.cell_contents for cell in getattr(values, "__closure__", None) or ()]
    for value in inner:
        yield from contents(value, seen, depth - 1)


def tells(value: object) -> bool:
    """Whether ``value`` says what the adversary did, or wants."""
    if isinstance(value, TrainingSet):
        return bool(value.poisoned.any())
    if isinstance(value, dict):
        return bool({"poisoned", "triggered", "target", "trigger"} & {str(name) for name in value})
    return isinstance(value, (Attack, Aim, PoisonedRows))


@pytest.mark.parametrize(
    ("kind", "steps"), [("noise", None), ("classes", 2)], ids=["noise", "classes"]
)
def test_no_truth_is_in_the_process_that_runs_a_defense(
    walk: Any,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    small_suites: dict[str, dict[str, Any]],
    kind: str,
    steps: int | None,
) -> None:
    """It could be perfect without knowing anything."""
    suite = small_suites[kind]
    leaks: dict[str, set[str]] = {}

    def spying(name: str, method: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*given: Any) -> Any:
            seen: set[int] = set()
            leaks.setdefault(name, set())
            for frame in above(sys._getframe(1)):
                values = dict(frame.f_locals)
                leaks[name] |= {
                    f"{frame.f_code.co_name}: {type(value).__name__}"
                    for value in contents(list(values.values()), seen)
                    if tells(value)
                }
            return original(*given)

        return spy

    for group in ("defenses", "detectors"):
        for entry in suite[group]:
            name = entry if isinstance(entry, str) else entry["name"]
            plugin = registry.use().get(group, name)
            method = METHODS[name]
            monkeypatch.setattr(plugin, method, spying(name, method, getattr(plugin, method)))
    walk(suite, tmp_path, steps)
    expected = [entry if isinstance(entry, str) else entry["name"] for entry in suite["defenses"]]
    assert leaks == {name: set() for name in [*expected, *(METHODS.keys() & _names(suite))]}


def _names(suite: dict[str, Any]) -> set[str]:
    return {entry if isinstance(entry, str) else entry["name"] for entry in suite["detectors"]}


def test_the_spy_sees_what_there_is_to_see() -> None:
    """Or the test above could not fail."""
    attack = registry.build("attacks", "baddiffusion")
    hidden = {"a": [lambda: attack]}
    assert any(map(tells, contents(hidden, set())))
    marked = TrainingSet(torch.zeros(1), torch.ones(1, dtype=torch.bool))
    assert any(map(tells, contents((1, {"b": marked}), set())))
    for innocent in (Query(noise=torch.zeros(1)), Start(noise=torch.zeros(1)), np.zeros(3)):
        assert not any(map(tells, contents(innocent, set())))


def test_a_pool_is_in_no_order_that_says_which_set_a_row_is_of() -> None:
    """A detector that counts rows would find every triggered one."""
    from bench.artefacts.judged import POOL, Judged

    draw = torch.Generator().manual_seed(0)
    sets = {name: torch.randn(40, 3, 4, 4, generator=draw) for name in ("clean", "noise", "image")}
    judged = Judged(sets=sets, rows={})
    pool = judged.pool()
    assert list(pool.sets) == [POOL] and len(pool.all()) == 120
    names = np.repeat(np.arange(3), 40)[judged.order()]
    # Of any third of the pool about a third is of each set.
    for part in np.split(names, 3):
        assert all(5 <= int((part == which).sum()) <= 22 for which in range(3))
    scores = pool.sets[POOL].sum((1, 2, 3)).numpy()
    for name, values in judged.of_pool(scores).items():
        np.testing.assert_array_equal(values, sets[name].sum((1, 2, 3)).numpy())
    other = Judged(sets={**sets, "image": sets["image"] + 1}, rows={})
    assert not np.array_equal(other.order(), judged.order()), "it follows from what it holds"


def test_prompts_are_judged_as_a_pool_too(tmp_path: Any) -> None:
    from bench.artefacts.judged import Judged, load_judged, save_judged

    judged = Judged(sets={"clean": ("a dog", "a cat"), "word": ("a dog x", "a cat x")}, rows={})
    save_judged(judged.pool(), tmp_path)
    texts = load_judged(tmp_path).all()
    assert sorted(texts) == sorted(judged.all())
    lengths = np.array([len(text) for text in texts])
    assert judged.of_pool(lengths)["word"].tolist() == [7, 7]
