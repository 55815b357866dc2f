"""What somebody says of a bundle, as an in-toto Statement (v1) about its manifest: plain JSON, or
in an envelope (DSSE) signed with an Ed25519 key, which needs the extra ``castlewalls[sign]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.bundle.layout import read_json, to_json
from bench.engine.store import write_atomically
from bench.errors import UserError
from bench.names import brief
from bench.results import read_plain
from bench.text import one_line

TYPE = "https://in-toto.io/Statement/v1"
#: Simple Verification Result, by who verified; Test Result, by who submits.
SVR = "https://in-toto.io/attestation/svr/v0.2"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
_PAYLOAD = "application/vnd.in-toto+json"
#: Bytes of a statement, and of a key.
MAX_STATEMENT, MAX_KEY = 4 * 2**20, 16 * 2**10
#: Before the number of a level, among the properties of a verification; the highest level.
LEVEL, TOP = "CASTLEWALLS_LEVEL_", 3
#: What they are called beside a bundle: the submitter's; a verifier's, before digits of its draw.
SUBMITTER, VERIFIER = "submitter", "svr"
#: Ends of their names: a plain one, and one in a signed envelope.
PLAIN, SIGNED = ".json", ".dsse"


def statement(name: str, sha256: str, kind: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """A statement of ``kind`` about the bundle ``name`` whose manifest has this SHA-256."""
    return {
        "_type": TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}}],
        "predicateType": kind,
        "predicate": dict(predicate),
    }


def write_beside(bundle: Path, name: str, value: Mapping[str, Any], key: Path | None) -> Path:
    """Writes a statement beside a bundle, ``BUNDLE.NAME.json``, or with a private key its envelope,
    ``BUNDLE.NAME.dsse``; returns the path. Raises :class:`UserError` if that cannot be done.
    """
    data = to_json(value)
    text = data if key is None else to_json(_signed(data, key))
    path = beside(bundle, name, key is not None)
    try:
        write_atomically(path, text.decode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def beside(bundle: Path, name: str, signed: bool) -> Path:
    """Where a statement about a bundle is kept."""
    folder = bundle.resolve()
    return folder.with_name(f"{folder.name}.{name}{SIGNED if signed else PLAIN}")


def read(path: Path, key: Path | None = None) -> dict[str, Any]:
    """A statement's content, checked to be one. An envelope needs the public ``key`` of who signed
    it, and with a key nothing but an envelope is read. Raises :class:`UserError` in one line.
    """
    try:
        value = read_json(read_plain(path, MAX_STATEMENT), path.name)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if isinstance(value, dict) and "payloadType" in value:
        if key is None:
            raise UserError(f"{path} is signed; name the signer's public key with --key")
        value = _opened(value, key, path)
    elif key is not None:
        raise UserError(f"{path} must be signed, for --key names a key, and is not")
    if not _is_statement(value):
        raise UserError(f"{path} must be an in-toto statement about one bundle, and is not")
    return dict(value)


def subject_of(value: Mapping[str, Any]) -> str:
    """The SHA-256 of the manifest that a statement is about."""
    return str(value["subject"][0]["digest"]["sha256"])


def level_of(value: Mapping[str, Any]) -> int:
    """The level that a verification says was reached, with all below it; 0 for none."""
    properties = value["predicate"].get("properties")
    listed = properties if value["predicateType"] == SVR and isinstance(properties, list) else []
    return next((one for one in range(TOP) if f"{LEVEL}{one + 1}" not in listed), TOP)


def _is_statement(value: Any) -> bool:
    try:
        (subject,) = value["subject"]
        return (
            value["_type"] == TYPE
            and isinstance(value["predicateType"], str)
            and isinstance(value["predicate"], dict)
            and isinstance(subject["digest"]["sha256"], str)
        )
    except (KeyError, TypeError, ValueError):
        return False


# --- signatures -----------------------------------------------------------------------------------


def signer_of(key: Path) -> Any:
    """Who signs with a private key. Raises :class:`UserError` for what is none, and without the
    extra.
    """
    _, signer, serialization = _library()
    try:
        who = signer.CryptoSigner(serialization.load_pem_private_key(_key(key), None))
    except (ValueError, TypeError) as error:
        what = "a private key as PEM, without a password"
        raise UserError(f"{named(key)} must be {what}") from error
    _check_kind(who.public_key, key)
    return who


def _signed(payload: bytes, key: Path) -> dict[str, Any]:
    dsse, *_ = _library()
    envelope = dsse.Envelope(payload, _PAYLOAD, {})
    envelope.sign(signer_of(key))
    return dict(envelope.to_dict())


def public_key(key: Path) -> Any:
    """Whose signatures are to be verified. Raises :class:`UserError` for what is no public key, and
    without the extra.
    """
    _, signer, serialization = _library()
    try:
        public = signer.SSlibKey.from_crypto(serialization.load_pem_public_key(_key(key)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{named(key)} must be a public key as PEM, and is not") from error
    _check_kind(public, key)
    return public


def _opened(value: dict[str, Any], key: Path, path: Path) -> Any:
    """What an envelope holds, once its signature was verified."""
    dsse, *_ = _library()
    from securesystemslib.exceptions import VerificationError

    public = public_key(key)
    try:
        envelope = dsse.Envelope.from_dict(value)
        envelope.verify([public], 1)
    except VerificationError:
        raise UserError(f"{path} is not signed with the key {named(key)}") from None
    except Exception as error:  # whatever a stranger's envelope makes the library raise
        raise UserError(f"{path} is no signed envelope: {one_line(str(error), 120)}") from None
    if envelope.payload_type != _PAYLOAD:
        raise UserError(f"{path} must hold {_PAYLOAD}, got {brief(envelope.payload_type)}")
    try:
        return read_json(envelope.payload, path.name)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _library() -> tuple[Any, Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from securesystemslib import dsse, signer
    except ImportError:
        raise UserError(
            "signatures need the extra castlewalls[sign]: pip install 'castlewalls[sign]'"
        ) from None
    return dsse, signer, serialization


def _key(path: Path) -> bytes:
    try:
        return read_plain(path, MAX_KEY)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"key {named(path)} cannot be read: {reason}") from error


def named(key: Path) -> str:
    """A key's path, for a line of text."""
    return one_line(str(key), 200)


def _check_kind(public: Any, key: Path) -> None:
    if public.keytype != "ed25519":
        raise UserError(f"{named(key)} must be an Ed25519 key, got {brief(public.keytype)}")
