"""A sealed evaluation: what nobody could have tuned on, and everybody can check afterwards."""

import dataclasses
import os

import pytest
from click.testing import CliRunner

from bench.cli import cli
from bench.errors import UserError
from bench.registry import Registry
from bench.results import MAX_DESCRIPTION
from bench.sealed import commitment, new_secret, read_secret, seal
from bench.suite import load_suite, parse_suite

SECRET = "00112233445566778899aabbccddeeff"


def test_seeds_and_triggers_come_from_the_secret_alone() -> None:
    """The same secret repeats the run; another shares nothing with it, nor with the suite as
    written.
    """
    suite = load_suite("poison", Registry())
    first, again, other = (seal(suite, secret) for secret in (SECRET, SECRET, SECRET[::-1]))
    assert first == again
    assert not set(first.seeds) & (set(other.seeds) | set(suite.seeds)) and len(first.seeds) == 5
    assert first.name == "poison-sealed" and commitment(SECRET) in first.description
    drawn = [attack.pattern_seed for attack in first.attacks if attack.card.name == "badnets"]
    assert len(drawn) == 1 and drawn != [
        attack.pattern_seed for attack in other.attacks if attack.card.name == "badnets"
    ]
    assert [attack.card.name for attack in first.attacks] == ["badnets", "wanet", "relabel_only"]


def test_a_sealed_attack_stays_on_its_testbeds() -> None:
    """Its trigger is another, and so its label; two that become one are met where either was."""
    pattern = {"params": {"pattern": "badnets1"}}
    suite = {
        "name": "s",
        "testbeds": ["digits-ddpm", "digits-cfg", "digits-sd"],
        "attacks": [
            {"name": "badnets", "testbeds": ["digits-cfg"]} | pattern,
            {"name": "badnets", "testbeds": ["digits-sd"], "params": {"pattern": "badnets2"}},
            {"name": "baddiffusion", "testbeds": ["digits-ddpm"]},
        ],
        "defenses": [{"name": "anp", "testbeds": ["digits-ddpm"]}],
    }
    sealed = seal(parse_suite(suite, Registry(), "s.yaml"), SECRET)
    badnets, baddiffusion = sealed.attacks
    where = [
        [one.name for one in sealed.testbeds if sealed.meets(plugin, one.name)]
        for plugin in (badnets, baddiffusion, *sealed.defenses)
    ]
    assert where == [["digits-cfg", "digits-sd"], ["digits-ddpm"], ["digits-ddpm"]]


def test_the_hash_tells_the_secret_apart_and_does_not_tell_it() -> None:
    assert commitment(SECRET) == "dcdd5bb8283c2492980cba44b529a061f30eee5b097264456c76f50017ae27f4"
    assert len({new_secret() for _ in range(50)}) == 50


def test_a_secret_is_made_once_and_read_back(tmp_path) -> None:
    """Overwriting a secret whose hash is published would make the promise impossible to keep."""
    file = tmp_path / "secret.txt"
    made = CliRunner().invoke(cli, ["seal", "--output", str(file)])
    assert made.exit_code == 0 and made.output.strip() == commitment(read_secret(file))
    assert file.stat().st_mode & 0o077 == 0
    again = CliRunner().invoke(cli, ["seal", "--output", str(file)])
    assert again.exit_code == 2 and "File exists" in again.output


def test_a_secret_that_cannot_be_written_leaves_no_file(tmp_path, monkeypatch) -> None:
    """It would be in the way of the next one."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "chmod", full)
    made = CliRunner().invoke(cli, ["seal", "--output", str(tmp_path / "secret.txt")])
    assert made.exit_code == 2 and "No space left on device" in made.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "secret", SECRET.upper(), SECRET + "0", "\x00" * 32])
def test_what_is_no_secret_is_refused(tmp_path, text: str) -> None:
    file = tmp_path / "secret.txt"
    file.write_text(text)
    with pytest.raises(UserError, match="32 hexadecimal digits"):
        read_secret(file)
    with pytest.raises(UserError, match="absent: there is no such file"):
        read_secret(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="it must be a plain file"):  # and it is not waited for
        read_secret(tmp_path / "pipe")


def test_a_sealed_suite_can_be_published() -> None:
    """What sealing adds made a description that no reader took, and a name that no export."""
    long = {"name": "n" * 93, "description": "d" * 3990, "testbeds": ["digits-ddpm"]}
    suite = parse_suite(long | {"attacks": ["baddiffusion"]}, Registry(), "s.yaml")
    sealed = seal(suite, SECRET)
    assert len(sealed.name) == 100 and len(sealed.description) <= MAX_DESCRIPTION
    assert sealed.description.endswith(f"{commitment(SECRET)}.")
    with pytest.raises(UserError, match="must be at most 100 letters, got 101"):
        seal(dataclasses.replace(suite, name="n" * 94), SECRET)
