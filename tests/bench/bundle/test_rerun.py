"""Cells drawn by lot and made again: what agrees, what is caught, and that nothing runs unasked."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import scipy.stats
from click.testing import CliRunner
from safetensors.numpy import load, save

from bench.bundle.bag import MANIFEST, read_bag
from bench.bundle.integrity import read_contents
from bench.bundle.layout import cell_words
from bench.bundle.recomputed import recompute
from bench.bundle.rerun import ERROR, compare, draw, paired, spreads, within
from bench.cli import cli
from bench.measurements.detections import FIXED_RATE
from bench.metrics.detection import threshold_at_fpr
from bench.record import Metric, PluginSpec, Record, read_runs


def contents_of(folder, files):
    return read_contents(read_bag(folder), str(files["suite"]))


def verify(folder, files, *options):
    arguments = ["verify", str(folder), "--suite", str(files["suite"]), *map(str, options)]
    return CliRunner().invoke(cli, arguments)


def nonce_of(folder, files, attack, seed) -> str:
    """One with which the lot falls on this cell alone."""
    manifest, contents = (folder / MANIFEST).read_bytes(), contents_of(folder, files)
    for number in range(1000):
        (cell,) = draw(manifest, str(number), contents, 1).cells
        if (cell.attack.name, cell.seed) == (attack, seed):
            return str(number)
    raise AssertionError("the lot never falls on it")


def in_store(store, defense) -> Record:
    """What was made again of baddiffusion, seed 0."""
    (here,) = [
        one
        for run in read_runs(store)
        for _, one in run.records
        if (one.attack.name, one.defense.name, one.seed) == ("baddiffusion", defense, 0)
    ]
    return here


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Where the cells of this file are made; what one test has made another finds."""
    return tmp_path_factory.mktemp("again") / "store"


# --- the lot --------------------------------------------------------------------------------------


def test_the_lot_follows_from_the_manifest_and_the_nonce(bundles, files) -> None:
    """Anybody can draw it again; nobody who does not know the nonce can."""
    contents = contents_of(bundles["shrink"], files)
    manifest = (bundles["shrink"] / MANIFEST).read_bytes()
    drawn = draw(manifest, "once", contents, 2)
    assert drawn == draw(manifest, "once", contents, 2)
    assert drawn.sha256 == hashlib.sha256(manifest + b"once").hexdigest()
    assert (len(drawn.cells), drawn.total) == (2, 4)
    assert {one.defense.name for one in drawn.cells} == {"shrink"}
    by_nonce = [draw(manifest, str(number), contents, 1).cells[0] for number in range(64)]
    assert len({(one.attack.name, one.seed) for one in by_nonce}) == 4
    changed = [draw(manifest + b" ", str(number), contents, 1).cells[0] for number in range(64)]
    assert changed != by_nonce
    assert len(draw(manifest, "once", contents, 99).cells) == 4


# --- the comparison -------------------------------------------------------------------------------

HERE = {
    "castlewalls": "1",
    "packages": {"torch": "2"},
    "python": "3",
    "platform": "p",
    "cpu": "c",
    "device": "cpu",
    "threads": 1,
    "stage": "k",
}


def record(seed=0, value=0.5, low=0.4, high=0.6, count=64, **provenance) -> Record:
    metric = Metric(value=value, ci_low=low, ci_high=high, n=count, unit="share")
    return Record(
        testbed=PluginSpec(name="t"),
        attack=PluginSpec(name="a"),
        defense=PluginSpec(name="d"),
        seed=seed,
        status="ok",
        metrics={"asr[noise]": metric, "diversity": Metric(value=value)},
        provenance=HERE | provenance,
    )


@pytest.mark.parametrize(
    "change", [{"value": 0.5 + 1e-12}, {"high": 0.6 + 1e-12}, {"count": 63}], ids=str
)
def test_on_the_same_machine_every_digit_counts(change) -> None:
    same = compare(record(), record(), {})
    assert (same.rule, same.faults, len(same.numbers)) == ("exact", [], 2)
    other = compare(record(), record(**change), {})
    assert other.rule == "exact" and other.faults[0].startswith("asr[noise] 0.5 has other digits")


