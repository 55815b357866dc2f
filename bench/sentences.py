"""What a method is, for readers of a run's account: its card's summary, how it works, as the first
paragraph of its file says after its first sentence, and how its adversary calls; and what it
declares to alter or to need.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bench.composed import Composed, parts_of
from bench.contracts.attack import Attack
from bench.contracts.defense import Defense
from bench.contracts.detector import Detector
from bench.contracts.plugin import Plugin
from bench.described import documentation
from bench.words import LONGEST_SENTENCE, MethodWords

#: The characters of a text that are looked at.
_READ = 20_000
#: Where a sentence ends and another begins.
END = re.compile(r"(?<=[.?!]) (?=[A-Z])")


def described(plugins: Iterable[Plugin | Composed]) -> tuple[MethodWords, ...]:
    """Each method once, by name; of several that act at once each part, the controls left out."""
    parts = [part for plugin in plugins for part in parts_of(plugin)]
    by_name = {part.card.name: part for part in parts if part.card.name != "none"}
    return tuple(_words(by_name[name]) for name in sorted(by_name))


def _words(plugin: Plugin) -> MethodWords:
    card = plugin.card
    needs: set[str] = {*card.needs}
    # Who repairs with what another method recovers must have what that one needs.
    if isinstance(plugin, Defense | Detector) and (inversion := plugin.uses()) is not None:
        needs |= inversion.card.needs
    alters = sorted(card.alters - {"nothing"})
    return MethodWords(card.name, _sentences(plugin), tuple(alters), tuple(sorted(needs)))


def _sentences(plugin: Plugin) -> tuple[str, ...]:
    opening = documentation(type(plugin)).partition("\n\n")[0]
    # A file's first sentence says in other words what the summary says.
    first, *rest = END.split(" ".join(opening[:_READ].split()), maxsplit=1)
    texts = [plugin.card.summary, rest[0] if rest else first, _called(plugin)]
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


def _called(plugin: Plugin) -> str:
    if not isinstance(plugin, Attack) or not plugin.calls:
        return ""
    calls = [f"{one.name} ({one.words})" if one.words else one.name for one in plugin.calls]
    return f"the adversary calls by {_joined(calls)}"


def _joined(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
