"""What is generated from results/ is what is committed: the pages, their plots and the README's
answers.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.errors import UserError
from bench.export import export
from bench.record import Record, Run
from bench.results import published, read_results
from leaderboard.questions import questions
from science import pages, readme
from science.__main__ import main
from science.readme import BEGIN, END, chosen, section, with_section
from science.results_page import NOTHING, results_page
from science.table import md

ROOT = Path(__file__).resolve().parents[2]
Planned = dict[str, list[Record]]
MakeRun = Callable[..., Run]


@pytest.fixture(scope="module")
def results(
    planned: Planned,
    make_run: MakeRun,
    write_store: Callable[[Path, list[Run]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Two suites of the pages, run whole; nothing else was run."""
    folder = tmp_path_factory.mktemp("published")
    runs = [make_run(suite, planned[suite]) for suite in ("science-rates", "digits")]
    store = write_store(folder / "store", runs)
    for run in runs:
        export(store, run.suite, folder / "results")
    return folder / "results"


def test_what_is_committed_is_what_the_results_give() -> None:
    """A table that was true of an older code is worse than none. ``make pages`` writes it again."""
    runs = read_results(published())
    assert [problem for run in runs for problem in run.problems] == []
    text, views = (ROOT / "README.md").read_text(), chosen(runs)
    assert with_section(text, views) == text, "README.md is stale: run `make pages`"
    page = (ROOT / "docs" / "results.md").read_text()
    assert results_page(views) == page, "docs/results.md is stale: run `make pages`"
    if runs:
        assert pages.stale(runs, ROOT / "docs") == [], "pages are stale: run `make pages`"


def test_pages_from_results_are_those_from_the_store(results: Path, tmp_path: Path) -> None:
    """Whatever an export leaves out, no page may need."""
    pages.build(results.parent / "store", tmp_path / "store")
    arguments = ["--records", str(results), "--output", str(tmp_path / "docs")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    one, two = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in (tmp_path / "store", tmp_path / "docs")
    )
    assert one == two and any(path.suffix == ".svg" for path in one)


