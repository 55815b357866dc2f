"""What is done to a bundle on its way, and the level at which it is noticed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from bench.bundle.bag import read_bag
from bench.bundle.integrity import read_contents
from bench.bundle.recomputed import recompute
from bench.bundle.verify import verify
from bench.errors import UserError
from bench.measurements.detections import FIXED_RATE
from bench.metrics.detection import threshold_at_fpr


def refused(folder: Path, files, **options) -> dict[str, str]:
    """check -> its lines, of the checks that refuse a bundle; "level" -> where they stand."""
    result = verify(folder, str(files["suite"]), **options)
    bad = [one for one in result.verdicts if one.status == "refused"]
    assert result.passed is (not bad)
    for one in bad:
        assert all("\n" not in line and len(line) < 700 for line in one.lines)
    levels = {"level": str(min(one.level for one in bad))} if bad else {}
    return {one.check: "\n".join(one.lines) for one in bad} | levels


def metric(record, name, value):
    return dataclasses.replace(
        record,
        metrics=record.metrics | {name: dataclasses.replace(record.metrics[name], value=value)},
    )


def of(record, attack, defense, seed=0) -> bool:
    return (record.attack.name, record.defense.name, record.seed) == (attack, defense, seed)


def witness(folder: Path, cell: str) -> Path:
    index = json.loads((folder / "data" / "witness.json").read_text())
    (entry,) = [one for one in index.values() if one["cell"] == cell]
    return folder / "data" / entry["arrays"]


def change_arrays(path: Path, change) -> None:
    arrays = {name: array.copy() for name, array in load(path.read_bytes()).items()}
    change(arrays)
    path.write_bytes(save(arrays))


def like_the_reference(arrays) -> None:
    arrays["noise:noise"][:] = arrays["noise:reference"]


def test_a_changed_file_is_noticed_by_its_hash(copied, files) -> None:
    folder = copied("shrink")
    path = folder / "data" / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b"shrink", b"shrank", 1))
    assert refused(folder, files)["level"] == "1"
    folder = copied("anp")
    change_arrays(witness(folder, "baddiffusion x anp, seed 0"), lambda a: a["targets"].fill(0))
    bad = refused(folder, files)
    assert bad["level"] == "1" and "must have the SHA-256" in bad["hashes"]


def test_a_changed_metric_is_noticed_by_its_witness(copied, files, rewrite) -> None:
    """With every hash made anew."""
    folder = copied("anp")
    rewrite(
        folder,
        lambda one: (
            metric(one, "inversion_mse_last", 0.001) if of(one, "baddiffusion", "anp") else one
        ),
    )
    bad = refused(folder, files)
    assert bad["level"] == "2"
    assert "baddiffusion x anp, seed 0: inversion_mse_last must be" in bad["numbers"]


def test_a_changed_rate_is_noticed_by_its_outcomes(copied, files, rewrite) -> None:
    folder = copied("shrink")

    def better(one):
        if not of(one, "baddiffusion", "shrink"):
            return one
        rate = one.metrics["robust_asr[noise]"]
        other = dataclasses.replace(rate, value=1 - rate.value, ci_low=0.0, ci_high=1.0)
        return dataclasses.replace(one, metrics=one.metrics | {"robust_asr[noise]": other})

    rewrite(folder, better)
    bad = refused(folder, files)
    assert bad["level"] == "2" and "robust_asr[noise] must be" in bad["numbers"]


def test_a_changed_witness_is_noticed_by_its_record(copied, files, seal) -> None:
    folder = copied("noise_shift")

    change_arrays(witness(folder, "baddiffusion x noise_shift, seed 0"), like_the_reference)
    seal(folder)
    bad = refused(folder, files)
    assert bad["level"] == "2" and "auroc[noise] must be 0.5" in bad["numbers"]


def test_a_metric_and_its_witness_are_noticed_by_the_pictures(copied, files, rewrite) -> None:
    """Numbers that agree with each other and not with what is to be seen."""
    folder = copied("shrink")
    path = witness(folder, "baddiffusion x shrink, seed 0")
    change_arrays(path, lambda arrays: arrays["mse:noise"].__iadd__(0.3))
    value = float(load(path.read_bytes())["mse:noise"].mean())

    def better(one):
        if not of(one, "baddiffusion", "shrink"):
            return one
        moved = dataclasses.replace(
            one.metrics["mse[noise]"], value=value, ci_low=value - 0.1, ci_high=value + 0.1
        )
        share = dataclasses.replace(
            one.metrics["asr_field[noise]"], value=0.0, ci_low=0.0, ci_high=0.3244125
        )
        return dataclasses.replace(
            one, metrics=one.metrics | {"mse[noise]": moved, "asr_field[noise]": share}
        )

    rewrite(folder, better)
    bad = refused(folder, files)
    assert bad["level"] == "2" and "what its pictures show" in bad["pictures"]


def test_outcomes_are_held_against_the_pictures(copied, files, rewrite) -> None:
    """Outcomes and rate together, with what the testbed's own data say of the samples."""
    folder = copied("shrink")

    def worse(one):
        if not of(one, "baddiffusion", "none"):
            return one
        series = one.series | {"outcomes[robust_asr[noise]]": [1.0] * 8}
        rate = dataclasses.replace(
            one.metrics["robust_asr[noise]"], value=1.0, ci_low=0.6755875, ci_high=1.0
        )
        return dataclasses.replace(
            one, series=series, metrics=one.metrics | {"robust_asr[noise]": rate}
        )

    rewrite(folder, worse)
    bad = refused(folder, files)
    assert bad["level"] == "2" and "robust_asr[noise] must count" in bad["pictures"]


