"""Text from outside: no escape reaches a terminal, no surrogate a file, no megabyte a page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.text import one_line, plain, tail


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x9b2Jx", "x"),
        ("\x1bcx", "x"),
        ("a\x00b\x7fc\x85d", "abcd"),
        ("a\u202eb\u2066c", "abc"),
        ("caf\udce9", "caf\\udce9"),
        ("ä\tb\nc", "ä\tb\nc"),
    ],
)
def test_escapes_and_surrogates_are_taken_out(text, read):
    assert plain(text) == read


@given(st.text(st.characters(codec=None), max_size=200))
def test_whatever_comes_in_can_be_written_and_is_quiet(text):
    for read in (plain(text), one_line(text), tail(text)):
        read.encode()
        assert not set(read) & {chr(code) for code in [*range(9), *range(11, 32), *range(127, 160)]}
    assert "\n" not in one_line(text)


def test_a_long_reason_is_cut_and_counted():
    assert one_line("x" * 30_000_000) == f"{'x' * 300} ... (30000000 characters)"
    assert one_line("x" * 300) == "x" * 300
    assert tail("a" * 50_000 + "end").endswith("aend") and len(tail("a" * 50_000)) == 20_000
