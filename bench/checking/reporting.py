"""A check in words, for the terminal."""

from __future__ import annotations

import json
from typing import Any

import click

from bench.checking.process import Checked, Report
from bench.checking.verdict import Verdict
from bench.errors import UserError
from bench.names import brief
from bench.text import plain


def parameters(text: str | None) -> dict[str, Any]:
    """Of the option ``--params``. Raises :class:`~bench.errors.UserError` for anything but a JSON
    object.
    """
    if text is None:
        return {}
    try:
        values = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError(
            f'--params must be a JSON object such as {{"strength": 0.5}}, got {brief(text)}'
        )
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--params must name each parameter once, got {brief(twice[0])} twice")
    return dict(pairs)


def show_plugin(plugin: Checked) -> None:
    """The line above a plugin's verdicts."""
    what = (
        plugin.family
        if plugin.family.endswith(plugin.group)
        else (f"{plugin.family} {plugin.group}")
    )
    words = [word for word in (what, plugin.source) if word]
    click.echo(plain(f"{plugin.label}: {', '.join(words)}"))


def show_verdict(verdict: Verdict) -> None:
    """A verdict as soon as there is one."""
    for line in verdict.lines():
        click.echo(plain(f"  {line}"))


def show_report(report: Report) -> None:
    """The last line."""
    checks = [verdict for plugin in report.plugins for verdict in plugin.verdicts]
    failed = sum(verdict.failed for verdict in checks)
    came = (
        f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed"
    )
    click.echo(f"{came} in {report.seconds:.0f} s")
