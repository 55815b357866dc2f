"""The science page as a command, and what it makes of text and records it did not expect."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.record import read_runs
from science import pages
from science.__main__ import main
from science.page import render
from science.table import md


@given(st.text(max_size=40))
def test_text_from_records_stays_in_its_cell(text: str) -> None:
    """A label with a pipe, a bracket or a line break must not make a column, a link or a row."""
    escaped = md(text)
    assert "\n" not in escaped and "\r" not in escaped and "<" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]$~]", escaped)


def test_bad_paths_are_one_line(store: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["--store", str(tmp_path / "nowhere"), "--output", str(tmp_path / "x")]
    )
    assert (
        result.exit_code == 2
        and result.output.startswith("science: ")
        and result.output.count("\n") == 1
    )
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write the page"):
        pages.build(store, tmp_path / "file")


def test_all_pages_are_written_or_those_that_are_named(store: Path, tmp_path: Path) -> None:
    """A page that nobody asked for would be overwritten by one without runs."""
    arguments = ["--store", str(store), "--output", str(tmp_path / "docs")]
    result = CliRunner().invoke(main, [*arguments, "--page", "poison"])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"poison.md", "poison"}
    result = CliRunner().invoke(main, arguments)
    assert result.output.split() == [
        str(tmp_path / "docs" / f"{page.name}.md") for page in pages.PAGES
    ]


def test_the_shared_store_of_another_testbed_is_readable(store: Path) -> None:
    """Records without the parameters a section asks for (an older attack) leave its claims open;
    they raise nothing.
    """
    page, _ = render(pages.BADDIFFUSION, pages.SHARED, read_runs(store))
    assert "Clipping raises the MSE (`clip_x0`, suite digits)" in page


def test_the_command_needs_no_torch(store: Path, tmp_path: Path) -> None:
    arguments = ["--store", str(store), "--output", str(tmp_path / "docs")]
    code = (
        f"import sys; from science.__main__ import main; main({arguments!r}, "
        f"standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(pages.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "docs" / "science.md").read_text().startswith("# BadDiffusion")
