"""What a check says of a plugin: in words, and as JSON. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

#: Only ``failed`` says that the plugin must be changed.
Status = Literal["ok", "failed", "doubtful", "not measured"]
_STATUSES = get_args(Status)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``check``: the check's name; ``title``: for people; ``message``: what was expected and what
    came, or what was measured; ``mend``: what to change, empty unless it failed; ``seconds``: how
    long it took.
    """

    check: str
    title: str
    status: Status = "ok"
    message: str = ""
    mend: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the plugin must be changed."""
        return self.status == "failed"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Verdict:
        """The opposite of :meth:`to_json`. Raises ``TypeError`` for what is none of its fields."""
        verdict = cls(**values)
        texts = (verdict.check, verdict.title, verdict.message, verdict.mend)
        if not all(isinstance(text, str) for text in texts) or verdict.status not in _STATUSES:
            raise TypeError("a verdict's fields must be texts, and its status one of those")
        if not isinstance(verdict.seconds, int | float) or not 0 <= verdict.seconds < 1e9:
            raise TypeError("a verdict's seconds must be a number")
        return verdict

    def lines(self) -> list[str]:
        """For a terminal: the verdict, then its message and how to mend it."""
        first = f"{self.status.upper() if self.failed else self.status:<13} {self.title}"
        more = [self.message] if self.message else []
        more += [f"to mend it: {self.mend}"] if self.mend else []
        return [first, *(f"{'':<13}   {line}" for line in more)]
