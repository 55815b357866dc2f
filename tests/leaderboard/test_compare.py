"""Two boards or two entries: differences are paired, of one protocol, in the right direction, and
what only one side has is said.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from click.testing import CliRunner

from bench.cli import cli
from bench.errors import UserError
from bench.record import Metric, PluginSpec, Record, read_runs
from leaderboard.aggregate import paired_difference, share_difference
from leaderboard.board import boards
from leaderboard.compare import Difference, compare, lines, paired, read_side
from leaderboard.export import packed
from leaderboard.report import build
from leaderboard.site import build_site

MakeStore = Callable[..., Path]
FID = "fid[digits-cnn]"


@pytest.fixture(scope="module")
def better(make_store: MakeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic store with a clip_x0 whose FID is lower by 1 at every seed."""

    def lower(record: Record) -> Record:
        if record.defense.name != "clip_x0":
            return record
        fid = record.metrics["fid[digits-cnn]"]
        assert fid.value is not None
        metrics = record.metrics | {
            "fid[digits-cnn]": dataclasses.replace(
                fid, value=fid.value - 1, ci_low=None, ci_high=None
            )
        }
        return dataclasses.replace(record, metrics=metrics)

    return make_store(tmp_path_factory.mktemp("better") / "store", lower)


def _of(differences: Sequence[Difference], **fields: Any) -> list[Difference]:
    return [
        one
        for one in differences
        if all(getattr(one, name) == value for name, value in fields.items())
    ]


def test_a_lower_fid_is_better_and_nothing_else_differs(store: Path, better: Path) -> None:
    result = compare(read_side(str(store)), read_side(str(better)))
    changed = [one for one in result.differences if one.difference != 0]
    assert {(one.defense, one.metric) for one in changed} == {("clip_x0", "fid[digits-cnn]")}
    assert len(changed) == 4 and all(one.better is True and one.seeds == 3 for one in changed)
    assert all(abs(one.difference + 1) < 1e-9 for one in changed)
    assert all(abs(one.second - one.first - one.difference) < 1e-9 for one in changed)
    assert result.equal == len(result.differences) - 4 and result.alone == ()
    back = compare(read_side(str(better)), read_side(str(store)))
    assert [one.better for one in back.differences if one.difference != 0] == [False] * 4


def test_a_boards_json_says_the_same_as_its_store(
    store: Path, better: Path, tmp_path: Path
) -> None:
    build(better, tmp_path / "board.html")
    from_store = compare(read_side(str(store)), read_side(str(better)))
    from_json = compare(read_side(str(store)), read_side(str(tmp_path / "board.json")))
    assert from_json.differences == from_store.differences


def test_a_sites_packed_json_says_the_same_as_its_results(
    store: Path, better: Path, tmp_path: Path
) -> None:
    build_site(read_runs(better), None, tmp_path)
    from_store = compare(read_side(str(store)), read_side(str(better)))
    from_site = compare(read_side(str(store)), read_side(str(tmp_path / "board.json.zip")))
    assert from_site.differences == from_store.differences


def test_two_entries_are_compared_against_each_attack_that_both_met(store: Path) -> None:
    result = compare(read_side(f"{store}::clip_x0"), read_side(f"{store}::clip_xt"))
    assert {one.defense for one in result.differences} == {"clip_xt less clip_x0"}
    assert not any("target=corner" in one.attack for one in _attacked(result.differences))
    assert [line for line in result.alone if "target=corner" in line], "clip_xt failed there"
    (fid,) = _of(_attacked(result.differences), metric="fid[digits-cnn]")
    (board,) = boards(read_runs(store))
    cells = {
        cell.defense.name: cell
        for cell in board.cells.values()
        if cell.attack.params.get("target") == "hat"
    }
    wanted = paired_difference(
        cells["clip_xt"].values("fid[digits-cnn]"), cells["clip_x0"].values("fid[digits-cnn]")
    )
    assert wanted is not None
    assert (fid.difference, fid.low, fid.high) == (wanted.mean, wanted.low, wanted.high)
    assert fid.better is False and fid.higher_is_better is False


def _attacked(differences: Sequence[Difference]) -> list[Difference]:
    return [one for one in differences if not one.attack.startswith("no attack")]


