"""What a plugin is called on the page: in full, or as short as tells it from its neighbours."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from bench.record import PluginSpec

#: Between the names, and the labels, of defenses that act at once.
JOINT = " + "
#: A method's name and its parameters, ``a=1``.
Term = tuple[str, list[str]]


def label(spec: PluginSpec) -> str:
    """What a reader sees; never empty."""
    return spec.label or spec.name


def short_label(spec: PluginSpec) -> str:
    """The label without its parameters."""
    return label(spec).partition("(")[0]


def shortened(specs: Iterable[PluginSpec]) -> dict[tuple[str, str], str]:
    """By identity, each label with those parameters alone in which plugins of one name differ:
    ``elijah(family=a, steps=400)`` beside ``elijah(family=b, steps=400)`` is ``elijah(family=a)``,
    alone it is ``elijah``. Different labels stay different.
    """
    whole = {spec.identity: label(spec) for spec in specs}
    namesakes: defaultdict[tuple[str, ...], dict[str, list[Term]]] = defaultdict(dict)
    for text in whole.values():
        terms = _terms(text)
        namesakes[tuple(name for name, _ in terms)][text] = terms
    short = {text: cut for group in namesakes.values() for text, cut in _cut(group).items()}
    if len(set(short.values())) < len(short):
        return whole
    return {key: short[text] for key, text in whole.items()}


def shortened_defenses(specs: Iterable[PluginSpec]) -> dict[tuple[str, str], str]:
    """:func:`shortened`, and the control in words."""
    names = shortened(specs)
    return {key: "no defense" if key[0] == "none" else name for key, name in names.items()}


def parts_of(name: str) -> list[str]:
    """The names of what acts at once in a column; a method's own alone."""
    return name.split(JOINT)


def without(text: str, parameter: str) -> str:
    """A label less one parameter."""
    return JOINT.join(
        _written(name, [one for one in params if not one.startswith(f"{parameter}=")])
        for name, params in _terms(text)
    )


def _cut(labels: dict[str, list[Term]]) -> dict[str, str]:
    """Of labels that name the same methods."""
    uses = Counter(
        (index, param)
        for terms in labels.values()
        for index, (_, params) in enumerate(terms)
        for param in params
    )
    return {
        text: JOINT.join(
            _written(name, [one for one in params if uses[index, one] < len(labels)])
            for index, (name, params) in enumerate(terms)
        )
        for text, terms in labels.items()
    }


def _written(name: str, params: list[str]) -> str:
    return f"{name}({', '.join(params)})" if params else name


def _terms(text: str) -> list[Term]:
    """Several where several defenses are one column. A label of another form is one name."""
    terms = []
    for part in _split(text, JOINT):
        name, opened, rest = part.partition("(")
        if opened and not rest.endswith(")"):
            return [(text, [])]
        terms.append((name, _split(rest[:-1], ", ") if opened else []))
    return terms


def _split(text: str, separator: str) -> list[str]:
    """At every ``separator`` outside brackets; not at all if these do not match."""
    parts, depth, begin = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return [text]
        if depth == 0 and text.startswith(separator, index):
            parts.append(text[begin:index])
            begin = index + len(separator)
    return [text] if depth else [*parts, text[begin:]]
