"""What can be run, in words: for ``castlewalls list`` and ``castlewalls show``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from rich.console import Console

from bench import testbeds
from bench.cards import read_cards
from bench.constraints import domains
from bench.contracts.plugin import Plugin
from bench.described import documentation
from bench.errors import UserError
from bench.names import unknown_name
from bench.registry import GROUPS, SINGULAR, source_of
from bench.resources import Resources
from bench.samplers import SUMMARIES, Sampler, fields_of
from bench.suite import shipped_suites
from bench.testbeds.testbed import parameters as part_parameters
from bench.text import plain
from bench.yaml_reader import read_yaml


def catalogue(
    plugin_files: Iterable[str] = (), what: str | None = None
) -> dict[str, dict[str, str]]:
    """``{group: {name: summary}}`` for the groups of plugins, ``samplers``, ``testbeds`` and
    ``suites``; only ``what`` if given.
    """
    summaries: dict[str, dict[str, str]] = {}
    if what is None or what in GROUPS:
        with closing(read_cards(plugin_files)) as registry:
            summaries = {
                group: {
                    name: registry.get(group, name).card.summary for name in registry.names(group)
                }
                for group in GROUPS
            }
    if what in (None, "samplers"):
        summaries["samplers"] = dict(SUMMARIES)
    if what in (None, "testbeds"):
        summaries["testbeds"] = {name: testbeds.load(name).summary for name in testbeds.names()}
    if what in (None, "suites"):
        summaries["suites"] = {
            name: str(read_yaml(path).get("description", ""))
            for name, path in shipped_suites().items()
        }
    return summaries if what is None else {what: summaries[what]}


def describe(name: str, plugin_files: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Everything with that ``name`` (the controls share one), as JSON values. Raises ``UserError``
    if there is nothing.
    """
    with closing(read_cards(plugin_files)) as registry:
        pass  # what is asked here of a plugin, its process has said by now
    descriptions = [
        _plugin(SINGULAR[group], registry.get(group, name))
        for group in GROUPS
        if name in registry.names(group)
    ]
    if name in SUMMARIES:
        descriptions.append(
            {
                "kind": "sampler",
                "name": name,
                "summary": SUMMARIES[name],
                "parameters": [
                    one for one in _parameters(Sampler) if one["name"] in fields_of(name)
                ],
                "doc": documentation(Sampler),
                "source": str(source_of(Sampler)),
            }
        )
    if name in testbeds.names():
        descriptions.append(_testbed(name))
    if name in shipped_suites():
        path = shipped_suites()[name]
        descriptions.append(
            {
                "kind": "suite",
                "name": name,
                "source": str(path),
                "doc": path.read_text(encoding="utf-8").strip(),
            }
        )
    if not descriptions:
        names = {
            *SUMMARIES,
            *testbeds.names(),
            *shipped_suites(),
            *(name for group in GROUPS for name in registry.names(group)),
        }
        raise unknown_name("name", name, names)
    return descriptions


def _plugin(singular: str, cls: type[Plugin]) -> dict[str, Any]:
    card = cls.card
    declared = {
        "applies_to": sorted(card.applies_to),
        "alters": sorted(card.alters),
        "needs": sorted(card.needs),
    }
    return {
        "kind": singular,
        "name": card.name,
        "summary": card.summary,
        "card": {key: value for key, value in declared.items() if value not in ([],)},
        "parameters": _parameters(cls),
        "paper": None if card.paper is None else dataclasses.asdict(card.paper),
        "doc": documentation(cls),
        "source": str(source_of(cls)),
    }


def _testbed(name: str) -> dict[str, Any]:
    declared, module = testbeds.load(name), testbeds.module(name)
    parameters: dict[str, dict[str, Any]] = {}
    texts = [inspect.cleandoc(module.__doc__ or "")]
    for part in declared.parts().values():
        values = part_parameters(part)
        for parameter in _parameters(type(part)):
            if (field := parameter["name"]) in values:
                default = {"default": getattr(part, field), "required": False}
                parameters[field] = parameter | default
        texts += [
            inspect.cleandoc(cls.__doc__ or "")
            for cls in type(part).__mro__
            if values.keys() & vars(cls).get("__annotations__", {}).keys()
        ]
    return {
        "kind": "testbed",
        "name": name,
        "summary": declared.summary,
        "card": {"kind": declared.kind, "extractor": declared.features.extractor},
        "resources": dataclasses.asdict(declared.resources),
        "parameters": [
            parameters[field] for field in dict.fromkeys([*declared.params(), *parameters])
        ],
        "doc": "\n\n".join(dict.fromkeys(filter(None, texts))),
        "source": str(module.__file__),
    }


def _parameters(cls: type[Any]) -> list[dict[str, Any]]:
    """``constraint``: see :meth:`bench.constraints.Domain.description`; ``words``: the same for
    people.
    """
    fields = [field for field in dataclasses.fields(cls) if field.init]
    try:
        allowed = domains(cls)
    except TypeError as error:
        raise UserError(str(error)) from error
    return [
        {
            "name": field.name,
            "type": allowed[field.name].type,
            "constraint": allowed[field.name].description(),
            "words": allowed[field.name].constraint,
            "default": None if field.default is dataclasses.MISSING else field.default,
            "required": field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING,
        }
        for field in fields
    ]


def print_description(descriptions: list[dict[str, Any]], console: Console) -> None:
    """:func:`describe` for people."""

    def say(text: str = "") -> None:
        console.print(plain(text), markup=False, highlight=False, soft_wrap=True)

    for index, item in enumerate(descriptions):
        if index:
            say()
        say(
            f"{item['kind']} {item['name']}"
            + (f": {item['summary']}" if item.get("summary") else "")
        )
        for key, value in item.get("card", {}).items():
            say(
                f"  {key.replace('_', ' ')}: "
                f"{', '.join(value) if isinstance(value, list) else value}"
            )
        if stated := Resources(**item.get("resources", {})).words:
            say(f"  a stage needs: {stated}")
        say(f"  source: {item['source']}")
        if item.get("parameters"):
            say("\nparameters:")
            for parameter in item["parameters"]:
                default = (
                    "required" if parameter["required"] else f"default {parameter['default']!r}"
                )
                words = f", {parameter['words']}" if parameter["words"] else ""
                say(f"  {parameter['name']}: {parameter['type']}, {default}{words}")
        if item.get("doc"):
            say(f"\n{item['doc']}")
        paper = item.get("paper")
        if paper:
            where = f", arXiv {paper['arxiv']}" if paper["arxiv"] else ""
            say(f"\npaper: {paper['authors']}: {paper['title']} ({paper['year']}{where})")
            if paper["bibtex"]:
                say(f"\n{paper['bibtex'].strip()}")
