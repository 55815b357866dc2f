"""What happens in the plugin's process: it is imported, constructed, and asked every question."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.checking.conduct import (
    leaving_all_as_it_was,
    reaching_out,
    results_are_as_declared,
    warm_up,
)
from bench.checking.pipe import limit, say
from bench.checking.table import checks_for
from bench.checking.verdict import Verdict
from bench.contracts.attack import EditingAttack
from bench.contracts.plugin import Plugin
from bench.errors import UserError
from bench.names import unknown_name
from bench.plugin_file import what_happened
from bench.registry import GROUPS, SINGULAR, Registry, family_of, group_of, source_of
from bench.text import one_line

_IMPORTS = Verdict(check="imports", title="it is imported, and leaves all as it was")
_CONSTRUCTS = Verdict(check="constructs", title="it is constructed with its defaults")


def check(request: Mapping[str, Any]) -> None:
    """Says a verdict for each check of what ``request`` names. Raises
    :class:`~bench.errors.UserError` for a name that is not known, or parameters that cannot be.
    """
    torch.set_num_threads(min(2, torch.get_num_threads()))
    Registry(only=())
    warm_up()  # what every check needs is loaded before the clock starts
    limit(request["memory"])
    say(request, ready=True)
    started = time.monotonic()
    for described, verdicts, plugin in _plugins(request):
        say(request, plugin=described)
        for verdict in verdicts:
            say(request, verdict=verdict.to_json())
        if plugin is None:
            continue
        for verdict in _asked(request, plugin):
            say(request, verdict=verdict.to_json())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = peak if sys.platform == "darwin" else 1024 * peak
    say(request, finished=True, seconds=time.monotonic() - started, peak=peak)


def _asked(request: Mapping[str, Any], plugin: Plugin) -> Iterator[Verdict]:
    """What each check says. Of results that are not as declared the first failure says all."""
    reason = ""
    for one in checks_for(plugin):
        say(request, check=one.name, title=one.title)
        if reason and one.of_results:
            yield one.not_asked(reason)
            continue
        verdict = one.verdict(plugin, alone=True)
        yield verdict
        if verdict.failed and one.run is results_are_as_declared:
            reason = "its results are not as declared"


_Entry = tuple[dict[str, str], list[Verdict], Plugin | None]


def _plugins(request: Mapping[str, Any]) -> Iterator[_Entry]:
    """Each plugin, what it is, and the verdicts of how it came to be."""
    name, file, params = request["name"], request["file"], request["params"]
    say(request, plugin=_described(Path(file).stem if file else name, source=file))
    say(request, check=_IMPORTS.check, title=_IMPORTS.title)
    if not file:
        registry = Registry()
        groups = [group for group in GROUPS if name in registry.names(group)]
        if not groups:
            known = sorted({one for group in GROUPS for one in registry.names(group)})
            error = unknown_name("plugin", name, known)
            raise UserError("; ".join([str(error), *registry.broken]))
        for group in groups:
            yield _built(registry, registry.get(group, name), params, [])
        return
    registry_or_verdict = imported(Path(file))
    if isinstance(registry_or_verdict, Verdict):
        yield _described(Path(file).stem, source=file), [registry_or_verdict], None
        return
    registry, verdict = registry_or_verdict
    for group in GROUPS:
        for one in registry.names(group):
            cls = registry.get(group, one)
            if source_of(cls) == Path(file):
                yield _built(registry, cls, params, [verdict])


def imported(path: Path) -> tuple[Registry, Verdict] | Verdict:
    """A registry with the plugins of the file at ``path``; or why there is none."""
    started = time.monotonic()
    with leaving_all_as_it_was() as changes, reaching_out() as events:
        try:
            registry = Registry([path])
        except UserError as error:
            message = str(error).removeprefix("--plugin ")
            return replace(
                _IMPORTS,
                status="failed",
                message=f"expected a file with a plugin, got: {one_line(message)}",
                mend="mend what is named; keep a script's part under `if __name__`",
            )
    came = "; ".join([*changes, *(f"it {event}" for event in events[:1])])
    verdict = replace(
        _IMPORTS,
        status="failed" if came else "ok",
        message=f"expected an import that changes nothing, got {one_line(came)}" if came else "",
        mend="move it into the method that needs it, and put back what it changes" if came else "",
        seconds=time.monotonic() - started,
    )
    return registry, verdict


def _built(
    registry: Registry, cls: type[Plugin], params: Mapping[str, Any], verdicts: list[Verdict]
) -> _Entry:
    group, source = group_of(cls), str(source_of(cls))
    described = _described(cls.card.name, SINGULAR[group], source=source)
    try:
        plugin = registry.build(group, cls.card.name, params)
        family = family_of(plugin) if group != "attacks" else _attack_family(cls)
    except BaseException as error:
        if params and isinstance(error, UserError):
            raise
        words = str(error) if isinstance(error, UserError) else what_happened(error)
        verdict = replace(
            _CONSTRUCTS,
            status="failed",
            message=f"expected a plugin of its defaults, got: {one_line(words)}",
            mend="give every parameter a default of a JSON type, or pass --params",
        )
        return described, [*verdicts, verdict], None
    built = _described(cls.card.name, SINGULAR[group], family, plugin.label(), source)
    return built, [*verdicts, _CONSTRUCTS], plugin


def _attack_family(cls: type[Plugin]) -> str:
    return "editing" if issubclass(cls, EditingAttack) else "training"


def _described(
    name: str, group: str = "", family: str = "", label: str = "", source: str = ""
) -> dict[str, str]:
    return {
        "name": one_line(name, 64),
        "group": group,
        "family": family,
        "label": label or one_line(name, 64),
        "source": source,
    }
