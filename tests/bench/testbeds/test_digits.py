"""The embedded testbed: if its data leaked, its classifier were weak or its weights another
model's, every number would be of nothing.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench import testbeds
from bench.diffusion import sampling
from bench.errors import UserError
from bench.metrics import fid
from bench.testbeds import digits_ddpm
from bench.testbeds.data.digits import CROPS, digits_over_photographs
from bench.testbeds.digits_ddpm import DIGITS_DDPM
from bench.testbeds.parts import digits_cnn
from bench.testbeds.parts.digits_unet import DigitsUNet


def test_digits_are_real_balanced_and_split_by_digit_before_cropping() -> None:
    """Two crops of one digit on both sides would flatter the classifier and the threshold."""
    splits = digits_over_photographs()
    assert {name: len(images) for name, (images, _) in splits.items()} == {
        "train": 1437 * CROPS,
        "held_out": 360 * CROPS,
    }
    for images, labels in splits.values():
        assert images.dtype == np.uint8
        assert images.shape[1:] == (3, 16, 16)
        assert np.bincount(labels).min() > 0.08 * len(labels)
        assert (labels.reshape(-1, CROPS) == labels.reshape(-1, CROPS)[:, :1]).all()
    train, held_out = (
        splits[name][0].reshape(len(splits[name][0]), -1) for name in ("train", "held_out")
    )
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in held_out}


def test_digits_are_the_same_on_every_call() -> None:
    first = digits_over_photographs()["held_out"][0].copy()
    digits_over_photographs.cache_clear()
    assert np.array_equal(first, digits_over_photographs()["held_out"][0])


def test_a_blended_pixel_is_the_absolute_difference() -> None:
    """On the dark border of a digit the photograph shows unchanged, so images keep colour and
    texture.
    """
    images = digits_over_photographs()["train"][0].astype(float)
    assert images.std(axis=1).mean() > 5  # coloured
    # the first row, where no digit is, varies with the crop
    assert images[:, :, 0, :].std(axis=(0, 1)).mean() > 30


def test_evaluation_classifier_recognises_held_out_digits() -> None:
    assert digits_cnn.held_out_accuracy(digits_cnn.load_digits_cnn()) >= 0.95


def test_extractor_gives_the_classifiers_pooled_features_to_torch_fidelity() -> None:
    testbed = DIGITS_DDPM
    testbed.features.register()
    images = testbed.data.held_out_images()[:5]
    features = fid.extract_features(images, testbed.features.extractor)
    expected = digits_cnn.load_digits_cnn().features(images)
    torch.testing.assert_close(features.float(), expected, rtol=1e-5, atol=1e-5)


def test_extractor_sees_image_quality() -> None:
    """FID in the classifier's features: real halves near zero, blurred and noisy images far, and
    farther with more noise.
    """
    testbed = DIGITS_DDPM
    testbed.features.register()
    real = testbed.data.train_images()[:1000]
    reference = fid.statistics(
        fid.extract_features(testbed.data.train_images()[1000:3000], testbed.features.extractor)
    )

    def distance(images: torch.Tensor) -> float:
        return fid.fid(
            fid.statistics(fid.extract_features(images, testbed.features.extractor)), reference
        )

    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    noisy = [distance((real + scale * noise).clamp(0, 255).byte()) for scale in (0, 30, 80)]
    assert noisy[0] < 0.5
    assert noisy[0] < noisy[1] < noisy[2]


def test_shipped_weights_draw_digits() -> None:
    """The clean base model's own samples are recognised with confidence and lie near the data, far
    nearer than an untrained network's.
    """
    testbed = DIGITS_DDPM
    testbed.features.register()
    settings = sampling.SamplerSettings(num_inference_steps=12, precision="bfloat16")
    reference = fid.statistics(
        fid.extract_features(testbed.data.train_images(), testbed.features.extractor)
    )
    distances = []
    for generator in (testbed.base_generator(), testbed.fresh_generator(0)):
        images = sampling.sample(generator.to("cpu"), 128, 0, settings)
        images = ((images + 1) * 127.5).round().byte()
        distances.append(
            fid.fid(
                fid.statistics(fid.extract_features(images, testbed.features.extractor)), reference
            )
        )
    assert distances[0] < 3 < distances[1]


def test_weights_are_half_precision_and_small() -> None:
    weights = load_file(DIGITS_DDPM.generator.weights)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    shipped = [path for path in testbeds.ASSETS.iterdir() if path.name.startswith("digits-")]
    assert sum(path.stat().st_size for path in shipped) <= 4 * 2**20


def test_assets_are_the_ones_their_hashes_name() -> None:
    assert testbeds.damaged_files() == []


def test_missing_weights_say_how_to_make_them(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(
        DigitsUNet, "weights", property(lambda self: tmp_path / "digits-ddpm.safetensors")
    )
    with pytest.raises(UserError, match="make them with `castlewalls pretrain digits-ddpm`"):
        DIGITS_DDPM.base_generator()


def test_pretrain_writes_what_the_testbed_loads(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """A few steps of the real recipe: the files exist, load, and are hashed."""
    from dataclasses import replace

    monkeypatch.setattr(
        digits_ddpm, "PRETRAINING", replace(digits_ddpm.PRETRAINING, steps=2, batch_size=8)
    )
    short = digits_cnn.train_digits_cnn
    monkeypatch.setattr(
        digits_cnn,
        "train_digits_cnn",
        lambda seed, progress=None: short(seed, steps=3, progress=progress),
    )
    reached = testbeds.pretrain("digits-ddpm", tmp_path)
    assert set(reached) == {"classifier_held_out_accuracy", "final_training_loss"}
    assert testbeds.damaged_files(tmp_path) == []
    monkeypatch.setattr(
        DigitsUNet, "weights", property(lambda self: tmp_path / "digits-ddpm.safetensors")
    )
    assert DIGITS_DDPM.base_generator().image_shape == (3, 16, 16)


def test_the_rows_of_each_digit_are_as_declared() -> None:
    """Planning counts on them without drawing the data: whether an attack finds rows enough."""
    outline, labels = DIGITS_DDPM.data.outline(), DIGITS_DDPM.data.train_labels()
    assert (
        outline.images.shape == DIGITS_DDPM.data.train_images().shape
        and outline.images.device.type == "meta"
    )
    assert (
        outline.labels is not None
        and outline.labels.bincount().tolist() == labels.bincount().tolist()
    )
