"""Several stores and results folders on one board: who is shown, who is named, who stands apart."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.export import export
from bench.record import Metric, PluginSpec, Record, Run
from bench.results import read_results
from leaderboard.board import Board, boards
from leaderboard.ranking import rankings
from leaderboard.report import build, render
from leaderboard.sources import compared, read_sources

MakeStore = Callable[..., Path]
METRIC = "asr[noise]"


@pytest.fixture
def published(store: Path, tmp_path: Path) -> Path:
    """The store's suite as results."""
    export(store, "digits", tmp_path / "results", partial=True)
    return tmp_path / "results"


def lowered(record: Record) -> Record:
    """As someone's machine has it who got better numbers for one cell."""
    if (record.defense.name, record.seed, record.attack.name) != ("clip_x0", 0, "baddiffusion"):
        return record
    metrics = {
        name: dataclasses.replace(metric, value=0.001953125, ci_low=None, ci_high=None)
        if name == METRIC
        else metric
        for name, metric in record.metrics.items()
    }
    return dataclasses.replace(record, metrics=metrics)


def holding(metrics: dict[str, Metric], suite: str = "one", **fields: object) -> Run:
    """A run of one cell."""
    record = Record(
        testbed=PluginSpec(name="t"), attack=PluginSpec(name="a"), defense=PluginSpec(name="d"),
        seed=0, status="ok", kind="sampler", protocol="p", metrics=metrics,
    )  # fmt: skip
    plain = Run(
        suite=suite, description="", started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T01:00:00+00:00", counts={"ok": 1}, records=[(Path("s"), record)],
    )  # fmt: skip
    return dataclasses.replace(plain, **fields)  # type: ignore[arg-type]


def of_protocol(name: str) -> Callable[[Record], Record]:
    return lambda record: dataclasses.replace(lowered(record), protocol=name)


def values(runs: list) -> list[float]:
    """Every value of the metric, seed 0, of clip_x0."""
    return [
        entry.numbers[METRIC].value
        for board in boards(runs)
        for cell in board.all_cells()
        if cell.defense.name == "clip_x0" and cell.attack.name == "baddiffusion"
        for entry in cell.entries
        if entry.record.seed == 0 and METRIC in entry.numbers
    ]


def ranked(board: Board) -> list[tuple[object, ...]]:
    return [
        (line.cell.id, line.rank, line.worst, line.change)
        for ranking in rankings(board)
        for line in ranking.lines + ranking.outside
    ]


def finished_later(store: Path) -> Path:
    account = store / "runs" / "digits.json"
    account.write_text(account.read_text().replace("T09:11:40", "T23:11:40"))
    return store


def test_results_and_their_store_make_one_board_and_no_line(published: Path, store: Path) -> None:
    """The same numbers twice are no dispute, and no second seed."""
    runs = read_sources([published, store])
    assert [run.problems for run in runs] == [(), ()]
    assert {run.source for run in runs} == {str(published), str(store)}
    (board,) = boards(runs)
    (alone,) = boards(read_sources([store]))
    assert [len(cell.entries) for cell in board.all_cells()] == [
        len(cell.entries) for cell in alone.all_cells()
    ]
    text = render(runs)
    assert f"From <code>{published}</code>" in text and text.count("<h2>Suite <code>digits") == 2


@pytest.mark.parametrize("stranger_first", [False, True])
def test_other_numbers_of_a_cell_are_named_and_replace_nothing(
    published: Path, make_store: MakeStore, tmp_path: Path, stranger_first: bool
) -> None:
    """Whoever finishes last would otherwise write over the published board with what he likes."""
    stranger = finished_later(make_store(tmp_path / "stranger", lowered))
    mine = values(read_sources([published]))
    paths = [published, stranger][:: -1 if stranger_first else 1]
    runs = read_sources(paths)
    first, second = runs
    assert first.problems == ()
    (line,) = second.problems
    assert line.startswith(f"digits: 2 cells have other numbers than in digits of {paths[0]}")
    assert METRIC in line and "0.00195312" in line and "seed 0" in line
    assert values(runs) == ([0.001953125] * 2 if stranger_first else mine) != []
    assert values(runs[::-1]) == values(runs), "in whatever order they are read"
    assert line.partition(";")[0] in render(runs), "it stands on the board"