@pytest.mark.parametrize("name", [*HERE])
def test_another_machine_or_code_asks_for_no_digits(name) -> None:
    """Whatever of it differs; three standard errors of the pair are what it asks for."""
    error = 0.2 / 2 / 1.96
    limit = 3 * (2 * error**2) ** 0.5
    near = compare(record(), record(value=0.5 + limit - 1e-6, high=0.9, low=0.7, **{name: 9}), {})
    assert (near.rule, near.faults, [*near.numbers]) == ("paired", [], ["asr[noise]"])
    assert ("code" if name == "stage" else name) in near.why
    assert near.numbers["asr[noise]"][2] == pytest.approx(limit)
    far = compare(record(), record(value=0.5 + limit + 1e-6, high=0.9, low=0.7, **{name: 9}), {})
    assert far.faults[0].startswith("asr[noise] is 0.5, and must be as made again, 0.71")
    assert any("made again 0.71" in line for line in far.lines())


@pytest.mark.parametrize("name", ["model_score", "trigger_cosine"])
def test_scores_of_models_are_compared_elsewhere_too(name) -> None:
    """Nothing of a detector of models was: no board ranks by the score of one model."""

    def scored(value: float, seed: int = 0, **where) -> Record:
        metrics = {name: Metric(value=value, n=1)}
        return dataclasses.replace(record(seed=seed, **where), metrics=metrics)

    rows = [scored(value, seed) for seed, value in enumerate((1.0, 1.1, 1.2))]
    near, far = (compare(rows[0], scored(one, cpu="x"), spreads(rows)) for one in (1.2, 9.0))
    assert (near.rule, near.faults, [*near.numbers]) == ("paired", [], [name])
    assert far.faults and far.faults[0].startswith(f"{name} is 1, and must be as made again, 9")


def test_what_seeds_differ_by_another_machine_may_too() -> None:
    """It trains another model; a bundle whose seeds are alike gains nothing."""
    wide = [record(seed=seed, value=value) for seed, value in enumerate((0.1, 0.5, 0.9))]
    again = record(seed=0, value=0.9, cpu="x")
    assert compare(wide[0], again, spreads(wide)).faults == []
    alike = [record(seed=seed, value=0.1) for seed in range(3)]
    assert compare(alike[0], again, spreads(alike)).faults


def test_without_outcomes_one_invented_seed_hides_in_the_spread_that_it_makes() -> None:
    """What the rule cannot tell on another machine, as docs/submit.md says."""
    rows = [record(seed=seed, value=value) for seed, value in enumerate((0.9, 0.4, 0.4))]
    assert compare(rows[0], record(value=0.4, cpu="x"), spreads(rows)).faults == []
    assert compare(rows[0], record(value=0.4), spreads(rows)).faults, "on the same one it can"


def of_samples(outcomes, seed=0, **provenance) -> Record:
    """A record of a rate whose outcomes are known."""
    share = float(np.mean(outcomes))
    error = (share * (1 - share) / len(outcomes)) ** 0.5
    one = record(
        seed, share, share - 1.96 * error, share + 1.96 * error, len(outcomes), **provenance
    )
    return dataclasses.replace(
        one, series={"outcomes[asr[noise]]": tuple(map(float, outcomes))}, metrics=one.metrics
    )


def test_of_the_same_samples_one_invented_seed_does_not_hide() -> None:
    """However far apart it puts the seeds of the bundle."""
    truth = np.arange(64) % 10 < 4
    rows = [of_samples(truth, seed) for seed in range(3)]
    rows[0] = of_samples(np.arange(64) % 10 < 2)
    known = spreads(rows)
    (fault,) = compare(rows[0], of_samples(truth, cpu="x"), known).faults
    assert fault.startswith("asr[noise] is 0.21875, and must be as made again, 0.4375 within 0.156")
    few = np.r_[~truth[:3], truth[3:]]
    assert compare(rows[1], of_samples(few, cpu="x"), known).faults == []


