"""Exports for others: valid by the schema of who reads them, with the board's own numbers, and no
text of a record a command in any of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from bench.cli import cli
from bench.errors import UserError
from bench.record import Record, Run, read_runs
from leaderboard import paper
from leaderboard.board import boards
from leaderboard.exchange import write_format
from leaderboard.matrix import summary
from leaderboard.scores import directed, scored
from leaderboard.view import papers

OF_THE_MODEL = ("training set", "generated")
SCHEMA = Path(__file__).parent / "every_eval_ever" / "eval-0.3.0.schema.json"
HOSTILE = "\\input{/etc/passwd}$x$ | `a` <b>{%#&~^ \u202e [l](javascript:a)"


@pytest.fixture(scope="module")
def runs(store: Path, class_store: Path) -> list[Run]:
    return [*read_runs(store), *read_runs(class_store)]


@pytest.fixture(scope="module")
def records(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Cell id -> its record of Every Eval Ever."""
    files = write_format("every-eval-ever", runs, [], tmp_path_factory.mktemp("eee"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def test_every_record_keeps_the_schema_of_every_eval_ever(records: dict[str, Any]) -> None:
    jsonschema: Any = (
        __import__("jsonschema") if os.environ.get("CI") else pytest.importorskip("jsonschema")
    )
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert len(records) > 20
    for name, record in records.items():
        assert [error.message for error in validator.iter_errors(record)] == [], name
    assert schema["version"] == next(iter(records.values()))["schema_version"]
    broken = json.loads(json.dumps(next(iter(records.values()))))
    del broken["evaluation_results"][0]["metric_config"]["min_score"]
    assert list(validator.iter_errors(broken)), "the validator would notice"


def test_the_numbers_are_the_boards(runs: list[Run], records: dict[str, Any]) -> None:
    for board in boards(runs):
        for cell in board.cells.values():
            if cell.id not in records:
                assert not any(cell.values(name) for name in ("robust_asr[noise]", "auroc[noise]"))
                continue
            for result in records[cell.id]["evaluation_results"]:
                interval = summary(cell, result["metric_config"]["metric_name"])
                details = result["score_details"]
                assert interval is not None and details["score"] == interval.mean
                uncertainty = details["uncertainty"]
                assert uncertainty["num_samples"] == interval.n
                ends = uncertainty.get("confidence_interval")
                assert (ends and ends["lower"]) == interval.low
    results = [one for record in records.values() for one in record["evaluation_results"]]
    lower = {one["metric_config"]["metric_name"]: one["metric_config"] for one in results}
    assert lower["asr[noise]"]["lower_is_better"] and not lower["mse[noise]"]["lower_is_better"]
    assert (lower["asr[noise]"]["min_score"], lower["asr[noise]"]["max_score"]) == (0.0, 1.0)
    assert lower["mse[noise]"]["max_score"] == "Infinity"


def test_hugging_faces_own_reader_takes_the_yaml(runs: list[Run], tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    if not hasattr(hub, "parse_eval_result_entries"):
        pytest.skip("this huggingface_hub knows no .eval_results yet")
    files = write_format("hf", runs, [], tmp_path, "someone/castlewalls")
    assert len(files) > 20
    for path in files:
        assert path.parent.name == ".eval_results"
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = hub.parse_eval_result_entries(data)
        assert hub.eval_result_entries_to_yaml(entries) == data, "nothing that it would drop"
        for entry in entries:
            assert entry.dataset_id == "someone/castlewalls" and isinstance(entry.value, float)
            assert re.fullmatch(r"[a-z0-9_-]+", entry.task_id)
        assert len({entry.task_id for entry in entries}) == len(entries)


@pytest.mark.parametrize("dataset", ["", "castlewalls", "a/b/c", "a/b\nc", "../x"])
def test_a_data_set_of_the_hub_has_an_owner_and_a_name(
    runs: list[Run], tmp_path: Path, dataset: str
) -> None:
    with pytest.raises(UserError, match="--dataset must be owner/name"):
        write_format("hf", runs, [], tmp_path, dataset)


def _hostile(run: Run) -> Run:
    def named(record: Record) -> Record:
        papers = [
            {"title": HOSTILE, "authors": f"A {HOSTILE}, B", "year": "2024", "bibtex": "no entry"},
            {"title": "T", "authors": "C D", "year": "2023", "bibtex": "@misc{a, t={x}} \\evil"},
        ]
        if record.defense.name != "clip_x0":
            papers = []
        return dataclasses.replace(
            record,
            attack=dataclasses.replace(record.attack, label=f"{record.attack.name}({HOSTILE})"),
            provenance=record.provenance | {"papers": papers},
        )

    return dataclasses.replace(run, records=[(folder, named(one)) for folder, one in run.records])


def test_latex_has_a_row_an_attack_and_no_command_of_a_record(runs: list[Run]) -> None:
    hostile = [_hostile(run) for run in runs]
    text = paper.latex(hostile, boards(hostile))
    commands = set(re.findall(r"\\([A-Za-z]+)", text))
    assert commands <= {
        "usepackage", "begin", "end", "centering", "caption", "label", "toprule", "midrule",
        "bottomrule", "scriptsize", "cite", "times", "textbackslash", "textless", "textgreater",
        "textbar", "textquotedbl", "ldots", "dag",
    }  # fmt: skip
    assert "/etc/passwd" in text and "\u202e" not in text
    for table in re.findall(r"\\begin\{tabular\}\{(l r*|lr+)\}(.*?)\\end\{tabular\}", text, re.S):
        columns, body = len(table[0]), table[1]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 2
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == columns - 1, row
            plain = re.sub(r"\\[{}\\$&#_%^~]", "", row)
            assert plain.count("{") == plain.count("}"), row
    body = text.partition("\n")[2]
    assert not re.search(r"(?<!\\)[%#]", body), "a comment would eat the rest of a row"


def test_tables_have_the_boards_numbers(store: Path) -> None:
    runs = read_runs(store)
    page_boards = boards(runs)
    text = paper.markdown(page_boards)
    (board,) = page_boards
    cell = next(
        one
        for one in board.cells.values()
        if one.defense.name == "clip_x0" and one.attack.params.get("target") == "hat"
    )
    interval = summary(cell, "asr[noise]")
    assert interval is not None
    (row,) = [line for line in text.splitlines() if "target=hat" in line and "0." in line][:1]
    assert f"{interval.mean:.2f}" in row and f"{interval.high:.2f}" in row
    assert "lower is better for the defender" in text and "n (seeds × samples): " in text
    assert "failed" in text, "a cell that failed is no empty one"


def test_both_that_an_inversion_recovers_stand_in_every_format(
    runs: list[Run], records: dict[str, Any], tmp_path: Path
) -> None:
    """In tables of their own, whose captions say of what the error is; a constant image's error is
    no score.
    """
    for text in (paper.markdown(boards(runs)), paper.latex(runs, boards(runs))):
        for what in ("trigger", "target"):
            caption = f"Mean squared error of the last epoch to the {what}; lower is better"
            assert text.count(caption) == 1
    configs = {
        config["metric_name"]: config
        for record in records.values()
        for config in (one["metric_config"] for one in record["evaluation_results"])
    }
    assert configs["trigger_mse_last"]["lower_is_better"]
    assert configs["trigger_mse_last"]["min_score"] == 0.0
    assert "trigger_mse_constant" not in configs
    files = write_format("hf", runs, [], tmp_path, "someone/castlewalls")
    tasks = "".join(path.read_text(encoding="utf-8") for path in files)
    assert "-trigger_mse_last" in tasks and "-inversion_mse_last" in tasks


def test_markdown_keeps_its_columns_whatever_a_record_says(runs: list[Run]) -> None:
    hostile = boards([_hostile(run) for run in runs])
    for line in paper.markdown(hostile).splitlines():
        assert not re.search(r"(?<!\\)[`<]", line)
    tables = paper.markdown(hostile).split("\n\n")
    for lines in (table.splitlines() for table in tables if table.startswith("|")):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) == 1, lines[0]


def test_bibtex_is_one_balanced_entry_a_paper(runs: list[Run]) -> None:
    text = paper.bibtex([_hostile(run) for run in runs])
    entries = [one for one in text.split("\n\n") if one.strip()]
    keys = [re.match(r"@\w+\{([^,]+),", one.strip()) for one in entries]
    assert len(entries) == 2 and all(keys), entries
    assert len({key[1] for key in keys if key}) == 2
    assert "evil" not in text, "what follows an entry is no part of it"
    assert "\\input" not in text


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        (
            r"@article{k, title={G\"{o}del, \'Etudes \& \v{S}koda, \ss{} \emph{x}}, year={2024}}",
            True,
        ),
        (r"@misc{k, title={\input{/etc/passwd}}, year={2024}}", False),
        (r"@misc{k, title={\immediate\write18{id}}, year={2024}}", False),
        (r"@misc{k, title={^^5cinput{x}}, year={2024}}", False),
        (r"@preamble{k, {\def\x{}}}", False),
        (r"@string{k, x={y}}", False),
        (r"@comment{k, x={y}}", False),
    ],
)
def test_an_entry_writes_and_does_nothing_else(runs: list[Run], entry: str, kept: bool) -> None:
    """Who builds a paper runs what stands in its bibliography."""
    folder, record = runs[0].records[0]
    papers = [{"title": "T", "year": "2024", "authors": "A B", "bibtex": entry}]
    changed = dataclasses.replace(record, provenance={"papers": papers})
    text = paper.bibtex([dataclasses.replace(runs[0], records=[(folder, changed)])])
    assert text == (
        f"{entry}\n" if kept else "@misc{b2024, title={T}, author={A B}, year={2024}}\n"
    )