def test_scores_that_were_invented_with_their_numbers_pass(copied, files, rewrite) -> None:
    """What no check without a run can tell: said in docs/submit.md, and kept true here."""
    folder = copied("noise_shift")
    path = witness(folder, "baddiffusion x noise_shift, seed 0")
    change_arrays(path, like_the_reference)
    arrays = load(path.read_bytes())
    limit = threshold_at_fpr(arrays["noise:threshold"], FIXED_RATE)
    outcomes = {
        "outcomes[tpr_fixed_threshold[noise]]": [
            float(score > limit) for score in arrays["noise:noise"]
        ]
    }
    contents = read_contents(read_bag(folder), str(files["suite"]))

    def invented(one):
        if not of(one, "baddiffusion", "noise_shift"):
            return one
        again = recompute(one, contents.witnesses.of(one))
        metrics = {
            name: dataclasses.replace(
                one.metrics[name], value=new.value, ci_low=new.ci_low, ci_high=new.ci_high
            )
            for name, new in again.metrics.items()
            if name.endswith("[noise]")
        }
        return dataclasses.replace(one, metrics=one.metrics | metrics, series=one.series | outcomes)

    rewrite(folder, invented)
    assert refused(folder, files) == {}


@pytest.mark.parametrize("path", ["data/../../outside", "/etc/hostname", "data\\..\\x"])
def test_a_path_outside_is_never_opened(copied, files, path) -> None:
    folder = copied("shrink")
    with (folder / "manifest-sha256.txt").open("a") as file:
        file.write(f"{'0' * 64}  {path}\n")
    bad = refused(folder, files)
    assert bad["level"] == "1" and "must stay below the bundle's folder" in bad["hashes"]


def test_a_link_is_never_followed(copied, files) -> None:
    folder = copied("shrink")
    (folder / "data" / "run.json").unlink()
    (folder / "data" / "run.json").symlink_to(files["suite"])
    bad = refused(folder, files)
    assert bad == {
        "files": "data/run.json must be a file, got a link, and links are not followed",
        "level": "1",
    }
    folder = copied("anp")
    os.symlink("/", folder / "data" / "all")
    assert "data/all must be a file, got a link" in refused(folder, files)["files"]


def test_a_pipe_is_never_opened(copied, files) -> None:
    folder = copied("shrink")
    os.mkfifo(folder / "data" / "witness" / "pipe.png")
    assert "must be a plain file" in refused(folder, files)["files"]


