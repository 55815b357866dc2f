"""What a plugin says of its own result reaches the record as it was said, and nothing else does."""

import pytest

from bench.artefacts.images import LONGEST_REMARK, MOST_REMARKS, Remarks, read_remarks
from bench.errors import ContractError


def test_remarks_are_kept_once_each_in_their_order(tmp_path) -> None:
    """A detector that is asked twice says the same twice; the record shows it once."""
    remarks = Remarks()
    for text in ("masks collapsed", "few steps", "masks collapsed"):
        remarks(text)
    remarks.save(tmp_path)
    assert read_remarks(tmp_path) == ["masks collapsed", "few steps"]
    assert read_remarks(tmp_path / "made before there were any") == []


@pytest.mark.parametrize(
    "text", ["", "a\nb", "\x1b[31mred", "é", "x" * (LONGEST_REMARK + 1), None, 3]
)
def test_what_would_not_fit_a_table_is_refused(text) -> None:
    """A remark stands on the board and in a terminal: no escapes, no page of text."""
    with pytest.raises(ContractError, match="a remark must be one line"):
        Remarks()(text)


def test_remarks_without_end_are_refused() -> None:
    remarks = Remarks()
    for number in range(MOST_REMARKS):
        remarks(f"remark {number}")
    with pytest.raises(ContractError, match="may make 5 remarks"):
        remarks("one more")