def test_changing_many_samples_gives_an_invention_no_more_room() -> None:
    """Than an honest one of other samples has."""
    truth = np.arange(64) % 2 == 0
    invented = ~truth & (np.arange(64) < 30)
    assert paired(list(zip(invented, truth, strict=True)), ERROR) > 0.25
    assert compare(of_samples(invented), of_samples(truth, cpu="x"), {}).faults


@pytest.mark.parametrize(
    ("more", "less"), [(0, 0), (1, 0), (7, 0), (8, 0), (9, 1), (16, 6), (9, 9)]
)
def test_what_may_change_is_what_mcnemars_test_allows(more, less) -> None:
    changes = [(0.0, 1.0)] * more + [(1.0, 0.0)] * less
    pairs = [*changes, *[(1.0, 1.0)] * (100 - len(changes))]
    chance = scipy.stats.binomtest(less, more + less).pvalue if changes else 1.0
    assert (abs(more - less) / 100 <= paired(pairs, ERROR)) is bool(chance >= ERROR)


def test_samples_in_groups_count_as_their_groups() -> None:
    """Four crops of a digit change together: 12 are no more evidence than 3 digits."""
    changed = [(0.0, 1.0)] * 12 + [(1.0, 1.0)] * 88
    assert paired(changed, ERROR) < 0.12 <= paired(changed, ERROR, together=4.0)


@pytest.mark.parametrize("changing", [0.02, 0.5], ids=["few change", "other samples"])
def test_how_often_an_honest_rate_is_refused(changing) -> None:
    draws, refused, total = np.random.default_rng(0), 0, 2000
    for _ in range(total):
        more, less = draws.multinomial(256, [changing / 2, changing / 2, 1 - changing])[:2]
        pairs = [(0, 1)] * more + [(1, 0)] * less + [(1, 1)] * (256 - more - less)
        refused += abs(more - less) / 256 > paired(pairs, ERROR)
    assert refused / total <= ERROR


@pytest.mark.parametrize(("models", "low", "high"), [(0.5, 0.0005, 0.003), (100.0, 0.05, 0.09)])
def test_how_often_an_honest_number_is_refused(models, low, high) -> None:
    """docs/submit.md says it: three seeds, ``models`` times as far apart as samples are."""
    draws = np.random.default_rng(0)
    refused, total, error = 0, 20_000, 1 / 1000
    for _ in range(total):
        values = error * (models * draws.normal(size=4) + draws.normal(size=4))
        metrics = [
            Metric(value=value, ci_low=value - 1.96 * error, ci_high=value + 1.96 * error)
            for value in map(float, values)
        ]
        limit = within(metrics[0], metrics[3], float(values[:3].var(ddof=1)))
        refused += abs(values[0] - values[3]) > limit
    assert low <= refused / total <= high


def test_an_absent_number_agrees_with_an_absent_one_alone() -> None:
    absent = record(value=None, low=None, high=None)
    assert compare(absent, record(value=None, low=None, high=None, cpu="x"), {}).faults == []
    assert "is absent" in compare(absent, record(cpu="x"), {}).faults[0]


def test_a_cell_that_fails_is_refused_with_its_reason() -> None:
    failed = dataclasses.replace(record(), status="failed", reason="out of memory", metrics={})
    assert compare(record(), failed, {}).faults == ["must be made again, got failed: out of memory"]
    assert "no cell of its source" in compare(record(), None, {}).faults[0]


# --- a run ----------------------------------------------------------------------------------------


