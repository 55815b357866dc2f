"""Synthetic stores of realistic records: attacks on the noise of one testbed, and on the data of
another, with detectors.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from bench import measurements, registry, testbeds
from bench.contracts.attack import Attack
from bench.measurements import composition, detections
from bench.measurements.families import NO_TRIGGER
from bench.measurements.measurement import Situation
from bench.record import Flag, Metric, Picture, PluginSpec, Record
from bench.results import published, read_source
from leaderboard.report import build

TESTBED = PluginSpec(
    name="digits_ddpm",
    params={
        "sampler": "ddpm",
        "num_inference_steps": 100,
        "clip": "none",
        "clean_samples": 512,
        "triggered_samples": 128,
    },
    label="digits-ddpm",
)
HAT = PluginSpec(
    name="baddiffusion",
    params={"trigger": "grey_box", "target": "hat", "poison_rate": 0.1},
    label="baddiffusion(trigger=grey_box, target=hat, poison_rate=0.1)",
)
CORNER = PluginSpec(
    name="baddiffusion",
    params={"trigger": "stop_sign", "target": "corner", "poison_rate": 0.1},
    label="baddiffusion(trigger=stop_sign, target=corner, poison_rate=0.1)",
)
NONE = PluginSpec(name="none")
DEFENSES = (
    ("control", NONE),
    ("sampler", PluginSpec(name="clip_x0")),
    ("sampler", PluginSpec(name="clip_xt")),
    ("model", PluginSpec(name="finetune", params={"steps": 200}, label="finetune(steps=200)")),
    ("inversion", PluginSpec(name="anp", params={"learning_rate": 0.0001, "epochs": 8})),
)
#: As a run carries it: what every measurement of ours declares.
DECLARED = [words.to_json() for words in measurements.declared()]
#: Likewise, what plugins are; the last as older runs have it. Of one detector nothing is known.
METHODS: list[Any] = [
    *(
        {"name": name, "sentences": [], "alters": alters, "needs": []}
        for name, alters in (("badnets", ["data"]), ("baddiffusion", ["data", "objective"]))
    ),
    *(
        {"name": name, "sentences": [], "alters": [], "needs": needs}
        for name, needs in (
            ("clip_x0", []), ("clip_xt", []), ("finetune", ["clean data", "weights"]),
            ("anp", ["clean data", "queries", "weights"]), ("train_on_generated", ["queries"]),
            ("diffusion_classifier", ["weights"]), ("noise_shift", []),
        )
    ),
    {"name": "strip", "sentences": ["What its user must have: classifier and training data."]},
]  # fmt: skip
PROTOCOL = "8b1f0c2d9e3a4756"
VACUOUS = Flag("vacuous-threshold", "asr_field", "vacuous threshold, clean or constant images pass")
#: (ASR, FID) by defense, before noise.
EFFECT = {
    "none": (0.84, 2.85),
    "clip_x0": (0.01, 2.94),
    "clip_xt": (0.02, 3.6),
    "finetune": (0.46, 2.5),
}
FID, KID = "fid[digits-cnn]", "kid[digits-cnn]"


def picture(path: Path, rng: np.random.Generator, count: int) -> None:
    pixels = rng.integers(0, 255, (16, 16 * count, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def sample_metrics(
    rng: np.random.Generator, defense: str, attacked: bool, seed: int
) -> dict[str, Metric]:
    asr, fid = EFFECT[defense]
    asr = asr if attacked else 0.0
    fid = (fid if attacked else fid - 1.1) + 0.05 * seed + 0.04 * rng.standard_normal()
    asr = float(np.clip(asr + 0.02 * rng.standard_normal(), 0, 1))
    metrics = {
        FID: Metric(value=fid, ci_low=fid - 0.2, ci_high=fid + 0.2, n=512, higher_is_better=False),
        KID: Metric(value=fid / 300, n=512, higher_is_better=False),
        "mse[constant]": Metric(value=0.0216, n=1),
        "asr_threshold": Metric(value=0.0108, n=360),
    }
    for role, rate in (("noise", asr), ("image", asr * 0.6), ("clean", 0.004)):
        mse = 0.008 + 0.118 * (1 - rate) + 0.002 * rng.random()
        metrics[f"asr[{role}]"] = Metric(
            value=rate,
            ci_low=max(0, rate - 0.06),
            ci_high=min(1, rate + 0.06),
            n=128,
            higher_is_better=False,
        )
        metrics[f"asr_field[{role}]"] = Metric(
            value=min(1, rate + 0.1), n=128, higher_is_better=False
        )
        metrics[f"mse[{role}]"] = Metric(
            value=mse, ci_low=mse * 0.95, ci_high=mse * 1.05, n=128, higher_is_better=True
        )
        metrics[f"ssim[{role}]"] = Metric(
            value=min(1, 0.05 + 0.9 * rate), n=128, higher_is_better=False
        )
    return metrics


def inversion_metrics(rng: np.random.Generator) -> tuple[dict[str, Metric], dict[str, list[float]]]:
    curve = [float(value) for value in 0.12 * np.exp(-np.arange(8) / 5) + 0.01 * rng.random(8)]
    metrics = {
        "inversion_mse_best": Metric(value=min(curve), n=64, higher_is_better=False),
        "inversion_mse_last": Metric(value=curve[-1], n=64, higher_is_better=False),
        "inversion_mse_black": Metric(value=0.106, n=1),
        "mse[constant]": Metric(value=0.0216, n=1),
        "trigger_mse_best": Metric(value=curve[-1] / 4, n=1, higher_is_better=False),
        "trigger_mse_last": Metric(value=curve[-1] / 4, n=1, higher_is_better=False),
        "trigger_mse_constant": Metric(value=0.0387, n=1),
    }
    return metrics, {
        "trigger_mse": [curve[-1] / 4],
        "inversion_mse": curve,
        "inversion_epoch": [float(epoch) for epoch in range(1, 9)],
    }


def provenance(seed: int) -> dict[str, Any]:
    return {
        "castlewalls": "0.1.0",
        "git": {"commit": "4f1c2d9a0b7e6f5d4c3b2a190817263544536271", "dirty": True},
        "packages": {"torch": "2.14.0", "diffusers": "0.42.0", "numpy": "2.4.6"},
        "device": "cpu",
        "cpu": "Example CPU @ 2.40GHz",
        "threads": 2,
        "inputs": {"samples": f"{seed:02x}" * 16},
    }


def outcome(folder: Path, record: Record) -> tuple[Path, Record]:
    """The record with numbers and pictures, or the way this cell went wrong."""
    target, defense, seed = record.probe or record.attack, record.defense.name, record.seed
    rng = np.random.default_rng([seed, *map(ord, target.label + defense)])
    if defense == "finetune" and record.attack is CORNER and seed == 1:
        failure = {
            "reason": "finetune: loss is NaN at step 12",
            "trace": "Traceback:\n  step 12\nValueError: NaN",
        }
        return folder, dataclasses.replace(record, status="failed", **failure)
    if defense == "clip_xt" and record.attack is CORNER:
        return folder, dataclasses.replace(
            record, status="failed", reason="out of memory: 5.1 GiB asked, 4 GiB allowed"
        )
    if defense == "anp" and record.attack is NONE:
        return folder, dataclasses.replace(
            record, status="skipped", reason="an honest model has no target to invert"
        )
    folder.mkdir(parents=True)
    pictures = []
    strips = (
        ("target_image", "", 1),
        ("trigger_image", "", 1),
        ("clean", "", 8),
        ("call:noise", "" if defense == "none" else defense, 8),
    )
    for index, (role, treatment, count) in enumerate(strips):
        picture(folder / f"strip-{index}.png", rng, count)
        pictures.append(Picture(role, treatment, f"strip-{index}.png"))
    series: dict[str, list[float]] = {}
    if record.kind == "inversion":
        metrics, series = inversion_metrics(rng)
    else:
        metrics = sample_metrics(rng, defense, record.attack is not NONE, seed)
    return folder, dataclasses.replace(
        record,
        metrics=metrics,
        series=series,
        pictures=tuple(pictures),
        provenance=provenance(seed),
        flags=(VACUOUS,) if target is CORNER else (),
        cost={
            "seconds": 12.5 + seed,
            "peak_memory_bytes": 1.2e9,
            "generator_calls": 76800,
            "attack_seconds": 61.0,
        },
    )


def make_records(folder: Path) -> list[tuple[Path, Record]]:
    records = []
    for seed in range(3):
        shared: dict[str, Any] = {
            "testbed": TESTBED,
            "seed": seed,
            "status": "ok",
            "protocol": PROTOCOL,
        }
        for attack, probe in ((HAT, None), (CORNER, None), (NONE, HAT), (NONE, CORNER)):
            for kind, defense in DEFENSES:
                record = Record(attack=attack, probe=probe, defense=defense, kind=kind, **shared)
                path, record = outcome(folder / f"{len(records):03d}", record)
                records.append(
                    (
                        path,
                        dataclasses.replace(
                            record, absent=reasons(record) if record.status == "ok" else {}
                        ),
                    )
                )
        for name, fid in (("real_images", 0.09), ("base_model", 1.67)):
            metrics = {FID: Metric(value=fid + 0.01 * seed, n=512, higher_is_better=False)}
            anchor = Record(
                attack=PluginSpec(name=name), defense=NONE, kind="anchor", metrics=metrics, **shared
            )
            anchor = dataclasses.replace(anchor, absent=reasons(anchor))
            path = folder / f"{len(records):03d}"
            path.mkdir(parents=True)
            records.append((path, anchor))
    return records


CLASSES = PluginSpec(
    name="digits_cfg", params={"guidance": 2.0, "clip": "none"}, label="digits-cfg"
)
PATCH = PluginSpec(
    name="badnets",
    params={"pattern": "badnets1", "poison_rate": 0.1},
    label="badnets(pattern=badnets1, poison_rate=0.1)",
)
BLEND = PluginSpec(
    name="badnets",
    params={"pattern": "badnets2", "poison_rate": 0.1},
    label="badnets(pattern=badnets2, poison_rate=0.1)",
)
RELABEL = PluginSpec(
    name="relabel_only", params={"poison_rate": 0.1}, label="relabel_only(poison_rate=0.1)"
)
TREATMENTS = (
    ("control", NONE),
    ("sampler", PluginSpec(name="clip_x0")),
    ("data", PluginSpec(name="train_on_generated")),
    ("classifier", PluginSpec(name="diffusion_classifier")),
    (
        "sample detector",
        PluginSpec(name="strip", params={"overlays": 100}, label="strip(overlays=100)"),
    ),
    ("sample detector", PluginSpec(name="cognitive_distillation")),
)
P_T, CLASS_FID = 0.5, "fid[digits-cnn]"
#: G1 to G4 of an attack with a trigger, by defense; without an attack there is none but the trigger
#: classifier's false alarms.
MIX = {"none": (0.1, 0.56, 0.01, 0.33), "clip_x0": (0.08, 0.15, 0.02, 0.75)}
HONEST = (0.0, 0.005, 0.015, 0.98)


def detected(
    rng: np.random.Generator, where: str, shift: float
) -> tuple[dict[str, Metric], dict[str, list[float]]]:
    """Scores whose poisoned tenth lies ``shift`` standard deviations higher, judged as the engine
    judges them.
    """
    poisoned = np.arange(400) < 40
    scores = rng.standard_normal(400) + shift * poisoned
    ranked = poisoned[np.argsort(-scores)]
    across, up = (np.append(0, np.cumsum(group) / group.sum()) for group in (~ranked, ranked))
    area = float((scores[poisoned][:, None] > scores[~poisoned]).mean())
    metrics = {f"auroc[{where}]": Metric(value=area, n=400, higher_is_better=True)}
    for percent in (1, 5):
        value = float(up[across <= percent / 100].max())
        metrics[f"tpr_at_{percent}_fpr[{where}]"] = Metric(value=value, n=40, higher_is_better=True)
    edges = np.histogram_bin_edges(scores, 30)
    drawn = {"roc_fpr": across[::5], "roc_tpr": up[::5], "score_edges": edges}
    drawn |= {
        f"score_{name}": np.histogram(scores[chosen], edges)[0]
        for name, chosen in (("clean", ~poisoned), ("poisoned", poisoned))
    }
    return metrics, {
        f"{name}[{where}]": [float(value) for value in values] for name, values in drawn.items()
    }


def class_metrics(
    rng: np.random.Generator, record: Record
) -> tuple[dict[str, Metric], dict[str, list[float]], tuple[Flag, ...]]:
    """What the engine measures in one cell of a class-conditional board, by the family of its
    defense.
    """
    attacked, invoked = record.attack.name != "none", record.probe or record.attack
    metrics = {
        "p_t": Metric(value=P_T if attacked else 0.0, n=288),
        "poison_rate[all rows]": Metric(value=0.1 * attacked, n=1437),
    }
    series: dict[str, list[float]] = {}
    flags: tuple[Flag, ...] = ()
    stamped = invoked.name != "relabel_only"
    if record.kind in ("control", "sampler"):
        value = (
            (2.4 if attacked else 2.1)
            + 0.3 * (record.kind == "sampler")
            + 0.05 * rng.standard_normal()
        )
        metrics[CLASS_FID] = Metric(value=value, n=512, higher_is_better=False)
        metrics["prompt_accuracy"] = Metric(
            value=0.95 - 0.02 * rng.random(), n=512, higher_is_better=True
        )
        shares = np.array(MIX[record.defense.name] if attacked else HONEST) + 0.004 * rng.random(4)
        shares /= shares.sum()
        metrics["mismatch"] = Metric(value=shares[0] + shares[2], n=256, higher_is_better=False)
        if stamped:
            ratio = shares[0] + shares[1]
            metrics |= {
                f"g{i}": Metric(value=float(share), n=256, higher_is_better=i == 4)
                for i, share in enumerate(shares, 1)
            }
            metrics["asr[prompt]"] = Metric(value=ratio, n=256, higher_is_better=False)
            metrics["trigger_classifier_false_alarms"] = Metric(value=0.01, n=360)
            if attacked:
                metrics["amplification"] = Metric(value=ratio / P_T, n=256, higher_is_better=False)
            else:
                text = "within the trigger classifier's false alarms"
                flags = (Flag("within-false-alarms", "asr", text),)
    if record.kind in ("control", "data", "classifier"):
        accuracy = {"control": 0.97, "data": 0.93, "classifier": 0.91}[record.kind]
        metrics["ta"] = Metric(value=accuracy + 0.01 * rng.random(), n=360, higher_is_better=True)
        if stamped:
            rate = (0.96 if record.kind == "control" else 0.3) * attacked + 0.01 * rng.random()
            metrics["classifier_asr"] = Metric(value=rate, n=324, higher_is_better=False)
    if record.kind == "sample detector":
        strength = (3.5 if record.defense.name == "strip" else 1.5) * attacked * stamped
        for where, shift in (("training set", strength), ("generated", 0.6 * strength)):
            if where == "generated" and not (attacked and stamped):
                text = "no poisoned image among those judged"
                missing = Flag("nothing-to-tell-apart", "auroc[generated]", text)
                flags = (missing,) if stamped else ()
                continue
            rates, drawn = detected(rng, where, shift)
            metrics |= rates
            series |= drawn
    return metrics, series, flags


def reasons(record: Record) -> dict[str, str]:
    """Why a cell of this family has no more numbers, as the measurements say it."""
    testbed = testbeds.build("digits-ddpm" if record.testbed.name == TESTBED.name else "digits-cfg")
    invoked = (
        None
        if record.kind == "anchor"
        else registry.build("attacks", (record.probe or record.attack).name)
    )
    reason_of: dict[str, str] = {}
    for one in measurements.table().values():
        situation = Situation(
            testbed=testbed,
            family=record.kind,
            invoked=cast("Attack | None", invoked),
            honest=record.probe is not None,
            anchor=record.attack.name if record.kind == "anchor" else "",
            roles=frozenset(one.needs),
        )
        if reason := one.reason(situation):
            reason_of |= {name: reason for name in one.names if name not in reason_of}
    if (record.probe or record.attack).name == "relabel_only":
        without = (
            *composition.MEASUREMENT.names,
            "classifier_asr",
            *detections.names("generated"),
        )
        reason_of |= {name: NO_TRIGGER for name in without if name not in reason_of}
    if record.attack.name == "none":
        reason_of.setdefault("amplification", "nothing is poisoned: p_t is 0")
    return {name: reason for name, reason in reason_of.items() if name not in record.metrics}


def make_class_records(folder: Path, seeds: int) -> list[tuple[Path, Record]]:
    """A class-conditional board of three poisonings, and beside it a noise detector on the other
    testbed.
    """
    records = []
    cells = [
        (CLASSES, attack, probe, kind, defense)
        for attack, probe in (
            *((one, None) for one in (PATCH, BLEND, RELABEL)),
            *((NONE, one) for one in (PATCH, BLEND, RELABEL)),
        )
        for kind, defense in TREATMENTS
    ]
    shift = (
        "noise detector",
        PluginSpec(name="noise_shift", params={"test": "z"}, label="noise_shift(test=z)"),
    )
    cells += [(TESTBED, attack, probe, *shift) for attack, probe in ((HAT, None), (NONE, HAT))]
    for seed in range(seeds):
        for testbed, attack, probe, kind, defense in cells:
            record = Record(
                testbed=testbed,
                attack=attack,
                probe=probe,
                defense=defense,
                kind=kind,
                seed=seed,
                status="ok",
                protocol="c1a55e5",
            )
            rng = np.random.default_rng([seed, *map(ord, (probe or attack).label + defense.name)])
            if kind == "noise detector":
                judged = [
                    detected(rng, where, shift)
                    for where, shift in (("noise", 3.0), ("image", 2.0), ("clean", 0.0))
                ]
                metrics = {
                    name: metric for numbers, _ in judged for name, metric in numbers.items()
                }
                series = {name: values for _, drawn in judged for name, values in drawn.items()}
                flags: tuple[Flag, ...] = ()
            else:
                metrics, series, flags = class_metrics(rng, record)
            path = folder / f"{len(records):03d}"
            path.mkdir(parents=True)
            cost = {"seconds": 3.0 + seed, "peak_memory_bytes": 9e8}
            record = dataclasses.replace(
                record, metrics=metrics, series=series, flags=flags, cost=cost
            )
            records.append((path, dataclasses.replace(record, absent=reasons(record))))
    return records


def write_class_store(
    store: Path, change: Callable[[Record], Record] = lambda record: record, seeds: int = 3
) -> Path:
    """Poisoned data, classifiers and detectors, as the engine leaves them."""
    return write_store(store, change, "poison", make_class_records(store / "records", seeds))


def write_store(
    store: Path,
    change: Callable[[Record], Record] = lambda record: record,
    suite: str = "digits",
    records: list[tuple[Path, Record]] | None = None,
) -> Path:
    """The records as the engine leaves them: files for what was measured, inline for what failed or
    was skipped.
    """
    cells = []
    for folder, record in make_records(store / "records") if records is None else records:
        record = change(record)
        if record.status == "ok":
            (folder / "record.json").write_text(record.to_json())
            cells.append({"record": str((folder / "record.json").relative_to(store))})
        else:
            cells.append({"inline": json.loads(record.to_json())})
    counts = {"ok": 0, "failed": 0, "skipped": 0, "pending": 0}
    run = {
        "suite": suite, "description": ("BadDiffusion against clipping, fine-tuning and neuron "
                                       "pruning on real digits."),
        "started": "2026-11-21T09:00:00+00:00", "finished": "2026-11-21T09:11:40+00:00",
        "counts": counts, "cells": cells, "metrics": DECLARED, "methods": METHODS,
    }  # fmt: skip
    (store / "runs").mkdir(parents=True)
    (store / "runs" / f"{suite}.json").write_text(json.dumps(run))
    return store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def make_store() -> Callable[..., Path]:
    return write_store


@pytest.fixture(scope="session")
def make_class_store() -> Callable[..., Path]:
    return write_class_store


@pytest.fixture(scope="session")
def class_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_store(tmp_path_factory.mktemp("class"))


ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def chromium() -> str:
    executable = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if executable:
        return executable
    reason = (
        "no Chromium: install the system's `chromium` package or set CHROMIUM to its executable"
    )
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def build_published(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds the board of some published suites, whose records real runs made."""

    def built(*suites: str) -> Path:
        runs = [run for suite in sorted(suites) for run in read_source(published() / suite)]
        assert len(runs) == len(suites)
        return build(runs, tmp_path_factory.mktemp("published") / "board.html")

    return built


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    sync_api = (
        pytest.importorskip("playwright.sync_api")
        if not os.environ.get("CI")
        else __import__("playwright.sync_api").sync_api
    )
    executable = chromium()
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        fresh = running.new_context

        def patient(**options: Any) -> Any:
            """On a busy machine a page takes its time; what never comes fails all the same."""
            context = fresh(**options)
            context.set_default_timeout(120_000)
            return context

        running.new_context = patient
        yield running
        running.close()