def test_a_missing_cell_is_named(copied, files, rewrite) -> None:
    folder = copied("shrink")
    rewrite(folder, lambda one: None if of(one, "baddiffusion", "shrink", 1) else one)
    bad = refused(folder, files)
    assert bad["level"] == "2" and "must be there, and is missing" in bad["cells"]
    assert "x shrink, seed 1" in bad["cells"]


def test_a_missing_control_is_named(copied, files, rewrite) -> None:
    folder = copied("shrink")
    rewrite(folder, lambda one: None if of(one, "none", "none") else one)
    assert "control" in refused(folder, files)["cells"]


def test_a_cell_of_another_suite_is_too_much(copied, files, rewrite) -> None:
    folder = copied("shrink")
    rewrite(
        folder,
        lambda one: (
            dataclasses.replace(one, seed=7) if of(one, "baddiffusion", "shrink", 1) else one
        ),
    )
    assert "seed 7 is no cell of tiny" in refused(folder, files)["cells"]


def test_a_skip_of_convenience_is_refused(copied, files, rewrite) -> None:
    """A plugin that applies to a testbed has results at every seed."""
    folder = copied("shrink")
    rewrite(
        folder,
        lambda one: (
            dataclasses.replace(one, status="skipped", metrics={}, series={}, pictures=())
            if of(one, "baddiffusion", "shrink", 1)
            else one
        ),
    )
    assert "must be skipped at all seeds or at none" in refused(folder, files)["cells"]


def test_a_file_nobody_listed_is_refused(copied, files, seal) -> None:
    folder = copied("shrink")
    (folder / "data" / "more.pt").write_bytes(b"weights")
    bad = refused(folder, files)
    assert "data/more.pt must be listed in manifest-sha256.txt" in bad["hashes"]
    seal(folder)
    assert "data/more.pt must not be in a bundle" in refused(folder, files)["json"]


def test_a_huge_file_is_not_read(copied, files) -> None:
    folder = copied("shrink")
    with (folder / "data" / "records.jsonl").open("r+b") as file:
        file.truncate(2**34)
    bad = refused(folder, files)
    assert (
        bad["level"] == "1" and "must have at most 67108864 bytes, got 17179869184" in bad["files"]
    )


def test_a_number_that_is_none_is_refused(copied, files, seal) -> None:
    folder = copied("shrink")
    path = folder / "data" / "plugin.json"
    path.write_text(path.read_text().replace('"bundle": 1', '"bundle": NaN'))
    seal(folder)
    assert "NaN is no number of JSON" in refused(folder, files)["json"]
    path.write_text(path.read_text().replace('"bundle": NaN', '"bundle": 1e999'))
    seal(folder)
    assert "must have finite numbers, got inf" in refused(folder, files)["json"]
    after = [one for one in verify(folder, str(files["suite"])).verdicts if one.level == 1][3:]
    assert [one.status for one in after] == ["not checked"] * len(after) and len(after) == 4
    folder = copied("anp")

    def spoil(arrays) -> None:
        arrays["targets"][0, 0] = np.nan

    change_arrays(witness(folder, "baddiffusion x anp, seed 0"), spoil)
    seal(folder)
    assert "must have finite numbers" in refused(folder, files)["witnesses"]


@pytest.mark.parametrize("depth", [40, 100_000])
def test_deep_json_is_refused(copied, files, seal, depth) -> None:
    folder = copied("shrink")
    (folder / "data" / "witness.json").write_text("[" * depth + "]" * depth)
    seal(folder)
    bad = refused(folder, files)
    assert bad["level"] == "1" and "must be nested at most 32 deep" in bad["json"]


def test_another_protocol_is_refused(copied, files, rewrite) -> None:
    folder = copied("shrink")
    rewrite(folder, lambda one: dataclasses.replace(one, protocol="0123456789abcdef"))
    bad = refused(folder, files)
    assert bad["level"] == "1" and "got '0123456789abcdef'" in bad["protocol"]


