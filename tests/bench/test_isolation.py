"""Submitted plugins that mean harm, in real runs: each loses its own row, with a reason, and no
number of anybody else's changes.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import registry
from bench.engine.isolation import Limits, support
from bench.engine.progress import Reporter
from bench.engine.store import Store
from bench.record import Record, read_runs
from bench.runner import prepare, run_together

needs_namespaces = pytest.mark.skipif(
    not support().namespaces, reason=f"plugins run {support().words}"
)
TEXT = """
import json, socket
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from bench.plugin import Card, Inversion, ModelDefense, Recovered

NEEDS = frozenset({{"weights"}})


class Base(Inversion):
    def invert(self, access):
        self.act()
        weight = access.generator.unet.conv_in.weight.detach().mean()
        return Recovered(labels=["epoch 1"], targets=[weight.tanh().expand(1, 3, 16, 16)])


@dataclass(frozen=True, kw_only=True)
class Honest(Base):
    card: ClassVar[Card] = Card(name="honest", summary="for tests", needs=NEEDS)

    def act(self):
        pass


@dataclass(frozen=True, kw_only=True)
class Reads(Base):
    card: ClassVar[Card] = Card(name="reads_the_store", summary="for tests", needs=NEEDS)

    def act(self):
        truth = [str(path) for path in Path({store!r}).rglob("*")]
        handed = sorted(path.name for path in Path("/castlewalls/inputs").rglob("*.*"))
        raise RuntimeError(f"{{truth}} {{handed}}")


@dataclass(frozen=True, kw_only=True)
class Calls(Base):
    card: ClassVar[Card] = Card(name="opens_a_socket", summary="for tests", needs=NEEDS)

    def act(self):
        socket.create_connection(("127.0.0.1", {port}), 5)


@dataclass(frozen=True, kw_only=True)
class Settings(ModelDefense):
    card: ClassVar[Card] = Card(name="changes_settings", summary="for tests", needs=NEEDS)

    def repair(self, access):
        # Its process is its own, so it may as well replace what writes its result.
        kind, save = type(access.generator), type(access.generator).save

        def saved(model, folder, card, metadata=None):
            save(model, folder, card, metadata)
            path = folder / "scheduler" / "scheduler_config.json"
            settings = json.loads(path.read_text()) | {{"beta_end": 0.5}}
            path.write_text(json.dumps(settings))

        kind.save = saved
        return access.generator


@dataclass(frozen=True, kw_only=True)
class Silent(ModelDefense):
    card: ClassVar[Card] = Card(name="hides_its_doubts", summary="for tests", needs=NEEDS)

    def repair(self, access):
        from bench.stages import border

        border.repaired = lambda *given: []
        return access.generator
"""
#: name -> the reason of its row.
REASONS = {
    "reads_the_store": "RuntimeError: [] ['config.json', 'diffusion_pytorch_model.safetensors', "
    "'model_index.json', 'scheduler_config.json']",
    "opens_a_socket": "Connection refused",
    "changes_settings": "a model with other settings, in scheduler/scheduler_config.json",
}
SUITE: dict[str, Any] = {
    "name": "isolated",
    "testbeds": [
        {
            "name": "digits-ddpm",
            "params": {
                "num_inference_steps": 2,
                "clean_samples": 8,
                "triggered_samples": 4,
                "precision": "float32",
            },
        }
    ],
    "attacks": [{"name": "none", "params": {"training_steps": 1}}],
    "defenses": ["clip_x0"],
    "seeds": [0],
}
LIMITS = Limits(memory=3 * 2**30, disk=2**26, scratch=2**26, processes=32, tasks=256)


class Quiet(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def run_suite(
    folder: Path, suite: dict[str, Any], plugins: list[Path]
) -> tuple[dict[str, Record], list[str]]:
    """The records by column, the failed ones too, and what the run told its user."""
    file = folder / "suite.yaml"
    file.write_text(yaml.safe_dump(suite))
    prepared = prepare(str(file), plugins=plugins, jobs=1, timeout=1800.0)
    reporter = Quiet()
    run_together([replace(prepared, limits=LIMITS)], Store(folder / "store"), reporter)
    (account,) = read_runs(folder / "store")
    registry._in_use.clear()
    by_name = {f"{one.attack.name}/{one.defense.name}": one for _, one in account.records}
    return by_name, reporter.notes


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """The records of a run without a submitted plugin."""
    return run_suite(tmp_path_factory.mktemp("plain"), SUITE, [])[0]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Record], list[str]]:
    """All plugins of :data:`TEXT` in one run."""
    folder = tmp_path_factory.mktemp("hostile")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        text = TEXT.format(store=str(folder / "store"), port=port)
        (folder / "hostile.py").write_text(text)
        columns = ["clip_x0", *REASONS, "hides_its_doubts", "honest"]
        made = run_suite(folder, SUITE | {"defenses": columns}, [folder / "hostile.py"])
        with pytest.raises(TimeoutError):
            server.accept()
    return made


@needs_namespaces
def test_a_hostile_plugin_is_a_failed_row_with_its_reason(hostile: Any) -> None:
    for name, reason in REASONS.items():
        record = hostile[0][f"none/{name}"]
        assert record.status == "failed" and reason in record.reason, record.reason


@needs_namespaces
def test_nobody_elses_row_changes_by_a_bit(hostile: Any, plain: dict[str, Record]) -> None:
    for name, record in plain.items():
        other = hostile[0][name]
        for part in ("status", "metrics", "flags", "series", "absent", "protocol"):
            assert getattr(other, part) == getattr(record, part), (name, part)
    assert len(plain) >= 4


@needs_namespaces
def test_a_doubt_that_was_hidden_is_found_again(hostile: Any) -> None:
    record = hostile[0]["none/hides_its_doubts"]
    assert record.status == "ok"
    assert "changes-nothing" in [flag.code for flag in record.flags]


@needs_namespaces
def test_an_honest_plugin_in_the_same_file_is_measured(hostile: Any) -> None:
    records, notes = hostile
    record = records["none/honest"]
    assert record.status == "ok" and record.kind == "inversion"
    assert record.provenance["isolation"] == [support().words]
    assert any(support().words in note for note in notes)
    assert "isolation" not in records["none/clip_x0"].provenance
