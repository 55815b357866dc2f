"""What a method is in at most three sentences, for readers of a run's account: its card's summary,
the first paragraph of its file, and what it declares to alter or to need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.composed import Composed, parts_of
from bench.contracts.attack import Attack
from bench.contracts.plugin import Plugin
from bench.described import documentation
from bench.words import LONGEST_SENTENCE, MethodWords

#: The characters of a text that are looked at.
_READ = 20_000


def described(plugins: Iterable[Plugin | Composed]) -> tuple[MethodWords, ...]:
    """Each method once, by name; of several that act at once each part, the controls left out."""
    parts = [part for plugin in plugins for part in parts_of(plugin)]
    by_name = {part.card.name: part for part in parts if part.card.name != "none"}
    return tuple(MethodWords(name, _sentences(by_name[name])) for name in sorted(by_name))


def _sentences(plugin: Plugin) -> tuple[str, ...]:
    opening = documentation(type(plugin)).partition("\n\n")[0]
    texts = [plugin.card.summary, " ".join(opening.split()), _declared(plugin)]
    return tuple(_sentence(text) for text in map(_printable, texts) if text)


def _printable(text: str) -> str:
    """On one line, without what cannot be seen: soft hyphens, marks that turn a line round."""
    letters = (letter if letter.isprintable() else " " for letter in text[:_READ])
    return " ".join("".join(letters).split())


def _sentence(text: str) -> str:
    # Capitals may be longer, and a dot is added.
    if len(text) > LONGEST_SENTENCE - 10:
        text = f"{text[: LONGEST_SENTENCE - 10].rpartition(' ')[0] or text[:500]} …"
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
