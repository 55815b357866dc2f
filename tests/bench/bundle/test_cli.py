"""Both verbs as they are typed: what they print, and how they exit."""

from __future__ import annotations

import json

from click.testing import CliRunner

from bench.cli import cli


def run(*arguments: object):
    return CliRunner().invoke(cli, [str(one) for one in arguments])


def test_submit_and_verify_from_the_command_line(files, tmp_path) -> None:
    options = ("--suite", files["suite"], "--store", files["store"], "--plugin", files["plugin"])
    dry = run("submit", "shrink", *options, "--allow-dirty", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert dry.stdout.startswith("shrink-tiny would be 0.")
    folder = tmp_path / "bundle"
    made = run("submit", "shrink", *options, "--output", folder, "--author", "Ada L.", "--json")
    assert made.exit_code == 0, made.output
    result = json.loads(made.stdout)
    assert result["cells"] == {"ok": 12, "failed": 0, "skipped": 0}
    again = run("verify", folder, "--suite", files["suite"])
    assert again.exit_code == 0, again.output
    assert "ok           1 plain files below the folder" in again.stdout
    assert again.stdout.splitlines()[-1] == f"level 1 of 3 is reached: {result['sha256']}"


def test_a_refusal_is_a_line_and_exit_code_1(copied, files) -> None:
    folder = copied("shrink")
    (folder / "data" / "more.txt").write_text("more")
    done = run("verify", folder, "--suite", files["suite"])
    assert done.exit_code == 1
    assert "REFUSED      1 BagIt manifests" in done.stdout
    assert "data/more.txt must be listed in manifest-sha256.txt, and is not" in done.stdout
    report = json.loads(run("verify", folder, "--suite", files["suite"], "--json").stdout)
    assert (report["level"], report["passed"]) == (0, False)


def test_what_is_no_bundle_exits_with_2(tmp_path) -> None:
    done = run("verify", tmp_path)
    assert done.exit_code == 2
    assert done.stderr.startswith("castlewalls: ") and "is no bundle" in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_cells_exit_with_2_and_name_the_command(files) -> None:
    options = ("--suite", files["suite"], "--store", files["store"])
    done = run("submit", "clip_x0", *options)
    assert done.exit_code == 2
    assert "4 missing; `castlewalls run" in done.stderr


def test_published_results_that_are_not_there_are_no_agreement(bundles, tmp_path) -> None:
    done = run("verify", bundles["shrink"], "--published", tmp_path / "none")
    assert done.exit_code == 2 and "none: must be a folder of results" in done.output