def test_a_cell_is_made_again_from_the_source_in_the_bundle(copied, files, store) -> None:
    """By the runner, both values side by side, with a statement beside the bundle."""
    folder = copied("shrink")
    nonce = nonce_of(folder, files, "baddiffusion", 0)
    options = ("--rerun", 1, "--trust", "--nonce", nonce, "--store", store, "--jobs", 1)
    done = verify(folder, files, *options)
    assert done.exit_code == 0, done.output
    assert f"ok           3 1 of 4 cells drawn with the nonce {nonce}" in done.stdout
    assert "made again: " in done.stdout and "made with other " in done.stdout
    path = folder.parent / done.stdout.splitlines()[-1]
    manifest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    written = json.loads(path.read_text())
    assert path.name.startswith("shrink.svr-") and path.parent == folder.parent
    assert written["subject"] == [{"name": "shrink", "digest": {"sha256": manifest}}]
    assert written["predicateType"] == "https://in-toto.io/attestation/svr/v0.2"
    predicate = written["predicate"]
    assert predicate["properties"] == [
        "CASTLEWALLS_LEVEL_1",
        "CASTLEWALLS_RERUN_1_OF_4_PAIRED",
    ]
    (cell,) = predicate["castlewalls_rerun"]["cells"]
    assert cell["numbers"] and cell["faults"] == []
    again = json.loads(verify(folder, files, *options, "--json").stdout)
    assert again["rerun"] == predicate["castlewalls_rerun"], "what is in the store is not made anew"
    assert again["statement"] == str(path)
    assert [one["status"] for one in again["checks"] if one["level"] == 3] == ["ok", "ok"]


def test_a_row_that_was_skipped_for_convenience_can_be_made(copied, files, rewrite, store) -> None:
    """All its seeds agree, and no plugin is asked before its code runs: it is the worst row."""
    folder = copied("shrink")
    rewrite(
        folder,
        lambda one: (
            dataclasses.replace(
                one, status="skipped", reason="invented", metrics={}, series={}, pictures=()
            )
            if (one.attack.name, one.defense.name) == ("baddiffusion", "shrink")
            else one
        ),
    )
    nonce = nonce_of(folder, files, "none", 0)
    options = ("--rerun", 1, "--trust", "--nonce", nonce, "--store", store, "--jobs", 1)
    done = verify(folder, files, *options)
    assert done.exit_code == 1 and "REFUSED      2" not in done.stdout, done.output
    assert "must not be skipped: its source can make it" in done.stdout, done.stdout


def test_on_this_machine_a_digit_that_level_2_allows_is_refused(
    copied, files, rewrite, store
) -> None:
    """Rounding may differ between machines, and nothing may on one."""
    folder = copied("shrink")

    def made(nonce):
        options = ("--rerun", 1, "--trust", "--nonce", nonce, "--store", store, "--jobs", 1)
        return verify(folder, files, *options)

    assert made(nonce_of(folder, files, "baddiffusion", 0)).exit_code == 0
    here = in_store(store, "shrink")

    def as_here(one, by=1.0):
        if (one.attack.name, one.defense.name, one.seed) != ("baddiffusion", "shrink", 0):
            return one
        mse = dataclasses.replace(
            one.metrics["mse[noise]"], value=by * here.metrics["mse[noise]"].value
        )
        return dataclasses.replace(
            one, provenance=here.provenance, metrics=one.metrics | {"mse[noise]": mse}
        )

    rewrite(folder, as_here)
    same = made(nonce_of(folder, files, "baddiffusion", 0))
    assert same.exit_code == 0, same.stdout
    assert f"all {len(here.metrics)} numbers are the same to the last digit" in same.stdout
    rewrite(folder, lambda one: as_here(one, 1 + 1e-8))
    other = made(nonce_of(folder, files, "baddiffusion", 0))
    assert other.exit_code == 1
    assert "REFUSED      3 made again: baddiffusion x shrink, seed 0" in other.stdout
    assert "REFUSED      2" not in other.stdout and "mse[noise]" in other.stdout


