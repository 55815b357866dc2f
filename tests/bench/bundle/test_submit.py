"""A column out of a store: what its bundle holds, always the same bytes, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from safetensors.numpy import load

from bench.bundle.crate import Description
from bench.bundle.source import _commit
from bench.bundle.submit import submit
from bench.bundle.verify import verify
from bench.errors import UserError
from bench.results import read_source


def made(files, tmp_path, name="shrink", **options):
    return submit(
        name,
        str(files["suite"]),
        files["store"],
        plugins=[files["plugin"]],
        output=tmp_path / "bundle",
        **{"dirty": True} | options,
    )


@pytest.mark.parametrize("name", ["shrink", "anp", "noise_shift"])
def test_what_is_submitted_is_verified(bundles, files, name) -> None:
    """Every kind of column comes back whole, and most of its numbers follow from its witnesses."""
    result = verify(bundles[name], str(files["suite"]))
    refused = [line for one in result.verdicts if one.status == "refused" for line in one.lines]
    assert refused == []
    assert result.passed
    by_check = {one.check: one for one in result.verdicts}
    counted, total = map(int, re.findall(r"\d+", by_check["numbers"].lines[0])[:2])
    assert counted / total > 0.6
    assert by_check["controls"].status == "not checked"  # a tiny suite is published nowhere


def test_a_bundle_holds_the_column_its_controls_and_no_other(bundles) -> None:
    (run,) = read_source(bundles["shrink"] / "data")
    assert {record.defense.name for _, record in run.records} == {"none", "shrink"}
    assert run.counts["ok"] == len(run.records) == 12
    text = (bundles["shrink"] / "data" / "plugin" / "shrink.py").read_text()
    assert "predicted_x0 * 0.5" in text


def test_scores_come_with_what_tells_them_apart(bundles) -> None:
    """Without the clean sets an AUROC could not be calculated again."""
    index = json.loads((bundles["noise_shift"] / "data" / "witness.json").read_text())
    (entry, *_) = [
        one for one in index.values() if one["cell"] == "baddiffusion x noise_shift, seed 0"
    ]
    arrays = load((bundles["noise_shift"] / "data" / entry["arrays"]).read_bytes())
    assert {"noise:reference", "noise:threshold", "noise:noise", "noise:clean"} <= set(arrays)


def test_the_same_store_gives_the_same_bytes(files, bundles, tmp_path) -> None:
    again = made(files, tmp_path).folder
    for path in sorted(bundles["shrink"].rglob("*")):
        if path.is_file():
            other = again / path.relative_to(bundles["shrink"])
            assert other.read_bytes() == path.read_bytes(), path.name
    assert len(list(again.rglob("*"))) == len(list(bundles["shrink"].rglob("*")))


def test_a_dry_run_writes_nothing(files, tmp_path) -> None:
    result = made(files, tmp_path, dry_run=True)
    assert (result.cells["ok"], result.missing, result.sha256) == (12, 0, "")
    assert not result.folder.exists()


def test_a_folder_that_is_there_is_left_alone(files, tmp_path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(UserError, match="is there already"):
        made(files, tmp_path)


def test_missing_cells_are_refused_with_the_command_that_makes_them(files, tmp_path) -> None:
    """A defense that the store has never met lacks its column, and has its controls."""
    with pytest.raises(UserError) as caught:
        made(files, tmp_path, name="clip_x0")
    text = str(caught.value)
    assert "of 12 cells of its column and the controls, 4 missing" in text
    assert f"castlewalls run {files['suite']} --defenses clip_x0 --detectors none" in text
    assert "\n" not in text
    assert made(files, tmp_path, name="clip_x0", incomplete=True).missing == 4
    result = verify(tmp_path / "bundle", str(files["suite"]))
    assert not result.passed


def test_a_card_that_is_still_to_be_written_is_refused_first(files, tmp_path) -> None:
    """Published, it would be cited as FILL IN; and the column is only made anew once."""
    mine = tmp_path / "shrink.py"
    paper = 'paper=Paper(title="FILL IN", authors="A. Author", year=2026)'
    code = files["plugin"].read_text().replace("Card, Sampler", "Card, Paper, Sampler")
    mine.write_text(code.replace('image")', f'image", {paper})'))
    arguments = ("shrink", str(files["suite"]), files["store"])
    with pytest.raises(UserError, match="card of shrink still says FILL IN as its paper's title"):
        submit(*arguments, plugins=[mine], dirty=True)
    allowed = submit(*arguments, plugins=[mine], dirty=True, incomplete=True, dry_run=True)
    assert allowed.missing == 4


def test_an_edited_plugin_has_no_results(files, tmp_path) -> None:
    """Keys follow the code: a bundle's source is what made its numbers."""
    mine = tmp_path / "mine"
    mine.mkdir()
    edited = mine / "shrink.py"
    edited.write_text(files["plugin"].read_text().replace("0.5", "0.4"))
    with pytest.raises(UserError, match="4 missing"):
        submit("shrink", str(files["suite"]), files["store"], plugins=[edited], dirty=True)


