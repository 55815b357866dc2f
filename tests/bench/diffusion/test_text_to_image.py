"""A Stable Diffusion as a generator: a prompt not asked for, an unscaled latent or a trained text
encoder would go unseen.
"""

import copy
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from bench.diffusion.process import VariancePreserving
from bench.diffusion.sampling import SamplerSettings, sample
from bench.diffusion.text_to_image import TextToImage
from bench.diffusion.training import TrainingSettings, denoising_loss, train
from bench.errors import UserError
from bench.testbeds.parts.digits_sd_pretraining import make_tokenizer

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
PROMPTS = ("A photo of a one", "A photo of a two", "A photo of a three")


def parts() -> TextToImage:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=8,
        attention_head_dim=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        sample_size=8,
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=1,
        scaling_factor=0.5,
    )
    return TextToImage(
        unet.eval(),
        dict(SCHEDULER),
        vae=vae,
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        prompts=PROMPTS,
    )


def test_shapes_of_latents_and_images() -> None:
    model = parts()
    assert model.noise_shape == (4, 4, 4)
    assert model.image_shape == (3, 8, 8)
    assert model.classes == 3
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    assert model.encode(images).shape == (2, 4, 4, 4)
    assert model.decode(model.encode(images)).shape == (2, 3, 8, 8)


def test_latents_are_the_autoencoders_mean_times_its_scaling_factor() -> None:
    """Unscaled latents would be noised to another signal-to-noise ratio than the U-Net was trained
    at.
    """
    model, images = parts(), torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        posterior = model.vae.encode(images).latent_dist
    torch.testing.assert_close(model.encode(images), 0.5 * posterior.mean)
    drawn = model.encode(images, torch.Generator().manual_seed(3))
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn, 0.5 * (posterior.mean + posterior.std * noise))


def test_the_network_gets_the_prompt_and_the_last_label_is_the_empty_one() -> None:
    model = parts()
    x, t, labels = torch.randn(2, 4, 4, 4), torch.full((2,), 500), torch.tensor([2, 0])
    embedded = model.embed((PROMPTS[2], PROMPTS[0]))
    with torch.no_grad():
        expected = model.unet(x, t, encoder_hidden_states=embedded).sample
        torch.testing.assert_close(model.predict_noise(x, t, labels), expected)
        free = model.unet(x, t, encoder_hidden_states=model.embed(("", ""))).sample
        torch.testing.assert_close(model.predict_noise(x, t), free)
    assert not torch.allclose(expected, free)
    assert model.calls == 4


def test_a_large_table_of_prompts_gives_the_same_embeddings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Captions by the thousand are embedded batch by batch, prompts of classes once."""
    labels = torch.tensor([2, 3, 0, 2])
    once = parts().condition(labels)["encoder_hidden_states"]
    monkeypatch.setattr("bench.diffusion.text_to_image.EMBEDDED_AT_ONCE", 1)
    torch.testing.assert_close(parts().condition(labels)["encoder_hidden_states"], once)


def test_another_table_asks_the_same_networks() -> None:
    model = parts()
    other = model.with_prompts(("A photo of a two",))
    assert other.unet is model.unet and other.classes == 1
    first = model.condition(torch.tensor([1]))["encoder_hidden_states"]
    torch.testing.assert_close(other.condition(torch.tensor([0]))["encoder_hidden_states"], first)


def test_training_touches_the_u_net_alone() -> None:
    """The paper freezes text encoder and autoencoder; an attack that trains them is another
    attack.
    """
    model = parts()
    before = {
        name: copy.deepcopy(getattr(model, name).state_dict())
        for name in ("unet", "vae", "text_encoder")
    }
    rows = {
        "images": torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8),
        "labels": torch.arange(16) % 3,
    }
    losses = train(
        model,
        rows,
        lambda predict, batch, noise, timesteps, schedule: denoising_loss(
            predict, batch["images"], noise, timesteps, VariancePreserving(schedule)
        ),
        TrainingSettings(steps=3, batch_size=8, label_dropout=0.1),
        seed=0,
    )
    assert len(losses) == 3
    changed = {
        name: any(
            not torch.equal(value, getattr(model, name).state_dict()[key])
            for key, value in state.items()
        )
        for name, state in before.items()
    }
    assert changed == {"unet": True, "vae": False, "text_encoder": False}


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    model, labels = parts(), torch.tensor([0, 1, 2, 0, 1])
    settings = SamplerSettings(
        name="ddim", num_inference_steps=4, network_batch=4, guidance_scale=2.0
    )
    torch.testing.assert_close(
        sample(model, 5, 0, settings, labels=labels, batch_size=batch_size),
        sample(model, 5, 0, settings, labels=labels),
        rtol=0,
        atol=1e-5,
    )


def test_what_is_saved_is_a_stable_diffusion_folder(tmp_path: Path) -> None:
    """Any diffusers user can load it, in the usual way, and gets the same network; nothing in it is
    a pickle.
    """
    model = parts()
    model.save(tmp_path / "saved", "# card\n", {"seed": 1})
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    assert json.loads((tmp_path / "saved" / "castlewalls.json").read_text()) == {"seed": 1}
    again = TextToImage.load(tmp_path / "saved", prompts=PROMPTS)
    x, t, labels = torch.randn(2, 4, 4, 4), torch.full((2,), 500), torch.tensor([2, 0])
    with torch.no_grad():
        torch.testing.assert_close(
            again.predict_noise(x, t, labels), model.predict_noise(x, t, labels)
        )
        embedded = pipeline.encode_prompt(PROMPTS[2], torch.device("cpu"), 1, False)[0]
    torch.testing.assert_close(embedded, model.embed((PROMPTS[2],)))
    assert again.schedule == model.schedule
    assert not [
        path
        for path in (tmp_path / "saved").rglob("*")
        if path.suffix in (".bin", ".ckpt", ".pt", ".pkl")
    ]


def test_a_folder_without_a_part_is_one_line(tmp_path: Path) -> None:
    parts().save(tmp_path / "saved", "")
    (tmp_path / "saved" / "vae").rename(tmp_path / "saved" / "elsewhere")
    with pytest.raises(UserError, match="is no Stable Diffusion folder: vae missing"):
        TextToImage.load(tmp_path / "saved", prompts=PROMPTS)


def test_a_copy_trains_on_its_own() -> None:
    model = parts()
    copied = model.clone()
    with torch.no_grad():
        next(copied.unet.parameters()).zero_()
    assert bool(next(model.unet.parameters()).any()) and copied.vae is not model.vae