def test_scores_that_were_invented_with_their_numbers_are_caught(
    copied, files, rewrite, store
) -> None:
    """What levels 1 and 2 let through: at every seed, or their spread would give room."""
    folder = copied("noise_shift")
    index = json.loads((folder / "data" / "witness.json").read_text())
    outcomes = {}
    for entry in index.values():
        if entry["cell"].startswith("baddiffusion x noise_shift"):
            path = folder / "data" / entry["arrays"]
            arrays = {name: array.copy() for name, array in load(path.read_bytes()).items()}
            arrays["noise:image"][:] = arrays["noise:reference"].max() + 1
            path.write_bytes(save(arrays))
            limit = threshold_at_fpr(arrays["noise:threshold"], FIXED_RATE)
            outcomes[entry["cell"]] = [float(score > limit) for score in arrays["noise:image"]]
    assert len(outcomes) == 2
    contents = contents_of(folder, files)

    def invented(one):
        if cell_words(one) not in outcomes:
            return one
        new = recompute(one, contents.witnesses.of(one))
        metrics = {name: new.metrics[name] for name in new.metrics if name.endswith("[image]")}
        series = {"outcomes[tpr_fixed_threshold[image]]": outcomes[cell_words(one)]}
        return dataclasses.replace(one, metrics=one.metrics | metrics, series=one.series | series)

    rewrite(folder, invented)
    nonce = nonce_of(folder, files, "baddiffusion", 0)
    options = ("--trust", "--nonce", nonce, "--store", store, "--jobs", 1, "--json")
    done = verify(folder, files, "--rerun", 1, *options)
    result = json.loads(done.stdout)
    assert done.exit_code == 1 and not result["passed"]
    assert {one["level"] for one in result["checks"] if one["status"] == "refused"} == {3}
    (cell,) = result["rerun"]["cells"]
    assert cell["rule"] == "paired"
    assert cell["faults"][0].startswith("auroc[image] is 1, and must be as made again, ")
    written = json.loads((folder.parent / result["statement"]).read_text())
    assert written["predicate"]["properties"] == ["CASTLEWALLS_LEVEL_1"]


# --- what is not run ------------------------------------------------------------------------------


def test_nothing_is_run_without_trust(bundles, files) -> None:
    done = verify(bundles["shrink"], files, "--rerun", 1)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "then add --trust" in done.stderr


def test_nothing_is_run_of_a_bundle_that_is_refused(copied, files, rewrite) -> None:
    """Whoever did not even keep its numbers consistent gets no code run."""
    folder = copied("shrink")
    rewrite(folder, lambda one: None if one.defense.name == "shrink" and one.seed else one)
    source = folder / "data" / "plugin" / "shrink.py"
    assert source.exists()
    done = verify(folder, files, "--rerun", 1, "--trust", "--json")
    result = json.loads(done.stdout)
    assert done.exit_code == 1 and result["rerun"] == {}
    assert max(one["level"] for one in result["checks"]) == 2
    assert not [*folder.parent.glob("*.svr-*")]


@pytest.mark.parametrize("name", ["../../../../etc/x.py", "other.py", None, 3, []])
def test_a_module_that_the_bundle_does_not_hold_is_refused(copied, files, seal, name) -> None:
    folder = copied("shrink")
    path = folder / "data" / "plugin.json"
    about = json.loads(path.read_text())
    assert about["plugins"][0]["file"] == "shrink.py"
    about["plugins"][0] |= {"file": name, "name": name if isinstance(name, list) else "shrink"}
    path.write_text(json.dumps(about))
    seal(folder)
    done = verify(folder, files, "--rerun", 1, "--trust")
    assert done.exit_code == 1
    assert "plugin.json must name the module of each plugin" in done.stdout


def test_code_that_is_not_in_the_bundle_cannot_be_run(copied, files, seal) -> None:
    folder = copied("shrink")
    path = folder / "data" / "plugin.json"
    about = json.loads(path.read_text())
    about["files"][0]["carried"] = False
    path.write_text(json.dumps(about))
    (folder / "data" / "plugin" / "shrink.py").unlink()
    seal(folder)
    done = verify(folder, files, "--rerun", 1, "--trust")
    assert done.exit_code == 1
    assert "shrink.py is in the bundle by its hash alone" in done.stdout
