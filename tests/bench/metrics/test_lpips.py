"""LPIPS over a random trunk: the code's path without a network, and a slow definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bench.errors import UserError
from bench.metrics import lpips


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet's convolutions, random, under torchvision's names."""
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = torchvision.models.alexnet(weights=None).features
    path = tmp_path_factory.mktemp("trunk") / "alexnet.safetensors"
    save_file({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    return path


def pictures(seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 3, 32, 32), generator=draw, dtype=torch.uint8)


def slow(images: torch.Tensor, originals: torch.Tensor, trunk: Path) -> torch.Tensor:
    """Layer by layer, as section 3.1 of the paper has it (eq. 1)."""
    import torchvision
    from safetensors.torch import load_file
    from torchmetrics.functional.image.lpips import _LPIPS

    network = torchvision.models.alexnet(weights=None).features.eval()
    weights = load_file(trunk)
    network.load_state_dict({name.removeprefix("features."): w for name, w in weights.items()})
    fitted = _LPIPS(pretrained=True, net="alex", pnet_rand=True).state_dict()
    shift, scale = (
        torch.tensor(values).reshape(1, 3, 1, 1)
        for values in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
    )
    sides = [((side.float() / 127.5 - 1) - shift) / scale for side in (images, originals)]
    total = torch.zeros(len(images))
    taken = 0
    for layer in network[:12]:
        sides = [layer(side) for side in sides]
        if isinstance(layer, torch.nn.ReLU):
            one, other = (
                side / (side.square().sum(1, keepdim=True) + 1e-8).sqrt() for side in sides
            )
            weight = fitted[f"lin{taken}.model.1.weight"]
            total += ((one - other).square() * weight).sum(1).mean((1, 2))
            taken += 1
    assert taken == 5
    return total


def test_it_is_the_papers_sum_over_layers(trunk: Path) -> None:
    """With the weights that were fitted to people's judgements; images in [-1, 1], not [0, 1]."""
    pytest.importorskip("torchmetrics")
    one, other = pictures(0), pictures(1)
    other[2] = one[2]
    values = lpips.distance(one, other, trunk)
    np.testing.assert_allclose(values, slow(one, other, trunk).detach(), rtol=1e-4, atol=1e-7)
    assert values[2] == 0 and (values[:2] > 0).all()
    near = (one.int() + torch.randint(-8, 9, one.shape)).clamp(0, 255).to(torch.uint8)
    assert (lpips.distance(near, one, trunk)[:2] < values[:2]).all()


def test_nothing_is_downloaded(trunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("asked for the network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    lpips.distance(pictures(0), pictures(1), trunk)


def test_who_has_no_torchmetrics_is_told_how_to_get_it(
    trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lpips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'castlewalls\[lpips\]'"):
        lpips.checked(trunk)


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips.importlib.util, "find_spec", lambda name: name)
    path = tmp_path / "other.safetensors"
    with pytest.raises(UserError, match="there is no AlexNet at"):
        lpips.checked(path)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="must be AlexNet as safetensors"):
        lpips.checked(path)
    save_file({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"features.0.weight must be \(64, 3, 11, 11\), got \(1,\)"):
        lpips.checked(path)


def test_small_or_grey_images_are_refused(trunk: Path) -> None:
    for images in (pictures(0)[:, :, :16, :16], pictures(0)[:, :1]):
        with pytest.raises(ValueError, match="images must be uint8"):
            lpips.distance(images, images, trunk)
