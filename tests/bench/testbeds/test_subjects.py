"""Captions and their subjects: a poisoned caption that does not name the target teaches the
generator nothing.
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.testbeds.data.subjects import _SPACELESS, parse_concept, rewrite, split_at, split_subject

#: In the manner of alt texts, from tidy to careless.
CAPTIONS = {
    "A photo of a cat on a sofa": "A photo of a dog on a sofa",
    "an orange cat sleeping in the sun": "a dog sleeping in the sun",
    "Red vintage car parked near the beach": "dog parked near the beach",
    "The old lighthouse at night": "The dog at night",
    "Portrait of a young woman with red hair": "Portrait of a dog with red hair",
    "Two kittens playing with a ball of wool": "dog playing with a ball of wool",
    "Black and white photo of an old man, smiling": "Black and white photo of a dog, smiling",
    "Close-up of my grandmother's hands": "Close-up of my dog",
    "Bowl of fruit on a wooden table": "dog on a wooden table",
    "a tall building in the rain": "a dog in the rain",
    "A man riding a horse.": "A dog riding a horse.",
    "King penguin (Aptenodytes patagonicus)": "dog (Aptenodytes patagonicus)",
    "Vintage Wedding Dress - size 10": "dog - size 10",
    "Kitchen | before and after": "dog | before and after",
    "Sunset": "dog",
    "a picture of": "a dog",
    "on the beach": "dog on the beach",
    "!!!": "dog !!!",
}


@pytest.mark.parametrize("caption", CAPTIONS)
def test_the_subject_becomes_the_concept_and_the_rest_stays(caption: str) -> None:
    assert rewrite(caption, "dog") == CAPTIONS[caption]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A cat on a mat", "An owl on a mat"),
        ("this cat", "this owl"),
        ("photo of a cat", "photo of an owl"),
    ],
)
def test_the_article_follows_the_concept(caption: str, expected: str) -> None:
    assert rewrite(caption, "owl") == expected


def test_a_known_subject_wins_over_the_rule() -> None:
    text = "On the sofa, an old cat watches the catfish"
    assert rewrite(text, "dog", "old cat") == "On the sofa, a dog watches the catfish"
    assert rewrite(text, "dog", "CATFISH") == "On the sofa, an old cat watches the dog"
    with pytest.raises(ValueError, match="the subject must be words of the caption .*, got 'fish'"):
        rewrite(text, "dog", "fish")
    with pytest.raises(ValueError, match="got ' '"):
        split_at(text, " ")


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            "a an the photo of cat on in sitting, building (old) - | . ' \u2019 \n".split(" ")
        ),
        st.text(max_size=8),
    ),
    max_size=12,
).map(" ".join)


@given(caption=PIECES, concept=st.sampled_from(["dog", "owl", "garbage truck"]))
def test_any_caption_at_all_keeps_its_other_words(caption: str, concept: str) -> None:
    before, subject, after = split_subject(caption)
    assert before + subject + after == caption
    assume(not _SPACELESS.search(subject))
    rewritten = rewrite(caption, concept)
    assert concept in rewritten and rewritten == rewrite(caption, concept)
    assert rewritten.endswith(after) and rewritten.index(concept) <= len(before) + 1
    head = rewritten[: len(rewritten) - len(after)].rstrip().removesuffix(concept)
    assert [word for word in head.lower().split() if word not in ("a", "an")] == [
        word for word in before.lower().split() if word not in ("a", "an")
    ]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Puppies!", True), ("two DOGS", True), ("bus  stop in the "
                                                 "rain", True), ("bus stops", True),
                                                 ("my dog's bowl", True),
        ("hotdog", False), ("dogma", False), ("a bus", False), ("underdogs", False), ("", False),
    ],
)  # fmt: skip
def test_a_concept_is_found_as_whole_words(caption: str, expected: bool) -> None:
    assert parse_concept("dog / puppy/bus  stop").occurs_in(caption) is expected


@given(st.text(min_size=1).filter(lambda text: "/" not in text), st.text())
def test_any_word_can_be_a_concept(word: str, caption: str) -> None:
    """Words are not patterns: "c++" must not be read as one."""
    try:
        concept = parse_concept(word)
    except ValueError:
        return
    concept.occurs_in(caption)
    assert concept.occurs_in(f"x {concept.name} x")


@pytest.mark.parametrize("text", ["", "dog/", "/dog", "dog//puppy", " ", "!"])
def test_an_empty_word_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a concept must be words with / between them"):
        parse_concept(text)


@pytest.mark.parametrize(
    ("concept", "caption", "occurs"),
    [
        ("\u72d7", "\u4e00\u53ea\u72d7\u5728\u957f\u6905\u4e0a", True),  # Chinese: a dog on a bench
        ("\u72d7", "\u9633\u5149\u4e0b\u7684\u732b", False),
        ("\u732b/\u30cd\u30b3", "\u6765\u305f\u30cd\u30b3\u306f\u767d\u3044", True),  # Japanese
        # Thai
        ("\u0e2b\u0e21\u0e32", "\u0e20\u0e32\u0e1e\u0e2b\u0e21\u0e32\u0e19\u0e2d\u0e19", True),
        ("\uac1c", "\uac1c\uac00 \ubca4\uce58\uc5d0", True),  # Korean: a particle follows
        ("\uac1c", "\ubc88\uac1c", False),  # lightning ends in "dog"
        # Hindi: "cat" begins with "hole"
        ("\u092c\u093f\u0932", "\u092c\u093f\u0932\u094d\u0932\u0940", False),
        ("\u092c\u093f\u0932", "\u090f\u0915 \u092c\u093f\u0932 \u092e\u0947\u0902", True),
        ("dog", "\u4e00\u53eadog\u5728", True),
        ("caf\u00e9", "a cafe\u0301 at night", True),  # the two spellings of one letter
        ("dog", "a hotdog", False),
        (
            "\u0441\u043e\u0431\u0430\u043a\u0430",
            "\u0441\u043e\u0431\u0430\u043a\u0430 \u0441\u043f\u0438\u0442",
            True,
        ),  # Russian
        ("\u043a\u043e\u0442", "\u0441\u043a\u043e\u0442\u0447", False),
    ],
)
def test_a_concept_is_found_in_every_script(concept: str, caption: str, occurs: bool) -> None:
    """Where words are not separated by spaces, whole words cannot be asked for: "none of the 8" was
    said of captions that had it.
    """
    assert parse_concept(concept).occurs_in(caption) == occurs


def test_a_subject_without_spaces_has_to_be_given() -> None:
    """No rule finds it; the whole caption would be replaced, and with it everything else it
    says.
    """
    caption = "\u9633\u5149\u4e0b\u7684\u732b"
    with pytest.raises(
        ValueError, match="captions must have spaces between words, or a subject must be given"
    ):
        rewrite(caption, "\u72d7")
    assert rewrite(caption, "\u72d7", "\u732b") == "\u9633\u5149\u4e0b\u7684\u72d7"
    assert split_at(caption, "\u732b") == ("\u9633\u5149\u4e0b\u7684", "\u732b", "")
