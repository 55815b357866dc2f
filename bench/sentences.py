"""What a method is in at most three sentences, for readers of a run's account: its card's summary,
the first paragraph of its file, and what it declares to alter or to need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.composed import Composed, parts_of
from bench.contracts.attack import Attack
from bench.contracts.plugin import Plugin
from bench.described import documentation
from bench.text import one_line
from bench.words import LONGEST_SENTENCE, MethodWords


def described(plugins: Iterable[Plugin | Composed]) -> tuple[MethodWords, ...]:
    """Each method once, by name; of several that act at once each part, the controls left out."""
    parts = [part for plugin in plugins for part in parts_of(plugin)]
    by_name = {part.card.name: part for part in parts if part.card.name != "none"}
    return tuple(MethodWords(name, _sentences(by_name[name])) for name in sorted(by_name))


def _sentences(plugin: Plugin) -> tuple[str, ...]:
    opening = documentation(type(plugin)).partition("\n\n")[0]
    texts = [plugin.card.summary, " ".join(opening.split()), _declared(plugin)]
    return tuple(_sentence(text) for text in texts if text.strip())


def _sentence(text: str) -> str:
    text = one_line(text, LONGEST_SENTENCE - 1)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")


def _declared(plugin: Plugin) -> str:
    if isinstance(plugin, Attack):
        calls = [f"{one.name} ({one.words})" if one.words else one.name for one in plugin.calls]
        called = f"; the adversary calls by {_joined(calls)}" if calls else ""
        return f"it alters {_joined(sorted(plugin.card.alters)) or 'nothing'}{called}"
    needs = _joined(sorted(plugin.card.needs))
    return f"what its user must have: {needs}" if needs else ""


def _joined(words: Sequence[str]) -> str:
    *first, last = words or ("",)
    return f"{', '.join(first)} and {last}" if first else last