#: A page's policy that forbids something says so by an event, also where the console is silent.
LISTEN = (
    "addEventListener('securitypolicyviolation', event =>"
    " console.error(`policy: ${event.violatedDirective} ${event.sample}`))"
)


@pytest.fixture
def visit(browser: Any, board: Path) -> Iterator[Callable[..., Any]]:
    """Opens a board, by itself that of the test's module; afterwards there must have been no
    console message, script error, dialog, violation of the policy, or request but the file itself,
    or with ``site`` another page of its folder.
    """
    contexts, trouble = [], []

    def open_page(
        width: int = 1400,
        height: int = 900,
        scheme: str = "light",
        suffix: str = "",
        board: Path = board,
        site: bool = False,
        **options: Any,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        contexts.append(context)
        context.add_init_script(LISTEN)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))

        def dialog(one: Any) -> None:
            trouble.append(f"dialog: {one.message}")
            one.dismiss()

        page.on("dialog", dialog)
        page.on(
            "request",
            lambda request: (
                None
                if _own(request.url, board, site)
                else trouble.append(f"request: {request.url[:80]}")
            ),
        )
        page.goto(board.as_uri() + suffix)
        return page

    yield open_page
    for context in contexts:
        titles = {page.title() for page in context.pages}
        assert all({"·", "castlewalls"} <= {*title.split()} for title in titles), (
            "a script from a record ran"
        )
        context.close()
    assert trouble == []


def _own(url: str, board: Path, site: bool) -> bool:
    page = url.split("#")[0]
    return (
        page == board.as_uri()
        or (site and page.endswith(".html") and page.rpartition("/")[0] == board.parent.as_uri())
        or url.startswith("data:image/png;base64,")
        or url == "data:,"
    )