def test_shares_are_paired_by_sample_where_outcomes_are_known(
    make_store: MakeStore, tmp_path: Path
) -> None:
    def outcomes(record: Record) -> Record:
        count = {"none": 100, "clip_x0": 90}.get(record.defense.name, 64) + record.seed
        hits = [1.0] * count + [0.0] * (128 - count)
        metric = Metric(value=count / 128, n=128, unit="share", higher_is_better=False)
        return dataclasses.replace(
            record,
            metrics=record.metrics | {"robust_asr[noise]": metric},
            series={"outcomes[robust_asr[noise]]": hits},
        )

    store = make_store(tmp_path / "store", outcomes)
    (board,) = boards(read_runs(store))
    none, clip = (
        next(
            cell
            for cell in board.cells.values()
            if cell.defense.name == name and cell.attack.params.get("target") == "hat"
        )
        for name in ("none", "clip_x0")
    )
    metric = "robust_asr[noise]"
    both = {seed: (clip.outcomes(metric)[seed], none.outcomes(metric)[seed]) for seed in range(3)}
    wanted = share_difference(clip.shares(metric), none.shares(metric), both)
    plain = share_difference(clip.shares(metric), none.shares(metric))
    assert paired(clip, none, metric) == wanted != plain
    (one,) = _of(
        _attacked(
            compare(
                read_side(f"{store}::none"), read_side(f"{store}::clip_x0"), [metric]
            ).differences
        ),
        attack="baddiffusion(trigger=grey_box, target=hat, poison_rate=0.1)",
    )
    assert wanted is not None and (one.low, one.high) == (wanted.low, wanted.high)


def test_protocols_are_kept_apart(store: Path, make_store: MakeStore, tmp_path: Path) -> None:
    other = make_store(
        tmp_path / "store", lambda record: dataclasses.replace(record, protocol="other")
    )
    with pytest.raises(UserError, match="no cell in common: digits-ddpm is under protocol"):
        compare(read_side(str(store)), read_side(str(other)))
    result = compare(read_side(str(store)), read_side(str(other)), across_protocols=True)
    assert result.differences and result.equal == len(result.differences)


def test_both_means_are_of_the_seeds_that_the_difference_is_of(
    store: Path, make_store: MakeStore, tmp_path: Path
) -> None:
    """A number that one seed lacks on one side: 2.1 -> 2.4, and a difference of +0.1."""

    def lacking(record: Record) -> Record:
        if record.seed != 2:
            return record
        return dataclasses.replace(record, metrics=record.metrics | {FID: Metric(value=None)})

    other = make_store(tmp_path / "other", lacking)
    ours = [one for one in compare(read_side(str(store)), read_side(str(other))).differences]
    fids = _of(ours, metric=FID)
    assert fids and {one.seeds for one in fids} <= {1, 2}
    assert all(one.second - one.first == pytest.approx(one.difference) for one in fids)


def test_few_seeds_show_nothing(make_store: MakeStore, tmp_path: Path) -> None:
    def two(record: Record) -> Record:
        return dataclasses.replace(record, status="failed") if record.seed == 2 else record

    store = make_store(tmp_path / "store", two)
    result = compare(read_side(f"{store}::none"), read_side(f"{store}::clip_x0"))
    assert result.differences and {one.seeds for one in result.differences} == {2}
    assert all(one.better is None for one in result.differences)


def test_the_command_prints_lines_and_json(store: Path, better: Path) -> None:
    done = CliRunner().invoke(cli, ["compare", str(store), str(better), "--metrics", "fid"])
    assert done.exit_code == 0, done.output
    text = done.stdout.splitlines()
    assert text[-1].endswith("4 better for the defender, 0 worse, 11 the same to the last digit")
    assert sum(line.startswith("+ -1 [") for line in text) == 4
    assert all("fid[digits-cnn]" in line for line in text[:-1])
    arguments = ["compare", "clip_x0", "clip_xt", "--within", str(store), "--json"]
    document = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert document["schema"] == 1 and document["first"] == "clip_x0"
    assert {"difference", "low", "high", "seeds", "better"} <= document["differences"][0].keys()