def test_any_byte_of_difference_is_stale(results: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    where = ["--records", str(results), "--output", str(docs)]
    assert CliRunner().invoke(main, where).exit_code == 0
    check = CliRunner().invoke(main, [*where, "--check"])
    assert (check.exit_code, check.output) == (0, "")
    page, plot, drawn = (
        docs / "science.md",
        docs / "science/rates-fid.svg",
        docs / "science/anp.svg",
    )
    for file, change, words in (
        (page, lambda: page.write_bytes(page.read_bytes() + b" "), "is not what it would be"),
        (page, page.unlink, "is missing"),
        (plot, lambda: plot.write_bytes(plot.read_bytes() + b" "), "is not what it would be"),
        (plot, plot.unlink, "is missing"),
        (drawn, lambda: drawn.write_text("<svg/>"), "is no longer drawn"),
    ):
        before = file.read_bytes() if file.exists() else None
        change()
        check = CliRunner().invoke(main, [*where, "--check"])
        assert check.exit_code == 1
        assert check.output == f"science: {file} {words}; `make pages` writes it again\n"
        file.unlink(missing_ok=True)
        if before is not None:
            file.write_bytes(before)
    # Another matplotlib draws other bytes: its plots are looked for, and no more.
    (docs / "science" / pages.DRAWN).write_text('{"matplotlib": "0"}\n')
    plot.write_bytes(b"of another version")
    assert CliRunner().invoke(main, [*where, "--check"]).exit_code == 0


def test_a_suite_without_results_is_said_to_be_one(results: Path, tmp_path: Path) -> None:
    """An open claim and one that nobody looked at are different things."""
    pages.write(read_results(results), tmp_path)
    text = (tmp_path / "science.md").read_text()
    words = "not run yet on this code"
    row = next(line for line in text.splitlines() if line.startswith("| `science-anp` |"))
    assert row.endswith(f"| **{words}** |")
    assert f"From `science-anp` ({words})." in text
    verdicts = text.partition("## All verdicts")[2].partition("\n## ")[0]
    rows = [line for line in verdicts.splitlines() if "(#6-" in line]
    assert rows and all(line.endswith(f"| **{words}** |") for line in rows)
    rows = [line for line in verdicts.splitlines() if "(#1-" in line]
    assert rows and not any(words in line for line in rows)
    assert (tmp_path / "poison.md").read_text().count(f"| **{words}** |") > 20


def test_neither_pages_nor_table_need_torch(results: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"# A\n\n{BEGIN}\n{END}\n")
    code = (
        "import sys; from science.__main__ import main; from science import readme\n"
        f"main(['--records', {str(results)!r}, '--output', {str(tmp_path)!r}], "
        "standalone_mode=False)\n"
        f"readme.main(['--records', {str(results)!r}, '--readme', {str(tmp_path / 'README.md')!r}, "
        f"'--page', {str(tmp_path / 'results.md')!r}], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(pages.PAGES) + 2


def test_the_page_has_a_row_an_attack_and_a_column_a_defense(results: Path) -> None:
    text = results_page(chosen(read_results(results)))
    assert "## digits-ddpm" in text and "from `digits`." in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][:2] == ["| attack", "none"] and rows[0][-1] == "seeds |"
    assert {r"clip\_x0", r"clip\_xt"} <= set(rows[0])
    assert len(rows) == 4 and all(len(row) == len(rows[0]) for row in rows)
    assert rows[2][1].startswith("0.5") and rows[2][-1] == "5 |"
    assert results_page([]).endswith(f"\n\n{NOTHING}\n")
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert max(map(len, prose)) <= 100


def test_the_answers_are_those_of_the_boards_first_screen(results: Path) -> None:
    """One line a question and testbed: a README with tables of 16 columns is read by nobody."""
    views = chosen(read_results(results))
    text, asked = section(views), questions(views)
    assert [line[4:] for line in text.splitlines() if line.startswith("### ")] == [
        one.title for one in asked
    ]
    rows = [line for line in text.splitlines() if line.startswith("| digits")]
    groups = [group for one in asked for group in one.groups]
    assert len(rows) == len(groups) > 2
    for row, group in zip(rows, groups, strict=True):
        assert (" | **" in row) == (group.answer.good is True)
        assert md(group.answer.best) in row and md(group.extent) in row
    assert section([]) == NOTHING
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert max(map(len, prose)) <= 100


def test_the_answers_stand_between_their_comments(results: Path, tmp_path: Path) -> None:
    file, page = tmp_path / "README.md", tmp_path / "results.md"
    file.write_text(f"# A\n\n{BEGIN}\nof last year\n{END}\n\n## B\n")
    where = ["--records", str(results), "--readme", str(file), "--page", str(page)]
    assert CliRunner().invoke(readme.main, [*where, "--check"]).exit_code == 2
    assert not page.exists()
    assert CliRunner().invoke(readme.main, where).exit_code == 0
    text = file.read_text()
    assert text.startswith(f"# A\n\n{BEGIN}\n\n### Stops the backdoor")
    assert "last year" not in text and text.endswith(f"\n\n{END}\n\n## B\n")
    assert CliRunner().invoke(readme.main, [*where, "--check"]).exit_code == 0
    page.write_text("of last year")
    check = CliRunner().invoke(readme.main, [*where, "--check"])
    assert check.exit_code == 2 and "results.md are stale; `make pages`" in check.output
    for broken in ("# A\n", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"):
        with pytest.raises(UserError, match="the README needs the lines"):
            with_section(broken, [])


def test_results_that_are_damaged_are_told_and_left_out(results: Path, tmp_path: Path) -> None:
    (tmp_path / "science-rates").mkdir()
    (tmp_path / "science-rates" / "run.json").write_text("{")
    where = ["--records", str(tmp_path), "--output", str(tmp_path / "docs")]
    done = CliRunner().invoke(main, where)
    assert done.exit_code == 0
    assert done.stderr.startswith("science: warning: results of science-rates cannot be read")
    done = CliRunner().invoke(main, ["--records", str(tmp_path / "no")])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
