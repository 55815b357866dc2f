"""What a cell lacks, as a reader is told."""

from leaderboard.absent import by_reason


def test_what_a_family_covers_is_not_listed_one_by_one() -> None:
    """Fifteen names for what five say; another reason, or another family, is said on its own."""
    lacking = [
        ("only a detector has this number", "auroc[*]"),
        ("only a detector has this number", "auroc[generated]"),
        ("only a detector has this number", "model_score"),
        ("too few samples", "auroc[training set]"),
        ("too few samples", "tpr[generated]"),
        ("too few samples", "tpr[clean]"),
    ]
    assert by_reason(reversed(lacking)) == (
        ("too few samples", ("auroc[training set]", "tpr[clean]", "tpr[generated]")),
        ("only a detector has this number", ("auroc[*]", "model_score")),
    )
