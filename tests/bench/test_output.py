"""The standard streams of a real process: a closed pipe, a full disk, a terminal that knows no
accents, and text that takes it over.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar
from bench.contracts.card import Card
from bench.contracts.defense import SamplerDefense

@dataclass(frozen=True, kw_only=True)
class Mine(SamplerDefense):
    """Doc: caf\u00e9 \\x1b[2J and more."""
    card: ClassVar[Card] = Card(name="mine", summary="for tests")
'''


def castlewalls(arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = f'set -o pipefail; "{sys.executable}" -m bench {arguments}'
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", command], env=settings, capture_output=True, text=True, timeout=200
    )


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`castlewalls list | head -1` must not look like a failed command."""
    done = castlewalls("list | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "attacks:\n", "")
    # Longer than what a stream keeps before it writes.
    done = castlewalls("plan digits --json | head -1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_result_that_cannot_be_written_is_one_line_and_progress_is_no_result() -> None:
    lost = castlewalls("list > /dev/full")
    assert lost.returncode == 2
    assert (
        lost.stderr == "castlewalls: standard output cannot be written: No space left on device\n"
    )
    for command in ("--help", "--version", "plan digits --json"):
        assert castlewalls(f"{command} > /dev/full").stderr == lost.stderr, command
    quiet = castlewalls("show nothing_like_it 2> /dev/full")
    assert quiet.returncode == 2 and quiet.stdout == ""


def test_what_a_terminal_cannot_show_is_written_out(tmp_path: Path) -> None:
    """A plugin's text must neither end the command nor clear the screen."""
    (tmp_path / "mine.py").write_text(PLUGIN, encoding="utf-8")
    arguments = f"show mine --plugin {tmp_path / 'mine.py'}"
    done = castlewalls(arguments, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert r"caf\xe9" in done.stdout and "\x1b" not in done.stdout