@pytest.mark.parametrize(
    ("moved", "same"),
    [
        (dict(value=0.5004), True),
        (dict(value=0.502), False),
        (dict(ci_high=0.5504), True),
        (dict(ci_high=0.56), False),
        (dict(value=0.5001, ci_low=None, ci_high=None), False),
        (None, True),
    ],
    ids=repr,
)
def test_what_another_machine_rounds_otherwise_is_no_warning(
    moved: dict[str, float | None] | None, same: bool
) -> None:
    """The published suites were not made on one machine, and whoever put them on a board was warned
    of ninth digits.
    """
    number = Metric(value=0.5, ci_low=0.45, ci_high=0.55)
    other = dataclasses.replace(number, **(moved or {}))
    theirs = {"fid[x]": number} | ({} if moved is None else {"ssim[noise]": other})
    first = holding({"fid[x]": number, "ssim[noise]": number}, precedence=2)
    one, two = compared([first, holding(theirs, "two", note="Made elsewhere.")])
    assert one == first
    if same:
        assert two.problems == ()
        assert two.note.startswith("Made elsewhere. Cells shown as others hold them, 1 of one:")
    else:
        (line,) = two.problems
        assert "1 cell has other numbers than in one" in line and "ssim[noise] 0.5" in line
        assert two.note == "Made elsewhere."


@pytest.mark.parametrize(("other", "same"), [(1000.9, True), (1002.0, False)])
def test_a_number_without_an_interval_is_rounded_to_a_thousandth(other: float, same: bool) -> None:
    runs = [holding({"kid[x]": Metric(value=value)}) for value in (1000.0, other)]
    assert sum(bool(one.problems) for one in compared(runs)) == (not same)


def test_one_source_says_so_too(make_store: MakeStore, tmp_path: Path) -> None:
    """Two suites of one store that hold one cell, one of them from before the code changed."""
    folder = make_store(tmp_path / "store")
    make_store(tmp_path / "other", lowered, suite="later")
    moved = (tmp_path / "other" / "records").rename(folder / "records-later")
    account = json.loads((tmp_path / "other" / "runs" / "later.json").read_text())
    for cell in account["cells"]:
        if "record" in cell:
            cell["record"] = cell["record"].replace("records/", f"{moved.name}/")
    account["finished"] = "2026-11-22T09:00:00+00:00"
    (folder / "runs" / "later.json").write_text(json.dumps(account))
    earlier, later = read_sources([folder])
    assert later.problems == ()
    assert earlier.problems[0].startswith("digits: 2 cells have other numbers than in later, which")


def test_other_protocols_stand_apart_and_are_not_ranked_together(
    published: Path, make_store: MakeStore, tmp_path: Path
) -> None:
    """Numbers that were measured in another way would win or lose by that."""
    other = make_store(tmp_path / "other", of_protocol("fedcba98"))
    runs = read_sources([published, other])
    assert [run.problems for run in runs] == [(), ()]
    one, two = boards(runs)
    assert one.protocol != two.protocol
    for board, path in ((one, published), (two, other)):
        (alone,) = [
            single for single in boards(read_sources([path])) if single.protocol == board.protocol
        ]
        assert ranked(board) == ranked(alone) != []
        assert all(
            entry.record.protocol == board.protocol
            for cell in board.all_cells()
            for entry in cell.entries
        )


def test_a_source_named_twice_counts_once(published: Path) -> None:
    assert len(read_sources([published, published / ".." / published.name])) == 1


def test_a_failure_against_a_number_is_named(
    published: Path, make_store: MakeStore, tmp_path: Path
) -> None:
    def failing(record: Record) -> Record:
        changed = lowered(record)
        if changed is record:
            return record
        return dataclasses.replace(record, status="failed", reason="out of memory", metrics={})

    runs = read_sources([published, make_store(tmp_path / "other", failing)])
    assert "failed, there ok" in runs[1].problems[0]


def test_the_board_needs_a_source(tmp_path: Path, published: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        read_sources([published, tmp_path / "nowhere"])
    assert build(read_results(published), tmp_path / "board.html").is_file()


def test_a_source_named_twice_counts_where_it_is_named_first(
    published: Path, make_store: MakeStore, tmp_path: Path
) -> None:
    """`--published mystore results/` in a checkout let the store win over what is published."""
    other = make_store(tmp_path / "other", lowered)
    runs = read_sources([published, other, published])
    assert {run.source: run.precedence for run in runs} == {str(published): 2, str(other): 1}
