"""Sealed evaluations: seeds and triggers drawn from a secret whose hash was published before the
defenses were written.

The owner of the secret publishes its :func:`commitment`. A run with the secret uses seeds and
triggers on which nobody could have tuned anything; once the secret is published too, anyone can
check that it matches the commitment, and repeat the run.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench.contracts.attack import Attack
from bench.errors import UserError, no_file
from bench.results import MAX_DESCRIPTION
from bench.suite import LONGEST_NAME, Suite

#: Above every seed a user would write, below the limit of every library.
FIRST_SEED, SEEDS = 10**6, 2**31 - 10**6
#: Of a file that holds one secret.
_MOST_LETTERS = 1000


def new_secret() -> str:
    """32 hexadecimal digits, 128 bits, from the system's own source of randomness."""
    return secrets.token_hex(16)


def commitment(secret: str) -> str:
    """The SHA-256 that is published beforehand, in hexadecimal."""
    return _hash("commitment", secret)


def read_secret(file: Path) -> str:
    """A secret from the file that ``castlewalls seal`` wrote. Raises :class:`UserError`."""
    if not file.is_file():  # a pipe would be waited for
        raise UserError(f"--sealed {file}: {no_file(file)}")
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_MOST_LETTERS).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--sealed {file}: cannot be read: {error}") from error
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise UserError(
            f"--sealed {file}: must hold one secret, 32 hexadecimal digits, as `castlewalls "
            f"seal` writes it"
        )
    return text


def seal(suite: Suite, secret: str) -> Suite:
    """``suite`` with as many seeds as it has, drawn from ``secret``, and each attack with a trigger
    drawn from it.
    """
    seeds = tuple(_number(secret, f"seed {index}") for index in range(len(suite.seeds)))
    if len(set(seeds)) < len(seeds):  # two in a billion
        raise UserError("the secret gives one seed twice; make another with `castlewalls seal`")
    attacks = {
        attack: attack.sealed(_number(secret, f"trigger of {attack.card.name}"))
        for attack in suite.attacks
    }
    name = f"{suite.name}-sealed"
    if len(name) > LONGEST_NAME:
        raise UserError(f"{name} must be at most {LONGEST_NAME} letters, got {len(name)}")
    note = f"Sealed: seeds and triggers from the secret behind {commitment(secret)}."
    room = MAX_DESCRIPTION - len(note) - 1
    return replace(
        suite,
        name=name,
        description=f"{suite.description[:room]} {note}".strip(),
        seeds=seeds,
        attacks=tuple(dict.fromkeys(attacks.values())),
        assigned=_assigned(suite, attacks),
    )


def _assigned(suite: Suite, attacks: Mapping[Attack, Attack]) -> dict[str, frozenset[str]]:
    """Where a sealed attack is met: wherever one of those is that it stands for."""
    everywhere = frozenset(testbed.name for testbed in suite.testbeds)
    met: dict[str, frozenset[str]] = {}
    for attack, sealed in attacks.items():
        names = suite.assigned.get(attack.label(), everywhere)
        met[sealed.label()] = met.get(sealed.label(), frozenset()) | names
    return {**suite.assigned, **met}


def _number(secret: str, what: str) -> int:
    return FIRST_SEED + int(_hash(what, secret), 16) % SEEDS


def _hash(what: str, secret: str) -> str:
    return hashlib.sha256(f"castlewalls {what} {secret}".encode()).hexdigest()
