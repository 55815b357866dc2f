"""The copy detector, driven by a tiny network saved as TorchScript: what is opened, what it is
shown, and which way its score points.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.metrics import fid
from bench.metrics.replication import nearest
from bench.testbeds.parts import sscd
from bench.testbeds.parts.sscd_extractor import open_pinned, prepare

ROOT = Path(__file__).resolve().parents[3]


def save_network(path: Path) -> str:
    """Pooled colours, 3 x 7 x 7, as TorchScript; the file's hash."""
    torch.jit.script(nn.Sequential(nn.AvgPool2d(32), nn.Flatten())).save(str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def noise(count: int, seed: int, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_a_copy_scores_one_and_noise_less(tmp_path: Path) -> None:
    """Through torch-fidelity, as a run does it."""
    path = tmp_path / sscd.FILE
    sscd.register(save_network(path))
    training = fid.extract_features(noise(20, 0), sscd.NAME, path)
    torch.testing.assert_close(training.norm(dim=1), torch.ones(20))
    copies = nearest(fid.extract_features(noise(20, 0)[[4, 9]], sscd.NAME, path), training)
    torch.testing.assert_close(copies.similarities, torch.ones(2))
    assert copies.indices.tolist() == [4, 9]
    others = nearest(fid.extract_features(noise(20, 1), sscd.NAME, path), training)
    assert others.similarities.max() < 0.9 and others.mean < copies.mean


def test_images_are_prepared_as_published() -> None:
    """Shorter side to 256, centre 224, [-1, 1]: at an odd size, and at one where the resizing
    leaves pixels alone.
    """
    assert prepare(noise(2, 0)).shape == (2, 3, 224, 224)
    assert prepare(noise(1, 0, 300)[..., :150]).shape == (1, 3, 224, 224)
    same = noise(1, 0, 256)
    torch.testing.assert_close(prepare(same), same[..., 16:240, 16:240].float() / 127.5 - 1)
    flat = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    torch.testing.assert_close(prepare(flat), torch.ones(1, 3, 224, 224))


def test_only_the_file_that_was_meant_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchScript is a program: bytes of another hash never reach its reader, whoever calls it."""
    path = tmp_path / sscd.FILE
    right = save_network(path)
    wrong = "0" * 64
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("opened"))
    message = f"must have the sha256 .*{wrong}, got {right}; it is not opened"
    with pytest.raises(UserError, match=message) as caught:
        sscd.checked_file("a-testbed", str(path), wrong)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("a-testbed: ")
    with pytest.raises(UserError, match=message):
        open_pinned(path, wrong)
    sscd.register(wrong)
    with pytest.raises(UserError, match=message):
        fid.extract_features(noise(1, 0), sscd.NAME, path)
    assert sscd.checked_file("a-testbed", str(path), right) == path


def test_the_last_registration_counts(tmp_path: Path) -> None:
    """One worker may serve two testbeds, with two files."""
    path = tmp_path / sscd.FILE
    right = save_network(path)
    for sha256 in ("0" * 64, right, right):
        sscd.register(sha256)
    assert fid.extract_features(noise(3, 0), sscd.NAME, path).shape == (3, 147)


def test_a_missing_file_and_one_that_is_no_torchscript_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / sscd.FILE
    with pytest.raises(
        UserError,
        match=f"a-testbed: no SSCD network at .*; put {sscd.FILE} there, or set sscd to null",
    ):
        sscd.checked_file("a-testbed", str(path), "0" * 64)
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UserError, match="must be a TorchScript file") as caught:
        open_pinned(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert "\n" not in str(caught.value) and not Path("pwned").exists()


def test_torchscript_is_opened_in_one_place() -> None:
    """A second place would be one without the hash."""
    rooms = ("attacks", "bench", "defenses", "detectors", "leaderboard")
    opening = {
        path.name
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.jit.load", "jit.load")
    }
    assert opening == {"sscd_extractor.py"}