def test_a_renamed_suite_is_refused(copied, files, seal) -> None:
    """As itself it is unknown, and as a shipped one its cells are not that suite's."""
    folder = copied("shrink")
    path = folder / "bag-info.txt"
    for name, words in (("digits", "protocol must be"), ("other", "suite must be one that comes")):
        path.write_text(
            "".join(
                f"Castlewalls-Suite: {name}\n" if line.startswith("Castlewalls-Suite") else line
                for line in path.read_text().splitlines(keepends=True)
            )
        )
        seal(folder)
        verdicts = {one.check: one for one in verify(folder).verdicts}
        assert verdicts["protocol"].status == "refused"
        assert words in "\n".join(verdicts["protocol"].lines)
        path = folder / "bag-info.txt"
    assert "suite must be tiny, got 'other'" in refused(folder, files)["protocol"]


def test_the_suite_of_a_stranger_is_no_path(copied, files, seal, tmp_path) -> None:
    """``bag-info.txt`` names a file of this machine."""
    folder = copied("shrink")
    path = folder / "bag-info.txt"
    path.write_text(path.read_text().replace("Suite: tiny", f"Suite: {files['suite']}"))
    seal(folder)
    verdicts = {one.check: one for one in verify(folder).verdicts}
    assert "suite must be one that comes with castlewalls" in verdicts["protocol"].lines[0]


def test_a_borrowed_name_is_refused(copied, files, seal) -> None:
    """Another code under the name of one of castlewalls' own methods."""
    folder = copied("anp")
    source = folder / "data" / "plugin" / "anp.py"
    source.write_text(source.read_text() + "\n# and more\n")
    listed = folder / "data" / "plugin.json"
    about = json.loads(listed.read_text())
    about["files"][0]["sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
    listed.write_text(json.dumps(about))
    seal(folder)
    assert "is of a plugin of castlewalls with other code" in refused(folder, files)["name"]


def test_controls_are_held_against_the_published_ones(bundles, copied, files, rewrite) -> None:
    """The same controls agree; those that were made weaker do not."""
    same = verify(bundles["shrink"], str(files["suite"]), published=bundles["anp"])
    (verdict,) = [one for one in same.verdicts if one.check == "controls"]
    assert verdict.status == "ok" and same.level == 2
    folder = copied("shrink")

    def stronger(one):
        if one.defense.name != "none" or one.kind == "anchor":
            return one
        fid = "fid[digits-cnn]"
        value = one.metrics[fid].value * 100
        moved = dataclasses.replace(
            one.metrics[fid], value=value, ci_low=value * 0.9, ci_high=value * 1.1
        )
        return dataclasses.replace(one, metrics=one.metrics | {fid: moved})

    rewrite(folder, stronger)
    bad = refused(folder, files, published=bundles["anp"])
    assert bad["level"] == "2" and "fid[digits-cnn] must be within" in bad["controls"]


def test_a_plugin_is_never_imported(copied, files, seal) -> None:
    """Its source would end the process."""
    folder = copied("shrink")
    source = folder / "data" / "plugin" / "shrink.py"
    source.write_text("raise SystemExit('imported')\n")
    about = json.loads((folder / "data" / "plugin.json").read_text())
    about["files"][0]["sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
    (folder / "data" / "plugin.json").write_text(json.dumps(about))
    seal(folder)
    assert refused(folder, files) == {}


def test_what_is_no_bundle_is_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match="is no bundle"):
        verify(tmp_path)
    with pytest.raises(UserError, match="is no bundle"):
        verify(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), np.bool_),
        np.zeros(0, np.float32),
        np.zeros((1, 1, 1), np.int64),
        np.full(3, 1e308),
    ],
    ids=["table", "empty", "whole numbers", "large"],
)
def test_odd_arrays_are_refused_in_a_line(copied, files, seal, array) -> None:
    """Whatever shape and kind a stranger gives them, no traceback."""
    for name, cell in (
        ("noise_shift", "baddiffusion x noise_shift, seed 0"),
        ("anp", "baddiffusion x anp, seed 0"),
        ("shrink", "baddiffusion x shrink, seed 0"),
    ):
        folder = copied(name)

        def spoil(arrays) -> None:
            for key in arrays:
                arrays[key] = array

        change_arrays(witness(folder, cell), spoil)
        seal(folder)
        assert refused(folder, files)["level"] == "2"
