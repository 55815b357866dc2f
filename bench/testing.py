"""For the tests of a plugin's author: every check of ``castlewalls check``, as pytest cases.

    from bench.testing import parametrize_with_checks
    from my_package import MyDefense

    @parametrize_with_checks([MyDefense(), MyDefense(strength=0.5)])
    def test_the_contract_is_kept(plugin, check):
        check(plugin)

or, without pytest, ``check_plugin(MyDefense())``. The checks run in the test's own process: a
plugin that hangs or ends the process does so to the test, too, where ``castlewalls check`` gives a
verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.checking.question import Check as Check
from bench.checking.question import CheckFailed as CheckFailed
from bench.checking.table import checks_for as checks_for
from bench.contracts.plugin import Plugin

if TYPE_CHECKING:
    import pytest

__all__ = ["Check", "CheckFailed", "check_plugin", "checks_for", "parametrize_with_checks"]


def check_plugin(plugin: Plugin) -> None:
    """Runs every check. Raises :class:`CheckFailed` at the first that fails, with the plugin's own
    error as its cause.
    """
    for check in checks_for(plugin):
        check(plugin)


def parametrize_with_checks(plugins: Iterable[object]) -> pytest.MarkDecorator:
    """A decorator for a test of two arguments, ``plugin`` and ``check``: one case for each plugin
    and each check that applies to it. Raises ``TypeError`` for a class in the place of an instance.
    """
    import pytest

    cases = []
    for plugin in plugins:
        if not isinstance(plugin, Plugin):
            what = getattr(plugin, "__name__", type(plugin).__name__)
            raise TypeError(f"plugins must be instances of a plugin, such as {what}(), got {what}")
        cases += [
            pytest.param(plugin, check, id=f"{plugin.label()}-{check.name}")
            for check in checks_for(plugin)
        ]
    return pytest.mark.parametrize(("plugin", "check"), cases)