def test_a_row_is_no_argument_of_the_row_before(runs: list[Run]) -> None:
    def named(one: Record) -> Record:
        return dataclasses.replace(
            one, attack=dataclasses.replace(one.attack, label=f"[2cm]{one.attack.name}")
        )

    odd = [
        dataclasses.replace(run, records=[(folder, named(one)) for folder, one in run.records])
        for run in runs
    ]
    lines = paper.latex(odd, boards(odd)).splitlines()
    assert any("[2cm]" in line for line in lines)
    assert not [line for line in lines if line.lstrip().startswith(("[", "*"))]


def test_two_papers_under_one_key_have_two(runs: list[Run]) -> None:
    first, second = "@misc{key, title={A}}", "@misc{key, title={B}}"
    folder, record = runs[0].records[0]
    papers = [
        {"title": title, "year": "2024", "authors": "", "bibtex": entry}
        for title, entry in (("A", first), ("B", second), ("C", first))
    ]
    changed = dataclasses.replace(record, provenance={"papers": papers})
    run = dataclasses.replace(runs[0], records=[(folder, changed)])
    assert paper.bibtex([run]) == f"{first}\n\n@misc{{keya, title={{B}}}}\n"


@pytest.mark.parametrize("form", ["every-eval-ever", "hf", "latex", "markdown", "bibtex"])
def test_the_command_writes_each_format_the_same_twice(
    form: str, make_store: Callable[..., Path], tmp_path: Path
) -> None:
    def cited(record: Record) -> Record:
        papers = [{"title": "T", "authors": "A B", "year": "2024", "arxiv": "1", "bibtex": ""}]
        return dataclasses.replace(record, provenance=record.provenance | {"papers": papers})

    store = make_store(tmp_path / "store", cited)
    made = []
    for name in ("one", "two"):
        arguments = ["export", "--format", form, "--dataset", "a/b", "--store", str(store)]
        done = CliRunner().invoke(cli, [*arguments, "--output", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        made.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert made[0] == made[1] and all(made[0].values()) and made[0]


def test_bad_input_is_one_line(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run of nothing; there are "):
        write_format("latex", runs, ["nothing"], tmp_path)
    with pytest.raises(UserError, match="no records to export"):
        write_format("latex", [], [], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write below"):
        write_format("latex", runs, [], tmp_path / "file")


def test_a_paper_is_as_the_heavier_run_cites_it(runs: list[Run]) -> None:
    """A bundle that cites a published method's paper under its own name replaces nothing."""
    folder, record = runs[0].records[0]

    def citing(author: str, precedence: int) -> Run:
        cited = [{"title": "T", "year": "2023", "authors": author, "bibtex": ""}]
        changed = dataclasses.replace(record, provenance={"papers": cited})
        return dataclasses.replace(
            runs[0], records=[(folder, changed)], precedence=precedence, finished="2026-01-01"
        )

    ours, theirs = citing("Us", 1), citing("Them", 0)
    for order in ([ours, theirs], [theirs, ours]):
        assert [one["authors"] for one in papers(order)] == ["Us"]


def test_a_key_that_is_made_up_is_of_any_length(runs: list[Run]) -> None:
    folder, record = runs[0].records[0]
    odd = [{"title": "T", "year": "1" * 120, "authors": "A " + "b" * 120, "bibtex": ""}]
    changed = dataclasses.replace(record, provenance={"papers": odd})
    text = paper.bibtex([dataclasses.replace(runs[0], records=[(folder, changed)])])
    assert text.startswith("@misc{" + "b" * 60 + ",")


def test_what_a_detector_says_of_an_honest_set_is_no_result(class_store: Path) -> None:
    """There is nothing to find in it: a higher AUROC is not better for the defender there, and the
    control was exported under the attacked cells' task.
    """
    board = next(
        one
        for one in boards(read_runs(class_store))
        if any(cell.values("auroc[training set]") for cell in one.cells.values())
    )
    exported = {cell.id: {one.metric for one in scores} for cell, scores in scored(board)}
    kinds = set()
    for cell in board.cells.values():
        if cell.values("auroc[training set]"):
            honest = cell.attack.name == "none"
            kinds.add(honest)
            assert directed(board, cell, "auroc[training set]") is (None if honest else True)
            assert ("auroc[training set]" in exported.get(cell.id, set())) is not honest
    assert kinds == {False, True}


def test_a_table_for_a_paper_marks_what_lacks_failed_seeds(make_store: Any, tmp_path: Path) -> None:
    """A defense that crashes where it loses looked better in print."""

    def failed(record: Record) -> Record:
        if record.defense.name != "clip_x0" or record.seed != 0 or record.attack.name == "none":
            return record
        return dataclasses.replace(record, status="failed", metrics={}, series={}, reason="broke")

    whole, partly = (
        read_runs(make_store(tmp_path / name, *change))
        for name, change in (("whole", ()), ("partly", (failed,)))
    )
    before, after = (paper.markdown(boards(runs)) for runs in (whole, partly))
    marked = re.compile(r"\d†")
    assert len(marked.findall(after)) > len(marked.findall(before))
    assert "†: other seeds failed, and are not in the number." in after
    assert r"\dag{}" in paper.latex(partly, boards(partly))
