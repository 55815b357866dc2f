"""Bundles on their way to a board: verified first, and raised by no statement but a trusted one."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench import results, suite
from bench.bundle import consistency, grids, statement, verify
from bench.bundle.bag import MANIFEST, read_bag, sha256, write_bag
from bench.bundle.levels import levels_of
from bench.cli import cli
from bench.errors import UserError


@pytest.fixture
def shipped(files, bundles, monkeypatch) -> None:
    """The tiny suite comes with castlewalls, and its controls are published."""
    monkeypatch.setattr(suite, "suite_folders", lambda: [files["suite"].parent])
    monkeypatch.setattr(consistency, "published_results", lambda: bundles["anp"])


def statement_of(folder: Path, path: Path, level: int = 3, kind: str = statement.SVR) -> Path:
    digest = sha256((folder / MANIFEST).read_bytes())
    predicate = {"properties": [f"CASTLEWALLS_LEVEL_{one}" for one in range(1, level + 1)]}
    path.write_text(json.dumps(statement.statement("mine", digest, kind, predicate)))
    return path


def test_a_bundle_is_verified_to_level_2(shipped, bundles) -> None:
    folder = bundles["shrink"]
    assert levels_of([folder]) == {folder.resolve(): 2}


def test_a_statement_about_it_raises_it_to_level_3(shipped, bundles, tmp_path) -> None:
    folder = bundles["shrink"]
    named = statement_of(folder, tmp_path / "one.json")
    assert levels_of([folder], [named]) == {folder.resolve(): 3}
    lower = statement_of(folder, tmp_path / "two.json", level=2)
    assert levels_of([folder], [lower]) == {folder.resolve(): 2}
    odd = json.loads(lower.read_text())
    for odd["predicate"]["properties"] in (3, None, "CASTLEWALLS_LEVEL_3", [[3]]):
        lower.write_text(json.dumps(odd))
        assert levels_of([folder], [lower]) == {folder.resolve(): 2}
    with pytest.raises(UserError, match="must be signed, for --key names a key"):
        levels_of([folder], [named], tmp_path / "key")


def test_a_statement_about_another_raises_nothing(shipped, bundles, tmp_path) -> None:
    folder = bundles["shrink"]
    for other in (
        statement_of(bundles["anp"], tmp_path / "one.json"),
        statement_of(folder, tmp_path / "two.json", kind=statement.TEST_RESULT),
    ):
        with pytest.raises(UserError, match="must be of a re-run of one of the bundles"):
            levels_of([folder], [other])


def test_a_statement_raises_nothing_that_is_not_consistent(bundles, files, tmp_path, monkeypatch):
    """Controls that nobody published leave a bundle at level 1."""
    folder = bundles["shrink"]
    monkeypatch.setattr(suite, "suite_folders", lambda: [files["suite"].parent])
    assert levels_of([folder], [statement_of(folder, tmp_path / "one.json")]) == {
        folder.resolve(): 1
    }


def test_what_is_of_an_unknown_suite_is_of_level_0(bundles) -> None:
    folder = bundles["shrink"]
    assert levels_of([folder]) == {folder.resolve(): 0}


def test_what_is_refused_has_its_reason_for_a_level(shipped, bundles, copied, rewrite) -> None:
    spoiled, changed = copied("anp"), copied("noise_shift")
    (spoiled / "data" / "more.txt").write_text("more")
    rewrite(changed, lambda one: None if one.defense.name != "none" and one.seed else one)
    link = spoiled.parent / "link"
    link.symlink_to(bundles["shrink"])
    levels = levels_of([spoiled, changed])
    assert str(levels[spoiled]).startswith("BagIt manifests: data/more.txt must be listed")
    assert str(levels[changed]).startswith("every cell of the suite: ")


@pytest.fixture
def accepted(bundles, tmp_path) -> Path:
    """The folder of an accepted bundle, with a statement of level 3 beside it."""
    folder = tmp_path / "results" / results.SUBMISSIONS / "shrink"
    shutil.copytree(bundles["shrink"], folder)
    statement_of(folder, folder.with_name("shrink.svr-0123456789ab.json"))
    return folder


def test_what_was_accepted_is_of_the_level_that_was_stated(accepted, monkeypatch) -> None:
    """And is not verified again; beside any other bundle such a file says nothing."""
    assert levels_of([accepted]) == {accepted: 0}
    monkeypatch.setattr(verify, "verify", None)
    assert levels_of([accepted], accepted=accepted.parent) == {accepted: 3}
    beside = accepted.with_name("shrink.svr-0123456789ab.json")
    statement_of(accepted, beside, level=2)
    assert levels_of([accepted], accepted=accepted.parent) == {accepted: 2}
    beside.write_text("{}")
    (why,) = levels_of([accepted], accepted=accepted.parent).values()
    assert "must be an in-toto statement about one bundle" in str(why)


def test_what_changed_since_it_was_accepted_is_refused(accepted, seal) -> None:
    """Sealed anew it is another bundle, of which nothing was stated."""
    records = accepted / "data" / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b"shrink", b"shrunk"))
    (why,) = levels_of([accepted], accepted=accepted.parent).values()
    assert str(why).startswith("is not as it was accepted: data/records.jsonl")
    seal(accepted)
    (level,) = levels_of([accepted], accepted=accepted.parent).values()
    assert level != 3


#: `castlewalls site` of other results, with torch out of reach.
SITE = """
import sys
from pathlib import Path
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
from bench import results
results.published = lambda: Path("results")
from bench.cli import main
main()
"""


def test_a_site_with_what_was_accepted_needs_no_torch(accepted) -> None:
    work = accepted.parents[2]
    ours = "science-poison-replication"
    shutil.copytree(results.published() / ours, work / "results" / ours)
    environment = os.environ | {"PYTHONPATH": str(Path(suite.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", SITE, "site"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (work / "site" / "index.html").read_text()
    assert "Submitted as the bundle shrink, verified to level 3 of 3." in page


def test_the_board_shows_the_level_and_nothing_that_is_refused(
    shipped, files, bundles, copied, tmp_path
) -> None:
    spoiled = copied("anp")
    records = spoiled / "data" / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b"anp", b"amp"))
    output = tmp_path / "board.html"
    arguments = ["report", str(spoiled), str(bundles["shrink"]), "--output", str(output)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("\n") == 1
    assert (
        "warning: bundle anp is refused and not shown: BagIt manifests: data/records" in done.stderr
    )
    text = output.read_text()
    assert "Submitted as the bundle shrink, verified to level 2 of 3." in text
    assert "bundle anp" not in text and ">anp<" not in text
    alone = CliRunner().invoke(cli, ["report", str(files["store"]), "--statement", "x.json"])
    assert alone.exit_code == 2 and "none of the sources has one" in alone.stderr


def test_a_bundle_that_cannot_be_checked_is_refused_alone(bundles, monkeypatch) -> None:
    """A picture that Pillow stumbles over took the board of everybody with it."""
    from bench.bundle import verify as module

    def stumble(*args, **kwargs):
        raise IndexError("list index out of range")

    monkeypatch.setattr(module, "verify", stumble)
    assert levels_of([bundles["shrink"]]) == {
        bundles["shrink"].resolve(): "it cannot be checked: IndexError: list index out of range"
    }


def test_a_picture_that_pillow_stumbles_over_is_refused() -> None:
    data = grids.draw(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    end = data.rindex(b"IEND") - 4
    chunk = b"iCCP" + b"a\0"
    broken = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(ValueError, match="cannot be decoded"):
        grids.read(data[:end] + broken + data[end:], (2, 3, 4, 4))


@pytest.mark.parametrize("name", ["my defense (1).py", "é.py", ".hidden", "a/../b"])
def test_a_bag_is_not_written_that_nobody_would_read(tmp_path, name) -> None:
    with pytest.raises(UserError, match="cannot be a bundle: a path in a bundle must"):
        write_bag(tmp_path / "b", {name: b"x"}, {}, {})
    assert list(tmp_path.iterdir()) == []
    write_bag(tmp_path / "b", {"my defense 1.py": b"x"}, {}, {})
    assert not any(read_bag(tmp_path / "b").faults.values())
