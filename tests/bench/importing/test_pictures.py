"""Published triggers and targets, against what is known of the authors' code."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.errors import UserError
from bench.importing import pictures

SHAPE = (3, 32, 32)


def test_boxes_are_grey_on_nothing_two_pixels_from_the_corner():
    box = pictures.trigger("BOX_14", SHAPE)
    assert box.shape == SHAPE
    assert torch.equal(box[:, 16:30, 16:30], torch.zeros(3, 14, 14))
    box[:, 16:30, 16:30] = -1
    assert torch.equal(box, torch.full(SHAPE, -1.0))
    assert int((pictures.trigger("XXXSM_BOX_MED", SHAPE) == 0).sum()) == 3 * 4 * 4


def test_targets_that_are_made_by_rule():
    box = pictures.trigger("BOX_14", SHAPE)
    corner = pictures.target("CORNER", SHAPE, None, None)
    assert torch.equal(corner[:, :10, :10], torch.zeros(3, 10, 10))
    assert corner[:, 10:].unique().tolist() == [pytest.approx(-0.4)]
    still = pictures.target("NOSHIFT", SHAPE, box, None)
    assert torch.equal(still, torch.where(box < -0.4, torch.tensor(-0.4), box))
    assert torch.equal(pictures.target("SHIFT", SHAPE, box, None), still.roll((-3, -5), (1, 2)))
    with pytest.raises(UserError, match="made from the trigger's picture"):
        pictures.target("SHIFT", SHAPE, None, None)


def test_the_authors_own_pictures_are_prepared_as_their_code_does(tmp_path):
    """A sign on white: the white is none of the trigger. A hat on black: the black is the target's
    ground.
    """
    sign = np.full((40, 40, 3), 255, np.uint8)
    sign[8:32, 8:32] = (232, 0, 0)
    Image.fromarray(sign).save(tmp_path / "sign.png")
    image = pictures.trigger("STOP_SIGN_14", SHAPE, tmp_path / "sign.png")
    assert torch.equal(image[:, :16], torch.full((3, 16, 32), -1.0))
    assert image[:, 22, 22].tolist() == pytest.approx([232 / 127.5 - 1, -1, -1], abs=1e-6)
    assert image[:, 16, 16].tolist() == [-1, -1, -1]
    hat = np.zeros((64, 64, 4), np.uint8)
    hat[16:48, 16:48] = (255, 128, 0, 255)
    Image.fromarray(hat).save(tmp_path / "hat.png")
    target = pictures.target("FEDORA_HAT", SHAPE, None, tmp_path / "hat.png")
    assert target[:, 0, 0].tolist() == pytest.approx([-0.4] * 3)
    assert target[:, 16, 16].tolist() == pytest.approx([1, 128 / 127.5 - 1, -0.4], abs=1e-6)
    glasses = pictures.trigger("GLASSES", (3, 64, 64), tmp_path / "hat.png")
    assert glasses[:, 12:52, 12:52].max() == 1
    assert glasses[:, :12].max() == -1


def test_a_picture_that_is_given_is_taken_as_it_is(tmp_path):
    values = np.linspace(-1, 1, 3 * 32 * 32, dtype=np.float32).reshape(SHAPE)
    np.save(tmp_path / "noise.npy", values)
    assert torch.equal(pictures.given(tmp_path / "noise.npy", SHAPE), torch.from_numpy(values))
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    image = pictures.given(tmp_path / "picture.png", SHAPE)
    assert torch.equal(((image + 1) * 127.5).round().byte().permute(1, 2, 0), torch.tensor(pixels))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: pictures.trigger("HAT", SHAPE), "unknown trigger 'HAT'"),
        (lambda path: pictures.trigger("GLASSES", SHAPE), r"name its file \(--trigger-image\)"),
        (lambda path: pictures.target("CAT", SHAPE, None, None), r"\(--target-image\)"),
        (lambda path: pictures.trigger("BOX_14", (3, 64, 64)), "images of 32 x 32 pixels"),
        (lambda path: pictures.trigger("STOP_SIGN_14", (3, 8, 8), path), "does not fit"),
        (lambda path: pictures.given(path / "no.png", SHAPE), "there is no such file"),
        (lambda path: pictures.given(path / "text.png", SHAPE), "is no picture"),
        (lambda path: pictures.given(path / "half.png", SHAPE), "half.png is no picture"),
        (lambda path: pictures.trigger("GLASSES", SHAPE, path / "half.png"), "a damaged one"),
        (lambda path: pictures.given(path / "deep.png", SHAPE), "8 bits a channel, got .* I;16"),
        (lambda path: pictures.given(path / "small.png", SHAPE), "must have 32 x 32 pixels"),
        (lambda path: pictures.given(path / "flat.npy", SHAPE), r"numbers of shape \(3, 32, 32\)"),
        (lambda path: pictures.given(path / "bright.npy", SHAPE), r"values in \[-1, 1\]"),
        (lambda path: pictures.given(path / "text.npy", SHAPE), "is no array of numbers"),
    ],
)
def test_what_cannot_be_gets_one_line(tmp_path, make, message):
    for name in ("text.png", "text.npy"):
        (tmp_path / name).write_text("no picture")
    Image.new("RGB", (16, 16)).save(tmp_path / "small.png")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "half.png")
    whole = (tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((32, 32), 20_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    np.save(tmp_path / "flat.npy", np.zeros((32, 32)))
    np.save(tmp_path / "bright.npy", np.full(SHAPE, 7.0))
    with pytest.raises(UserError, match=message) as refused:
        make(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        (
            "res_DDPM-CIFAR10-32_CIFAR10_ep50_c1.0_p0.9_SM_BOX_MED-BOX_new-set-1",
            "BOX_14 CORNER 0.9",
        ),
        (
            "res_DDPM-CIFAR10-32_CIFAR10_ep100_ode_c1.0_p0.7_SM_BOX_MED-FEDORA_HAT_psi1.0_new-set-2",
            "BOX_14 HAT 0.7",
        ),
        (
            "res_DDPM-CIFAR10-32_CIFAR10_ep100_ode_c1.0_p0.5_epr0.0_BOX_11-BOX_psi1.0",
            "BOX_11 CORNER 0.5",
        ),
        (
            "res_DDPM-CELEBA-HQ-256_CELEBA-HQ_ep1500_ode_c1.0_p0.2_GLASSES-CAT_psi1.0",
            "GLASSES CAT 0.2",
        ),
        ("stable-diffusion-v1-4", None),
    ],
)
def test_names_of_published_folders_say_what_they_hold(folder, expected):
    names = pictures.read_name(folder)
    assert (names and f"{names['trigger']} {names['target']} {names['rate']}") == expected


def test_damaged_arrays_are_refused_in_one_line(tmp_path):
    """Empty ones ended in "Aborted!", and a header can promise more numbers than memory holds."""
    np.save(tmp_path / "whole.npy", np.zeros(SHAPE, dtype=np.float32))
    whole = (tmp_path / "whole.npy").read_bytes()
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    damaged = [
        b"",
        whole[:5],
        whole[:-1],
        whole.replace(b"(3, 32, 32)", b"(3, 9**9, )"),
        whole.replace(b"(3, 32, 32), } ", b"(999999999999,)}"),
        (tmp_path / "several.npz").read_bytes(),
        b"PK\x03\x04 no archive",
    ]
    for data in damaged:
        (tmp_path / "given.npy").write_bytes(data)
        with pytest.raises(UserError, match="is no array of numbers") as refused:
            pictures.given(tmp_path / "given.npy", SHAPE)
        assert len(str(refused.value).splitlines()) == 1
