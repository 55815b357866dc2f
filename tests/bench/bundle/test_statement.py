"""What is said of a bundle: read back as it was written, and believed only from who signed it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.bundle import statement
from bench.bundle.verify import verify
from bench.cli import cli
from bench.errors import UserError

VALUE = statement.statement("mine", "0" * 64, statement.SVR, {"properties": ["A"]})


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """``mine``, ``mine.pub``, ``other.pub``; ``rsa`` is of another kind."""
    reason = "signatures are an extra: pip install 'castlewalls[sign]'"
    signer = pytest.importorskip("securesystemslib.signer", reason=reason)
    serialization = pytest.importorskip(
        "cryptography.hazmat.primitives.serialization", reason=reason
    )
    made = {}
    for name in ("mine", "other", "rsa"):
        who = (
            signer.CryptoSigner.generate_rsa()
            if name == "rsa"
            else signer.CryptoSigner.generate_ed25519()
        )
        private = serialization.load_pem_private_key(who.private_bytes, None)
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for end, data in (("", who.private_bytes), (".pub", public)):
            made[name + end] = tmp_path / f"{name}{end}"
            made[name + end].write_bytes(data)
    return made


def test_a_plain_statement_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = statement.write_beside(tmp_path / "mine", "svr-1", VALUE, None)
    assert path.name == "mine.svr-1.json"
    assert statement.read(path) == VALUE and statement.subject_of(VALUE) == "0" * 64
    with pytest.raises(UserError, match="must be signed, for --key names a key"):
        statement.read(path, tmp_path / "key")


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "x"},
        {"subject": []},
        {"subject": [{"digest": {}}]},
        {"subject": VALUE["subject"] * 2},
        {"predicate": None},
    ],
    ids=str,
)
def test_what_is_no_statement_is_refused(tmp_path: Path, change) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps({**VALUE, **change}))
    with pytest.raises(UserError, match="must be an in-toto statement about one bundle"):
        statement.read(path)


def test_a_signed_statement_is_believed_with_its_key_alone(tmp_path: Path, keys) -> None:
    path = statement.write_beside(tmp_path / "bundle", "svr-1", VALUE, keys["mine"])
    assert path.name == "bundle.svr-1.dsse"
    assert statement.read(path, keys["mine.pub"]) == VALUE
    with pytest.raises(UserError, match="is not signed with the key"):
        statement.read(path, keys["other.pub"])
    with pytest.raises(UserError, match="is signed; name the signer's public key"):
        statement.read(path)


def test_a_key_that_is_none_is_bad_input_and_not_a_refused_bundle(tmp_path: Path, keys) -> None:
    odd = tmp_path / "a\nb"
    odd.write_text("no key")
    for key in (odd, keys["mine"], tmp_path / "nowhere"):
        with pytest.raises(UserError, match="public key as PEM|cannot be read") as caught:
            verify(tmp_path, key=key)
        assert "\n" not in str(caught.value)


def test_another_content_under_the_same_signature_is_refused(tmp_path: Path, keys) -> None:
    path = statement.write_beside(tmp_path / "bundle", "svr-1", VALUE, keys["mine"])
    envelope = json.loads(path.read_text())
    better = {**VALUE, "predicate": {"properties": ["A", "B"]}}
    envelope["payload"] = base64.b64encode(json.dumps(better).encode()).decode()
    path.write_text(json.dumps(envelope))
    with pytest.raises(UserError, match="is not signed with the key"):
        statement.read(path, keys["mine.pub"])


@pytest.mark.parametrize(
    "envelope",
    [
        {"payloadType": "x"},
        {"payloadType": "x", "payload": "????", "signatures": [{}]},
        {"payloadType": [], "payload": "", "signatures": 3},
        {"payloadType": "x", "payload": "eA==", "signatures": []},
    ],
    ids=str,
)
def test_an_odd_envelope_is_refused_in_a_line(tmp_path: Path, keys, envelope) -> None:
    path = tmp_path / "one.dsse"
    path.write_text(json.dumps(envelope))
    with pytest.raises(UserError) as caught:
        statement.read(path, keys["mine.pub"])
    assert "\n" not in str(caught.value)


def test_a_key_of_another_kind_is_refused(tmp_path: Path, keys) -> None:
    for key in ("rsa", "mine.pub"):
        with pytest.raises(UserError, match="must be"):
            statement.write_beside(tmp_path / "bundle", "svr-1", VALUE, keys[key])
    with pytest.raises(UserError, match="cannot be read"):
        statement.signer_of(tmp_path / "nowhere")


def test_a_bundle_is_signed_and_verified_from_the_command_line(files, tmp_path, keys) -> None:
    def run(*arguments):
        return CliRunner().invoke(cli, [str(one) for one in arguments])

    folder = tmp_path / "bundle"
    options = ("--suite", files["suite"], "--store", files["store"], "--plugin", files["plugin"])
    made = run(
        *("submit", "shrink", *options, "--output", folder, "--allow-dirty"),
        *("--sign", keys["mine"]),
    )
    assert made.exit_code == 0, made.output
    assert f"signature {folder}.submitter.dsse" in made.stdout
    verify = ("verify", folder, "--suite", files["suite"], "--key")
    good = run(*verify, keys["mine.pub"])
    assert good.exit_code == 0 and "1 signed with the key" in good.stdout
    bad = run(*verify, keys["other.pub"])
    assert bad.exit_code == 1 and "is not signed with the key" in bad.stdout
    moved = folder.rename(tmp_path / "moved")
    unsigned = run("verify", moved, "--suite", files["suite"], "--key", keys["mine.pub"])
    assert unsigned.exit_code == 1 and "cannot be read" in unsigned.stdout