def test_what_of_a_side_cannot_be_read_is_said(store: Path, tmp_path: Path) -> None:
    """A record that is damaged was left out without a word: the difference was of fewer cells."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(store, spoilt)
    ((path, _), *_) = read_runs(spoilt)[0].records
    (path / "record.json").write_text("{")
    done = CliRunner().invoke(cli, ["compare", str(store), str(spoilt), "--json"])
    assert done.exit_code == 0, done.output
    before, damaged, after = done.stderr.splitlines()
    assert damaged.startswith(f"castlewalls: {spoilt}: ") and "its record cannot be used" in damaged
    for one, side in ((before, store), (after, spoilt)):
        assert (
            one.startswith(f"castlewalls: {side}: ") and " seed 0 has no numbers: failed, " in one
        )
    document = json.loads(done.stdout)
    assert document["problems"] == [
        one.removeprefix("castlewalls: ") for one in (before, damaged, after)
    ]


def test_a_metric_that_neither_has_is_named(store: Path, better: Path) -> None:
    """No difference was found, and the exit code was 0."""
    arguments = ["compare", str(store), str(better), "--metrics", "fid,robust_as"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2 and done.output.count("\n") == 1
    assert "--metrics: unknown metric 'robust_as'" in done.output


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("absent", "{}", "there is no store, results or board at absent|no source and no entry"),
        ("{}::absent", "{}", "has no entry absent \\(it has "),
        ("{}/board.txt", "{}", "cannot be read as a board: "),
        ("{}/list.json", "{}", "cannot be read as a board: it is no board's JSON of schema 1"),
        ("{}/odd.json", "{}", "cannot be read as a board: "),
        ("{}/board.txt.zip", "{}", "cannot be read as a board: .*zip"),
        ("{}/two.zip", "{}", "cannot be read as a board: it must hold one file, got 2"),
        ("{}/cut.zip", "{}", "cannot be read as a board: "),
        ("{}/damaged.zip", "{}", "cannot be read as a board: "),
        ("{}/locked.zip", "{}", "cannot be read as a board: .*password"),
        ("{}/large.zip", "{}", "cannot be read as a board: it has more than 1000 bytes"),
    ],
)
def test_bad_input_is_one_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str,
    message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("leaderboard.compare.MAX_BOARD", 1000)
    _write_archives(tmp_path)
    (tmp_path / "board.txt").write_bytes(b"\xff")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "odd.json").write_text('{"schema": 1, "runs": [{"records": [3]}]}')
    where = [
        text.format(tmp_path if "/" in text.replace("{}", "") else store)
        for text in (first, second)
    ]
    done = CliRunner().invoke(cli, ["compare", *where, "--within", str(store)])
    assert done.exit_code == 2 and len(done.output.splitlines()) == 1
    with pytest.raises(UserError, match=message):
        compare(*(read_side(text, read_runs(store)) for text in where))


def _write_archives(folder: Path) -> None:
    """What is no packed board: no archive, of two files, cut short, damaged, locked, too large."""
    (folder / "board.txt.zip").write_bytes(b"no archive")
    whole = packed("board.json", '{"schema": 1, "runs": []}' + " " * 400)
    (folder / "cut.zip").write_bytes(whole[:60])
    at = whole.index(b"board.json") + len("board.json")
    (folder / "damaged.zip").write_bytes(whole[:at] + b"\xff" * 12 + whole[at + 12 :])
    # The first bit of a file's flags: encrypted. It stands in the file's head and in the directory.
    locked = bytearray(whole)
    locked[6] |= 1
    locked[whole.index(b"PK\x01\x02") + 8] |= 1
    (folder / "locked.zip").write_bytes(locked)
    (folder / "large.zip").write_bytes(packed("board.json", " " * 1001))
    with ZipFile(folder / "two.zip", "w") as archive:
        archive.writestr("a.json", "{}")
        archive.writestr("b.json", "{}")


def test_a_name_that_several_entries_have_needs_its_parameters(
    make_store: MakeStore, tmp_path: Path
) -> None:
    def renamed(record: Record) -> Record:
        if record.defense.name != "clip_xt":
            return record
        spec = PluginSpec(name="clip_x0", params={"limit": 2}, label="clip_x0(limit=2)")
        return dataclasses.replace(record, defense=spec)

    store = make_store(tmp_path / "store", renamed)
    with pytest.raises(UserError, match="clip_x0 is the name of 2 entries"):
        compare(read_side(f"{store}::clip_x0"), read_side(f"{store}::none"))
    result = compare(read_side(f"{store}::none"), read_side(f"{store}::clip_x0(limit=2)"))
    assert result.differences


def test_hostile_words_stay_on_their_line(make_store: MakeStore, tmp_path: Path) -> None:
    def hostile(record: Record) -> Record:
        label = f"{record.attack.name}(\x1b[2J\n\u202e)"
        return dataclasses.replace(record, attack=dataclasses.replace(record.attack, label=label))

    store = make_store(tmp_path / "store", hostile)
    for line in lines(compare(read_side(str(store)), read_side(str(store)))):
        assert line.isprintable()