def test_code_without_a_commit_is_refused_unless_allowed(files, tmp_path) -> None:
    copy = tmp_path / "copied"
    shutil.copytree(files["plugin"].parent, copy, ignore=shutil.ignore_patterns(".git"))
    with pytest.raises(UserError, match=r"shrink\.py is in no git"):
        submit("shrink", str(files["suite"]), files["store"], plugins=[copy / "shrink.py"])


def test_code_that_git_was_told_to_leave_out_is_not_committed(tmp_path) -> None:
    """Nor does a checkout's own program run when its state is read."""
    mine = tmp_path / "checkout" / "mine.py"
    mine.parent.mkdir()
    mine.write_text("x = 1\n")

    def git(*words: str) -> str:
        known = ("-c", "user.name=a", "-c", "user.email=b@example.org")
        command = ["git", "-C", str(mine.parent), *known, *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    for words in (("init",), ("add", "mine.py"), ("commit", "-m", "one")):
        git(*words)
    assert _commit(mine.parent, [mine])[1] == ""
    # Another commit in place of this one, as `git replace` has it, is not this one.
    first = git("rev-parse", "HEAD")
    mine.write_text("x = 3\n")
    git("commit", "-a", "-m", "two")
    second = git("rev-parse", "HEAD")
    git("reset", "--soft", first)
    git("replace", first, second)
    assert _commit(mine.parent, [mine]) == ("", "mine.py has changes that are not committed")
    git("replace", "-d", first)
    mine.write_text("x = 1\r\n")
    assert "line ends" in _commit(mine.parent, [mine])[1]
    mine.write_text("x = 1\n")
    git("add", "mine.py")
    assert _commit(mine.parent, [mine])[1] == ""
    git("update-index", "--assume-unchanged", "mine.py")
    git("config", "core.fsmonitor", f"touch {tmp_path / 'ran'}; false")
    mine.write_text("x = 2\n")
    assert _commit(mine.parent, [mine]) == ("", "mine.py has changes that are not committed")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_stage_is_named_and_nothing_is_made_of_it(files, tmp_path) -> None:
    store = tmp_path / "store"
    shutil.copytree(files["store"], store)
    samples = list(store.glob("stages/*/*/images.npz"))
    assert samples
    for path in samples:
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="cannot be used"):
        made(files | {"store": store}, tmp_path)
    assert not (tmp_path / "bundle").exists()


def test_an_unknown_column_is_one_line(files, tmp_path) -> None:
    with pytest.raises(UserError, match="did you mean 'shrink'"):
        made(files, tmp_path, name="shrinc")


def test_the_crate_says_who_and_from_what(files, tmp_path) -> None:
    described = Description(
        authors=("Ada L. <ada@example.org>", "Bo (0000-0001-2345-6789)"),
        licence="Apache-2.0",
        paper="10.1000/182",
    )
    folder = made(files, tmp_path, description=described).folder
    graph = json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]
    by_id = {one["@id"]: one for one in graph}
    root = by_id["./"]
    assert root["license"] == {"@id": "https://spdx.org/licenses/Apache-2.0"}
    assert [by_id[one["@id"]]["name"] for one in root["author"]] == ["Ada L.", "Bo"]
    assert root["citation"] == [{"@id": "https://doi.org/10.1000/182"}]
    assert {one["@id"] for one in root["hasPart"]} <= set(by_id)
    kinds = [one["@type"] for one in graph]
    assert "IndividualProduct" in kinds and "SoftwareApplication" in kinds
