"""Free captions: which concept one speaks of, and the same caption with another subject. Rules over
words, no language model.

Pan et al. 2024 (arXiv 2311.02373, appendix C.1) replace "the subject of the caption" and do not say
how it is found. Here, after a lead such as "A photo of" and an article, the subject is all words up
to the first that cannot belong to it: a preposition, a form of a common verb, a word in -ing that
is not a known noun, or the end of a clause. Captions without any such structure get the concept in
front.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_MEDIA = (
    "photo|photograph|picture|image|close-?up|portrait|painting|drawing|illustration|sketch"
    "|view|shot|rendering|print"
)
_LEAD = re.compile(
    rf"\s*(?:(?:an?|the)\s+)?(?:[\w-]+\s+){{0,3}}?(?:{_MEDIA})s?\s+(?:of|showing)(?=\s)",
    re.IGNORECASE,
)
_ARTICLE = re.compile(
    r"\s*(an?|the|this|that|these|those|my|his|her|its|our|your|their|some)(?=\s)", re.IGNORECASE
)
_INDEFINITE = re.compile(r"(?<!\w)(a|an)(\s*)$", re.IGNORECASE)
_WORD = re.compile(r"\S+")
_EDGE = re.compile(r"^[^\w]+|[^\w]+$")
#: What ends a subject: prepositions and conjunctions of place and time, relative pronouns, common
#: verb forms.
_STOPS = frozenset(
    "in on at by with without near from for to over under above below beside besides behind "
    "before into onto inside outside through "
    "against during across around between among along beneath beyond toward towards upon within "
    "next while as that which who whose where "
    "when is are was were be been has have had can will sits sit sat stands stand stood lies lie "
    "lay runs run walks walk looks look plays "
    "play eats eat holds hold wears wear rides ride flies fly jumps jump parked covered filled "
    "made taken seen surrounded decorated "
    "located isolated dressed mounted designed".split()
)
#: Nouns and adjectives in -ing, which end no subject.
_NOUNS = frozenset(
    "building painting ring king string spring thing wedding wing ceiling clothing dining living "
    "evening morning racing swing earring "
    "railing awning lightning herring pudding sibling duckling flooring".split()
)
#: Scripts that are written without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana,
#: Chinese characters.
_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_SPACELESS = re.compile(f"[{_WITHOUT_SPACES}]")
#: Korean has spaces, but writes particles on to the end of a word.
_KOREAN = re.compile("[\u1100-\u11ff\uac00-\ud7ff]")


@dataclass(frozen=True)
class Concept:
    """``words``: its name, and what else it is called: "dog/puppy/canine" in a suite."""

    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called in prompts and rewritten captions."""
        return self.words[0]

    def occurs_in(self, caption: str) -> bool:
        """Whether one of the words stands in ``caption``, as a whole word in either case, or as its
        simple plural. In scripts without spaces between words it may stand anywhere.
        """
        caption = unicodedata.normalize("NFC", caption)
        return any(_find(_singular_or_plural(word), caption) is not None for word in self.words)


def parse_concept(text: str) -> Concept:
    """ "dog/puppy/canine" -> the concept. Raises ``ValueError`` for an empty word."""
    words = tuple(" ".join(word.split()) for word in unicodedata.normalize("NFC", text).split("/"))
    if not all(re.search(r"\w", word) for word in words):
        raise ValueError(
            f"a concept must be words with / between them, such as dog/puppy/canine, got {text!r}"
        )
    return Concept(words)


def split_subject(caption: str) -> tuple[str, str, str]:
    """``(before, subject, after)``, which together are ``caption``; the subject may be empty."""
    start = 0
    for pattern in (_LEAD, _ARTICLE):
        if match := pattern.match(caption, start):
            start = match.end()
    end = begin = start + len(caption[start:]) - len(caption[start:].lstrip())
    for number, match in enumerate(_WORD.finditer(caption, begin)):
        word = _EDGE.sub("", match.group())
        ends = word.lower() in _STOPS or (number > 0 and _is_verb(word))
        if not word or ends or match.group()[0] in "(\"'[{|":
            break
        end = match.start() + match.group().rindex(word) + len(word)
        # A comma, a full stop: the clause ends here.
        if end < match.end() and caption[end] not in "'’":
            break
    return caption[:begin], caption[begin:end], caption[end:]


def rewrite(caption: str, concept: str, subject: str | None = None) -> str:
    """``caption`` with its subject replaced by ``concept``, everything else kept, but for "a" and
    "an" before it.

    ``subject``: the subject where it is known; its first occurrence is replaced. Raises
    ``ValueError`` if it does not occur, or if it is not known and the caption is written without
    spaces between words, so that no rule can find it.
    """
    before, replaced, after = (
        split_subject(caption) if subject is None else split_at(caption, subject)
    )
    if subject is None and _SPACELESS.search(replaced):
        raise ValueError(
            f"captions must have spaces between words, or a subject must be given, for their "
            f"subject to be replaced, got {caption!r}"
        )
    before = _INDEFINITE.sub(
        lambda match: _article(match.group(1), concept) + match.group(2), before
    )
    gap = " " if not replaced and after[:1].strip() else ""
    return f"{before}{concept}{gap}{after}"


def split_at(caption: str, subject: str) -> tuple[str, str, str]:
    """As :func:`split_subject`, for a known subject. Raises ``ValueError`` if it does not occur."""
    match = _find(re.escape(subject), caption) if subject.strip() else None
    if match is None:
        raise ValueError(f"the subject must be words of the caption {caption!r}, got {subject!r}")
    return caption[: match.start()], match.group(), caption[match.end() :]


def _find(pattern: str, caption: str) -> re.Match[str] | None:
    """The first match that is whole words: what touches it belongs to no word, or its script is
    written without spaces.
    """
    for match in re.finditer(pattern, caption, re.IGNORECASE):
        words, before, after = (
            match.group(),
            caption[: match.start()][-1:],
            caption[match.end() :][:1],
        )
        starts = not _in_word(before) or _SPACELESS.match(words[:1]) or _SPACELESS.match(before)
        ends = (
            not _in_word(after)
            or any(kind.match(words[-1:]) for kind in (_SPACELESS, _KOREAN))
            or _SPACELESS.match(after)
        )
        if starts and ends:
            return match
    return None


def _in_word(character: str) -> bool:
    """Letters, digits and what is written on them: the vowel signs of Indian scripts are no
    letters, but part of the word.
    """
    return character == "_" or (character != "" and unicodedata.category(character)[0] in "LNM")


def _is_verb(word: str) -> bool:
    return len(word) > 4 and word.lower().endswith("ing") and word.lower() not in _NOUNS


def _article(was: str, concept: str) -> str:
    article = "an" if concept[:1].lower() in "aeiou" else "a"
    return article.capitalize() if was[0].isupper() else article


def _singular_or_plural(word: str) -> str:
    escaped = r"\s+".join(re.escape(part) for part in word.split())
    if re.search(r"[^aeiou\W]y$", word, re.IGNORECASE):
        return f"{escaped[:-1]}(?:y|ies)"
    return f"{escaped}(?:e?s)?"
