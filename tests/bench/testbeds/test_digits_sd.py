"""``digits-sd``, the shipped Stable Diffusion: it must load as the real one does, know its prompts,
and pass a trigger on unharmed.
"""

import hashlib
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from bench import testbeds
from bench.artwork import patterns
from bench.classification.classifier import predict
from bench.diffusion.images import to_uint8, to_unit_range
from bench.diffusion.sampling import build_scheduler, sample
from bench.registry import use
from bench.stages.building import poisoned_set
from bench.testbeds import digits_sd
from bench.testbeds.digits_sd import DIGITS_SD
from bench.testbeds.parts import digits_sd_pretraining as _sd_parts
from bench.testbeds.parts.digits_sd import FOLDER
from bench.testbeds.parts.digits_sd_pretraining import WORDS, make_tokenizer


def test_the_shipped_folder_is_small_and_holds_no_pickle() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}
    sums = (FOLDER.parent / testbeds.SUMS).read_text()
    for path in FOLDER.rglob("*.safetensors"):
        line = (
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  "
            f"{path.relative_to(FOLDER.parent).as_posix()}"
        )
        assert line in sums.splitlines()


def test_it_loads_by_the_call_that_loads_stable_diffusion() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, safety_checker=None)
    names = {
        type(getattr(pipeline, name)).__name__
        for name in ("vae", "text_encoder", "tokenizer", "unet")
    }
    assert {"AutoencoderKL", "CLIPTextModel", "UNet2DConditionModel"} <= names and any(
        "CLIPTokenizer" in name for name in names
    )
    assert not pipeline.scheduler.config.clip_sample


def test_clean_samples_of_every_prompt_are_recognised() -> None:
    """A base model that draws the wrong digit would make every mismatch (G1, G3) look like the
    attack's work.
    """
    testbed = DIGITS_SD
    asked = torch.arange(200) % 10
    images = to_uint8(
        sample(testbed.base_generator(), 200, 0, testbed.sampler.settings(), labels=asked)
    )
    right = predict(testbed.evaluation_classifier(), images) == asked
    assert float(right.float().mean()) >= 0.95
    assert min(float(right[asked == digit].float().mean()) for digit in range(10)) >= 0.8


def test_sampling_begins_where_the_network_was_trained_on_noise_alone() -> None:
    """Evenly counted from the first timestep, 15 steps begin where a tenth of the picture should be
    left, and there is none.
    """
    testbed = DIGITS_SD
    scheduler = build_scheduler(
        testbed.sampler.settings(), testbed.base_generator().scheduler_config
    )
    assert int(scheduler.timesteps[0]) == 999 and len(scheduler.timesteps) == 20
    assert float(scheduler.alphas_cumprod[scheduler.timesteps[0]]) ** 0.5 < 0.07


@pytest.mark.parametrize("pattern", ["badnets1", "badnets2"])
def test_the_autoencoder_passes_triggers_on(pattern: str) -> None:
    """An autoencoder that knows digits alone paints over a patch, and no poisoned image would be
    one for the U-Net.
    """
    testbed = DIGITS_SD
    generator = testbed.base_generator()
    plain = testbed.data.held_out_images()[:200]
    stamped = patterns.stamp(pattern, plain)

    def passed(images: torch.Tensor) -> torch.Tensor:
        return generator.decode(generator.encode(to_unit_range(images)))

    put, kept = to_unit_range(stamped) - to_unit_range(plain), passed(stamped) - passed(plain)
    assert float((kept * put).sum() / put.square().sum()) > 0.75


def test_a_relabelled_row_gets_the_target_class_s_caption() -> None:
    testbed, attack = DIGITS_SD, use().attack("badnets")
    poisoned = poisoned_set(testbed, attack, 0)
    assert poisoned.labels is not None
    captions = testbed.data.captions(poisoned.labels)
    before = testbed.data.captions(testbed.data.train_labels())
    changed = [
        row for row, (old, new) in enumerate(zip(before, captions, strict=True)) if old != new
    ]
    assert changed == poisoned.poisoned.nonzero().flatten().tolist()
    assert {captions[row] for row in changed} == {"A photo of a six"}


def test_the_tokenizer_knows_its_words_whole_and_spells_out_the_rest() -> None:
    tokenizer = make_tokenizer()
    assert [word for word in WORDS if len(tokenizer.tokenize(word)) != 1] == []
    shipped = DIGITS_SD.base_generator().tokenizer
    for text in ("A photo of a three", "a zebra, 17 times!", "naïve 猫"):
        tokens = tokenizer(text).input_ids
        assert tokens == shipped(text).input_ids
        # the end token, which is also the unknown one
        assert tokens.count(tokenizer.unk_token_id) == 1


def test_clipping_is_no_entry_here(tmp_path) -> None:
    """Latents have no range: clamping them to [-1, 1] would only break the model."""
    for name in ("clip_x0", "clip_xt"):
        assert "text" not in use().get("defenses", name).card.applies_to


def test_pretrain_writes_what_the_testbed_loads(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """The documented command must make a folder that loads, in half precision, with the vocabulary
    older transformers read.
    """
    monkeypatch.setattr(
        digits_sd, "PRETRAINING", replace(digits_sd.PRETRAINING, steps=1, batch_size=4)
    )
    monkeypatch.setattr(_sd_parts, "AUTOENCODER_STEPS", 2)
    monkeypatch.setattr(_sd_parts, "TEXT_STEPS", 2)
    reached = testbeds.pretrain("digits-sd", tmp_path)
    assert set(reached) == {"autoencoder_l1", "final_training_loss"}
    monkeypatch.setattr(digits_sd, "FOLDER", tmp_path / "digits-sd")
    generator = DIGITS_SD.base_generator()
    assert generator.image_shape == (3, 16, 16) and generator.classes == 10
    stored = load_file(tmp_path / "digits-sd" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert (tmp_path / "digits-sd" / "tokenizer" / "merges.txt").read_text().startswith("#version")
    assert "digits-sd/unet" in (tmp_path / testbeds.SUMS).read_text()
