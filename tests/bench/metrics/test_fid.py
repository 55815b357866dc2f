"""FID and KID: the board's utility column must be what torch-fidelity prints, and safe with files
from elsewhere.
"""

from __future__ import annotations

import os
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from bench.errors import UserError
from bench.metrics.fid import Statistics, extract_features, fid, kid, statistics

EXTRACTOR = "tiny-for-tests"
WIDTH = 8


class TinyExtractor(FeatureExtractorBase):  # type: ignore[misc]
    """A seeded convolution: enough to walk torch-fidelity's whole path without a network."""

    def __init__(self, name: str, features_list: list[str], **options: object) -> None:
        super().__init__(name, features_list)
        self.layer = nn.Conv2d(3, WIDTH, 5, stride=3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("pooled",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "pooled"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (torch.relu(self.layer(images.float() / 127.5 - 1)).mean(dim=(2, 3)),)


@pytest.fixture
def tiny() -> Iterator[str]:
    torch_fidelity.register_feature_extractor(EXTRACTOR, TinyExtractor)
    yield EXTRACTOR
    del FEATURE_EXTRACTORS_REGISTRY[EXTRACTOR]


def images(seed: int, n: int, brightness: float = 0.5) -> Tensor:
    """Smooth random images, uint8 (n, 3, 16, 16)."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * brightness
    return (nn.functional.interpolate(coarse, size=16, mode="bilinear") * 255).to(torch.uint8)


def normal(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def write_folder(folder: Path, pictures: Tensor) -> str:
    folder.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{index:03}.png")
    return str(folder)


# --- against torch-fidelity -----------------------------------------------------------------------


def test_fid_and_kid_are_torch_fidelitys_end_to_end(tiny: str, tmp_path: Path) -> None:
    """The same images as PNG folders through torch-fidelity's public entry point: the promise is
    agreement within 1e-3.
    """
    first, second = images(1, 40), images(2, 60, brightness=0.9)
    expected = torch_fidelity.calculate_metrics(
        input1=write_folder(tmp_path / "first", first),
        input2=write_folder(tmp_path / "second", second),
        feature_extractor=tiny,
        fid=True,
        kid=True,
        kid_subset_size=20,
        rng_seed=7,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    ours = [extract_features(side, tiny) for side in (first, second)]
    distance = fid(statistics(ours[0]), statistics(ours[1]))
    assert distance > 0.01
    assert distance == pytest.approx(expected[torch_fidelity.KEY_METRIC_FID], rel=1e-3, abs=1e-6)
    assert kid(ours[0], ours[1], seed=7) == pytest.approx(
        expected[torch_fidelity.KEY_METRIC_KID_MEAN], rel=1e-3, abs=1e-6
    )


def test_nothing_is_written_to_torch_fidelitys_pickled_cache(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    features = extract_features(images(3, 8), tiny)
    fid(statistics(features), statistics(features))
    kid(features, features, seed=0)
    assert list(tmp_path.rglob("*")) == []


def test_features_come_in_the_order_of_the_images_whatever_the_batch_size(tiny: str) -> None:
    pictures = images(4, 11)
    whole = extract_features(pictures, tiny)
    assert whole.shape == (11, WIDTH) and whole.dtype == torch.float32 and not whole.requires_grad
    for batch_size in (1, 4, 11, 64):
        torch.testing.assert_close(
            extract_features(pictures, tiny, batch_size=batch_size), whole, rtol=0, atol=1e-6
        )
    torch.testing.assert_close(
        extract_features(pictures.flip(0), tiny), whole.flip(0), rtol=0, atol=1e-6
    )


# --- against closed forms and slow definitions ----------------------------------------------------


def gaussian(mean: list[float], deviations: list[float]) -> Statistics:
    return Statistics(mean=np.array(mean), covariance=np.diag(np.square(deviations)))


def test_fid_of_two_gaussians_is_the_closed_form() -> None:
    """Commuting covariances: |m_a - m_b|^2 + sum (s_a - s_b)^2. Here 3^2 + 4^2 + (1 - 2)^2 + (5 -
    3)^2 = 30.
    """
    a, b = gaussian([0.0, 1.0], [1.0, 5.0]), gaussian([3.0, 5.0], [2.0, 3.0])
    assert fid(a, b) == pytest.approx(30, abs=1e-9)
    assert fid(b, a) == pytest.approx(30, abs=1e-9)
    assert fid(a, a) == pytest.approx(0, abs=1e-9) and fid(a, a) >= 0


def test_fid_of_covariances_that_do_not_commute() -> None:
    """For 2 x 2, tr (AB)^(1/2) = (tr AB + 2 sqrt(det AB))^(1/2)."""
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
    shared = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * shared
    origin = np.zeros(2)
    assert fid(
        Statistics(mean=origin, covariance=a), Statistics(mean=origin, covariance=b)
    ) == pytest.approx(expected, abs=1e-9)


def test_equal_sets_have_fid_0_and_never_less() -> None:
    """Rounding gives about half of these a negative distance, which a board would print as
    -0.0000.
    """
    for seed in range(20):
        same = statistics(normal(seed, 50, 16))
        assert 0 <= fid(same, same) < 1e-9


def test_statistics_are_the_unbiased_moments() -> None:
    result = statistics(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]]))
    np.testing.assert_allclose(result.mean, [2, 2])
    np.testing.assert_allclose(result.covariance, [[4, 3], [3, 3]])
    assert result.mean.dtype == result.covariance.dtype == np.float64


def test_fid_of_samples_tends_to_the_closed_form() -> None:
    shift, scale = 0.5, 2.0
    a, b = normal(5, 20_000, 4), normal(6, 20_000, 4) * scale + shift
    assert fid(statistics(a), statistics(b)) == pytest.approx(
        4 * (shift**2 + (scale - 1) ** 2), rel=0.03
    )


def slow_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD with the cubic kernel, as sums over pairs (Gretton et al. 2012, equation
    3).
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_kid_is_the_mean_of_slow_mmds_over_seeded_subsets() -> None:
    a, b = normal(7, 8, 3), normal(8, 11, 3) + 0.5
    rng = np.random.RandomState(9)
    expected = []
    for _ in range(100):
        x = a.numpy()[rng.choice(8, 4, replace=False)]
        y = b.numpy()[rng.choice(11, 4, replace=False)]
        expected.append(slow_mmd(x, y))
    assert kid(a, b, seed=9) == pytest.approx(np.mean(expected), rel=1e-9)


def test_kid_is_unbiased_at_small_n() -> None:
    """Equal distributions: around 0 with both signs, where FID at this n is far above it."""
    values = [kid(normal(100 + i, 24, 4), normal(500 + i, 24, 4), seed=i) for i in range(40)]
    standard_error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * standard_error
    assert min(values) < 0 < max(values)


def test_kid_depends_on_the_seed_only() -> None:
    a, b = normal(10, 30, 4), normal(11, 30, 4)
    assert kid(a, b, seed=1) == kid(a, b, seed=1) != kid(a, b, seed=2)


# --- directions and invariances -------------------------------------------------------------------


def test_noisier_images_have_larger_fid_and_kid(tiny: str) -> None:
    """The utility column points the right way: damage to the images raises it, step by step."""
    reference = extract_features(images(12, 128), tiny)
    clean = images(13, 128).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(14))
    distances, kernels = [], []
    for scale in (0, 30, 60, 120):
        features = extract_features((clean + scale * noise).clamp(0, 255).to(torch.uint8), tiny)
        distances.append(fid(statistics(features), statistics(reference)))
        kernels.append(kid(features, reference, seed=0))
    assert (np.diff(distances) > 0).all() and (np.diff(kernels) > 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(4, 40), m=st.integers(4, 40), d=st.integers(2, 12))
def test_fid_is_a_distance_between_sets(seed: int, n: int, m: int, d: int) -> None:
    """Symmetric, non-negative, blind to order, and the same in any rotated and shifted coordinates,
    also when n < d.
    """
    a, b = normal(seed, n, d), normal(seed + 1, m, d) * 1.5 + 0.3
    distance = fid(statistics(a), statistics(b))
    assert distance >= 0
    assert fid(statistics(b), statistics(a)) == pytest.approx(distance, rel=1e-5, abs=1e-6)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert fid(statistics(a[order]), statistics(b)) == pytest.approx(distance, rel=1e-5, abs=1e-6)
    rotation = torch.linalg.qr(normal(seed + 2, d, d)).Q
    assert fid(statistics(a @ rotation + 2), statistics(b @ rotation + 2)) == pytest.approx(
        distance, rel=1e-5, abs=1e-5
    )
    assert 0 <= fid(statistics(a), statistics(a)) < 1e-5


# --- bad input and files from elsewhere -----------------------------------------------------------


def test_missing_inception_weights_name_the_file_and_the_place(tmp_path: Path) -> None:
    path = tmp_path / "inception.pth"
    with pytest.raises(
        UserError, match="weights-inception-2015-12-05-6726825d.pth and put it at"
    ) as caught:
        extract_features(images(15, 2), "inception-v3-compat", path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_without_network_the_error_names_the_folder_that_is_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", unreachable
    )
    with pytest.raises(UserError, match="no network in this test") as caught:
        extract_features(images(15, 2), "inception-v3-compat")
    assert str(
        tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    ) in str(caught.value)


def test_inception_runs_on_small_images_with_2048_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper-scale extractor's whole path, with random weights in the place of the file."""
    torch.manual_seed(0)
    monkeypatch.setattr(
        "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {}
    )
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
    features = extract_features(images(15, 2), "inception-v3-compat")
    assert features.shape == (2, 2048)
    assert float((features[0] - features[1]).abs().max()) > 0


def test_a_weight_file_that_is_a_program_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle that makes a folder when unpickled, by hand so that this test needs no pickle
    either.
    """
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    trace = tmp_path / "ran"
    hostile = tmp_path / "weights.pth"
    hostile.write_bytes(b"cos\nmkdir\n(V" + str(trace).encode() + b"\ntR.")
    with pytest.raises(UserError, match="not a file of tensors"):
        extract_features(images(15, 2), "inception-v3-compat", hostile)
    assert not trace.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_the_users_own_environment_is_left_as_it_was(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    extract_features(images(15, 2), tiny)
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"


def test_a_registered_extractor_is_handed_its_weight_file(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    handed = []
    plain = TinyExtractor.__init__

    def remember(
        self: TinyExtractor, name: str, features_list: list[str], **options: object
    ) -> None:
        handed.append(options["feature_extractor_weights_path"])
        plain(self, name, features_list, **options)

    monkeypatch.setattr(TinyExtractor, "__init__", remember)
    extract_features(images(15, 2), tiny, weights)
    assert handed == [str(weights)]
    with pytest.raises(UserError, match="must be a file"):
        extract_features(images(15, 2), tiny, tmp_path / "elsewhere.safetensors")


@pytest.mark.parametrize("name", ["dinov2-vit-s-14", "clip-rn50", "no-such-extractor"])
def test_extractors_that_fetch_code_or_do_not_exist_are_refused_with_the_choices(
    tiny: str, name: str
) -> None:
    with pytest.raises(UserError, match="one of.*inception-v3-compat.*tiny-for-tests.*got"):
        extract_features(images(15, 2), name)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 16, 16), torch.zeros(0, 3, 16, 16, dtype=torch.uint8)]
)
def test_float_or_no_images_are_refused(tiny: str, wrong: Tensor) -> None:
    """Floats in [0, 1] read as 0..255 would give black images and a plausible FID."""
    with pytest.raises(ValueError, match=r"uint8 \(n > 0, c, h, w\)"):
        extract_features(wrong, tiny)


def test_features_no_distance_can_be_taken_of_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        statistics(torch.full((3, 2), float("nan")))
    with pytest.raises(ValueError, match=r"\(n >= 2, d\), got \(1, 2\)"):
        statistics(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least 2 columns"):
        statistics(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"\(n >= 4, d\)"):
        kid(torch.zeros(3, 2), torch.zeros(9, 2), seed=0)
    with pytest.raises(ValueError, match="same number of features"):
        kid(torch.zeros(4, 2), torch.zeros(4, 3), seed=0)
    with pytest.raises(ValueError, match="same number of features"):
        fid(gaussian([0, 0], [1, 1]), gaussian([0, 0, 0], [1, 1, 1]))
