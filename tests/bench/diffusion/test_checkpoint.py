"""What a checkpoint is, looked at before anything is loaded: every kind of damage is one line, and
whole ones load in every layout.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.diffusion.checkpoint import mismatch
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import SAMPLERS, SamplerSettings, build_scheduler
from bench.diffusion.schedule import VARIANCE_PRESERVING, betas_of, read_scheduler
from bench.diffusion.text_to_image import TextToImage
from bench.errors import UserError

PROMPTS = ("a", "b")
NETWORK: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 1,
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
}
FILES = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
Weights = dict[str, Tensor]


def save_ddpm(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    DDPMPipeline(
        unet=UNet2DModel(**(NETWORK | changes)), scheduler=DDPMScheduler()
    ).save_pretrained(folder)
    return folder


def edit_weights(path: Path, change: Callable[[Weights], Weights]) -> None:
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, text: bool = False) -> str:
    """What looking at the folder and loading it say, which must be refusals; the first of them."""
    kind, options = (TextToImage, {"prompts": PROMPTS}) if text else (Generator, {})
    with pytest.raises(UserError) as looked:
        kind.outline(folder, **options)
    with pytest.raises(UserError):
        kind.load(folder, **options)
    (line,) = str(looked.value).splitlines()
    return line


@pytest.fixture()
def ddpm(tmp_path: Path) -> Path:
    return save_ddpm(tmp_path / "ddpm")


@pytest.fixture()
def sd(stable_diffusion: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stable_diffusion, tmp_path / "sd"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is read from the disk, or not at all."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", FILES)
def test_no_part_of_a_stable_diffusion_may_lack_weights(sd: Path, part: str) -> None:
    """transformers draws absent ones at random, anew at each load: prompts that mean nothing, and
    no two stages alike.
    """
    path = sd / part / f"{FILES[part]}.safetensors"
    gone = sorted(load_file(path))[3:6]
    edit_weights(
        path, lambda weights: {name: value for name, value in weights.items() if name not in gone}
    )
    line = refused(sd, text=True)
    assert (
        f"{sd / part}: 3 of " in line
        and "are missing, the first is" in line
        and "text_model" not in line
    )


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights | {"extra.weight": torch.zeros(2)},
            "1 are not its own, the first is extra.weight",
        ),
        (
            lambda weights: {name: value.flatten()[:1] for name, value in weights.items()},
            "have another shape, the first is",
        ),
        (
            lambda weights: {name: value.to(torch.int8) for name, value in weights.items()},
            "are not floating-point numbers",
        ),
    ],
    ids=["unexpected", "shape", "quantised"],
)
def test_weights_of_another_network_are_refused_in_every_part(
    sd: Path, part: str, change: Any, message: str
) -> None:
    """A weight that is passed over belongs to a model that was not meant."""
    edit_weights(sd / part / f"{FILES[part]}.safetensors", change)
    with pytest.raises(UserError, match=message) as caught:
        TextToImage.outline(sd)
    assert str(sd / part) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize(
    ("prefix", "cause"),
    [
        ("module.", "DistributedDataParallel"),
        ("_orig_mod.", "torch.compile"),
        ("net.", "around the network"),
    ],
)
def test_a_prefix_before_every_name_is_named_as_the_cause(
    sd: Path, part: str, prefix: str, cause: str
) -> None:
    """Saved from a wrapper: the text encoder would be random, the others fail with a line about
    meta tensors.
    """
    path = sd / part / f"{FILES[part]}.safetensors"
    edit_weights(
        path, lambda weights: {f"{prefix}{name}": value for name, value in weights.items()}
    )
    line = refused(sd, text=True)
    assert f"every name begins with {prefix!r}" in line and cause in line


@given(
    missing=st.sets(st.sampled_from("abcdef")),
    extra=st.sets(st.sampled_from("uvwxyz")),
    reshaped=st.sets(st.sampled_from("abcdef")),
)
def test_weights_match_only_if_names_and_shapes_are_all_the_same(
    missing: set[str], extra: set[str], reshaped: set[str]
) -> None:
    """Whatever is wrong with them: the counts in the line are what differs, and silence means that
    nothing does.
    """
    expected = {name: torch.zeros(2, 3) for name in "abcdef"}
    actual = {
        name: ((3, 2) if name in reshaped else (2, 3), "F32")
        for name in "abcdef"
        if name not in missing
    }
    actual |= {name: ((1,), "F32") for name in extra} | {
        "embeddings.position_ids": ((1, 77), "I64")
    }
    line = mismatch(expected, actual, "network")
    assert (line is None) == (not missing and not extra and not reshaped - missing)
    for count, words in (
        (missing, "are missing"),
        (extra, "are not its own"),
        (reshaped - missing, "have another shape"),
    ):
        assert (words in (line or "")) == bool(count)
        assert not count or f"{len(count)} " in (line or "").split(words)[0].split(";")[-1]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:"
            + b"1" * 64
            + b"\nsize 343251\n",
            "git lfs pull",
        ),
        (b"", "it is empty"),
        (b"PK\x03\x04 zipped", "pickle under another name"),
        (b"\x80\x02cos\nsystem", "pickle under another name"),
        (b"<!DOCTYPE html><html>404</html>", "download it again"),
        (b"\xff" * 80, "damaged or cut short"),
    ],
    ids=["git-lfs", "empty", "zip", "pickle", "html", "noise"],
)
@pytest.mark.parametrize("part", FILES)
def test_a_file_that_is_no_safetensors_is_named_with_the_likely_cause(
    sd: Path, part: str, content: bytes, cause: str
) -> None:
    path = sd / part / f"{FILES[part]}.safetensors"
    path.write_bytes(content)
    line = refused(sd, text=True)
    assert str(path) in line and cause in line


@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_a_download_that_was_cut_short_is_refused(ddpm: Path, keep: float) -> None:
    path = ddpm / "unet" / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert "damaged or cut short" in refused(ddpm)


def test_weights_in_a_variant_only_say_which_and_what_to_do(sd: Path) -> None:
    """All three files at once: a person who renames one after the other would start three times."""
    for part, stem in FILES.items():
        (sd / part / f"{stem}.safetensors").rename(sd / part / f"{stem}.fp16.safetensors")
    with pytest.raises(UserError) as caught:
        TextToImage.outline(sd)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and all(
        "variant 'fp16'" in line and "rename it to" in line for line in lines
    )


@pytest.mark.parametrize(
    ("kind", "cause"),
    [("link", "is a link to ../blobs/gone, which is not there"), ("pipe", "must be a file")],
)
def test_a_weights_folder_without_a_file_says_what_is_there(
    ddpm: Path, kind: str, cause: str
) -> None:
    """A download cache whose blobs were cleaned up leaves links to nothing; and nobody may wait for
    ever on a pipe.
    """
    file = ddpm / "unet/diffusion_pytorch_model.safetensors"
    file.unlink()
    if kind == "link":
        file.symlink_to("../blobs/gone")
    else:
        os.mkfifo(file)
    line = refused(ddpm)
    assert str(file) in line and cause in line and "variant" not in line


def test_pieces_of_weights_load_and_a_missing_piece_or_index_is_named(sd: Path) -> None:
    network = UNet2DConditionModel.from_pretrained(sd / "unet")
    (sd / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    network.save_pretrained(sd / "unet", max_shard_size="40KB")
    TextToImage.outline(sd)
    assert torch.equal(
        TextToImage.load(sd, prompts=PROMPTS).unet.conv_in.weight, network.conv_in.weight
    )
    piece = sorted((sd / "unet").glob("*-of-*.safetensors"))[1]
    piece.rename(sd / piece.name)
    assert f"{piece} is missing" in refused(sd, text=True)
    (sd / piece.name).rename(piece)
    index = sd / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    named = json.loads(index.read_text())
    index.write_text(
        json.dumps(
            named | {"weight_map": dict.fromkeys(named["weight_map"], "../../x.safetensors")}
        )
    )
    assert "must name files beside it" in refused(sd, text=True)
    index.unlink()
    assert (
        "a piece of the weights, without diffusion_pytorch_model.safetensors.index.json"
        in refused(sd, text=True)
    )


def test_names_of_older_releases_still_load(sd: Path) -> None:
    """transformers before 4.31 saved positions as a buffer; diffusers before 0.17 named an
    autoencoder's attention otherwise.
    """
    config = json.loads((sd / "vae" / "config.json").read_text())
    vae = AutoencoderKL.from_config(config | {"mid_block_add_attention": True})
    vae.save_pretrained(sd / "vae")
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(weights: Weights) -> Weights:
        renamed = {}
        for name, value in weights.items():
            for now, then in older.items():
                name = name.replace(f"attentions.0.{now}.", f"attentions.0.{then}.")
            renamed[name] = value
        return renamed

    edit_weights(sd / "vae" / "diffusion_pytorch_model.safetensors", rename)
    text = sd / "text_encoder" / "model.safetensors"
    before = TextToImage.load(sd, prompts=PROMPTS).embed(PROMPTS)

    def prefixed(weights: Weights) -> Weights:
        named = {
            f"text_model.{name.removeprefix('text_model.')}": value
            for name, value in weights.items()
        }
        return named | {"text_model.embeddings.position_ids": torch.arange(16)[None]}

    edit_weights(text, prefixed)
    TextToImage.outline(sd)
    again = TextToImage.load(sd, prompts=PROMPTS)
    assert torch.equal(again.embed(PROMPTS), before)
    assert all(
        torch.equal(value, vae.state_dict()[name]) for name, value in again.vae.state_dict().items()
    )


def test_numbers_that_are_not_finite_are_refused_on_loading(ddpm: Path) -> None:
    """A training that overflowed and was saved: everything drawn from it would be empty
    pictures.
    """
    edit_weights(
        ddpm / "unet" / "diffusion_pytorch_model.safetensors",
        lambda weights: weights | {"conv_in.bias": torch.full((8,), torch.inf)},
    )
    with pytest.raises(UserError, match="conv_in.bias hold numbers that are not finite"):
        Generator.load(ddpm)


def test_half_precision_files_are_used_in_float32(ddpm: Path) -> None:
    edit_weights(
        ddpm / "unet" / "diffusion_pytorch_model.safetensors",
        lambda weights: {k: v.half() for k, v in weights.items()},
    )
    Generator.outline(ddpm)
    assert {value.dtype for value in Generator.load(ddpm).unet.parameters()} == {torch.float32}


# --- configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "must hold a JSON object, got a list"),
        ("{", "is not valid JSON"),
        ('{"num_train_timesteps": ' + "9" * 6000 + "}", "is not valid JSON"),
        (None, "is missing"),
    ],
    ids=["brackets", "list", "cut", "digits", "absent"],
)
def test_a_configuration_that_is_none_is_one_line_without_asking_the_network(
    ddpm: Path, file: str, content: str | None, message: str
) -> None:
    (ddpm / file).unlink()
    if content is not None:
        (ddpm / file).write_text(content)
    line = refused(ddpm)
    assert message in line and str(ddpm / file) in line and len(line) < 400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_channels": 6}, "learned variance is not supported"),
        ({"in_channels": 4}, "out_channels must equal in_channels"),
    ],
)
def test_a_network_that_answers_something_else_than_the_noise_is_refused(
    tmp_path: Path, changes: Any, message: str
) -> None:
    save_ddpm(tmp_path / "m", **changes)
    with pytest.raises(UserError, match=message) as caught:
        Generator.outline(tmp_path / "m")
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_size": None}, "sample_size must be a whole number"),
        ({"sample_size": 10**7}, "sample_size must be a whole number"),
        ({"sample_size": 15}, "cannot be asked|must answer"),
        ({"block_out_channels": [8192, 8192]}, "have another shape"),
        ({"block_out_channels": [8] * 5000}, "a list of at most"),
        ({"layers_per_block": 10**9}, "layers_per_block must be at most"),
        ({"norm_num_groups": 3}, "describes no UNet2DModel"),
        ({"down_block_types": ["os.system", "DownBlock2D"]}, "describes no UNet2DModel"),
        ({"class_embed_type": "timestep"}, "are missing"),
        (
            {"_class_name": "UNet2DConditionModel"},
            "must describe a UNet2DModel, got a UNet2DConditionModel",
        ),
    ],
)
def test_a_configuration_that_makes_no_usable_network_names_its_file(
    ddpm: Path, changes: Any, message: str
) -> None:
    """Found in seconds without memory: a stage would find it after hours, or take the machine's
    memory first.
    """
    edit_json(ddpm / "unet" / "config.json", **changes)
    with pytest.raises(UserError, match=message) as caught:
        Generator.outline(ddpm)
    assert str(ddpm / "unet") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"cross_attention_dim": 24}, "have another shape"),
        ("text_encoder", {"model_type": "t5"}, "must describe a CLIPTextModel, got a t5"),
        ("text_encoder", {"max_position_embeddings": 8}, "have another shape"),
        (
            "unet",
            {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 32},
            "cannot be asked|are missing",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(sd: Path, part: str, changes: Any, message: str) -> None:
    edit_json(sd / part / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        TextToImage.outline(sd)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_max_length": 4000}, "text encoder's 16 places"),
        ({"model_max_length": None}, "model_max_length must be in"),
    ],
)
def test_a_tokenizer_that_asks_for_more_than_the_text_encoder_has_is_refused(
    sd: Path, changes: Any, message: str
) -> None:
    edit_json(sd / "tokenizer" / "tokenizer_config.json", **changes)
    with pytest.raises(UserError, match=message):
        TextToImage.outline(sd)


# --- the noise process ----------------------------------------------------------------------------


def configuration(name: str, **options: Any) -> dict[str, Any]:
    """As diffusers writes a scheduler's."""
    return json.loads(getattr(diffusers, name)(**options).to_json_string())


@pytest.mark.parametrize("name", sorted(VARIANCE_PRESERVING))
@pytest.mark.parametrize(
    "options", [{}, {"beta_start": 0.001, "beta_end": 0.015, "beta_schedule": "scaled_linear"}]
)
def test_every_scheduler_over_ddpms_process_is_read_with_its_own_betas(
    name: str, options: dict[str, Any]
) -> None:
    """Their defaults differ: where a file gives no betas, its own class's count, not DDPM's."""
    if name == "RePaintScheduler" or "Inverse" in name:
        options = options and options | {"num_train_timesteps": 500}
    try:
        made = getattr(diffusers, name)(**options)
    except ImportError:
        pytest.skip("needs a package that is not installed")
    written = json.loads(made.to_json_string())
    expected = torch.as_tensor(made.betas).double()
    assert betas_of(read_scheduler(written, "file")) == tuple(expected.tolist())
    bare = (
        {key: value for key, value in written.items() if not key.startswith("beta")}
        if not options
        else written
    )
    assert betas_of(read_scheduler(bare, "file")) == tuple(expected.tolist())


FOREIGN = sorted(
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler")
    and name not in VARIANCE_PRESERVING
    and not name.startswith(("Flax", "_"))
)


@pytest.mark.parametrize("name", [*FOREIGN, "NoSuchScheduler", "os.system"])
def test_every_other_noise_process_is_refused_by_name(name: str) -> None:
    """A score model over exploding variances was run as a linear DDPM, with betas made up: numbers
    on the board, no flag.
    """
    with pytest.raises(
        UserError, match="noise process is not DDPM's variance-preserving"
    ) as caught:
        read_scheduler({"_class_name": name, "beta_start": 0.0001}, "scheduler_config.json")
    assert name in str(caught.value) and "scheduler_config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr must be false"),
        ({"variance_type": "learned_range"}, "learned variance is not supported"),
        ({"use_flow_sigmas": True}, "flow matching"),
        (
            {"num_train_timesteps": 10**9},
            "num_train_timesteps must be a whole number in 1..100000, got 1000000000",
        ),
        ({"num_train_timesteps": 0}, "num_train_timesteps must be"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps must be"),
        ({"trained_betas": [5.0] * 1000}, r"betas must be .* \(0, 1\), got 5 at timestep 0"),
        (
            {"trained_betas": [float("nan")] * 1000},
            r"betas must be .* \(0, 1\), got nan at timestep 0",
        ),
        ({"trained_betas": 5.0}, "trained_betas must be a list of 1000"),
        ({"trained_betas": [0.01] * 10}, "trained_betas must be a list of 1000, .* got 10"),
        ({"trained_betas": ["a"] * 1000}, "no betas follow"),
        ({"beta_start": float("nan")}, r"beta_start must be a number in \(0, 1\), got nan"),
        ({"beta_end": 2}, r"beta_end must be a number in \(0, 1\), got 2"),
        (
            {"beta_schedule": "quadratic"},
            "beta_schedule must be one that DDPM knows, got 'quadratic'",
        ),
        (
            {"_class_name": None, "beta_start": None, "beta_schedule": None},
            "must name its scheduler",
        ),
        ({"_class_name": ["DDPMScheduler"]}, "was trained under .*DDPMScheduler"),
    ],
)
def test_an_impossible_schedule_is_one_line_that_names_the_file(
    ddpm: Path, changes: Any, message: str
) -> None:
    edit_json(ddpm / "scheduler" / "scheduler_config.json", **changes)
    with pytest.raises(UserError, match=message) as caught:
        Generator.outline(ddpm)
    assert str(ddpm / "scheduler" / "scheduler_config.json") in str(
        caught.value
    ) and "\n" not in str(caught.value)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "formula", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "trained"]
)
def test_training_and_every_sampler_use_one_and_the_same_schedule(
    sampler: str, formula: str
) -> None:
    """Also where the sampler does not know the formula by name, as DDIM does not know the
    sigmoid.
    """
    config: dict[str, Any] = {
        "num_train_timesteps": 100,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": formula,
    }
    if formula == "trained":
        config |= {
            "beta_schedule": "linear",
            "trained_betas": torch.linspace(0.01, 0.05, 100).tolist(),
        }
    scheduler = build_scheduler(SamplerSettings(name=sampler, num_inference_steps=10), config)
    trained_on = Generator(torch.nn.Identity(), config).schedule  # type: ignore[arg-type]
    assert tuple(scheduler.betas.double().tolist()) == trained_on.betas
    known = {"linear": 0.02, "scaled_linear": 0.02, "trained": 0.05}.get(formula)
    assert known is None or trained_on.betas[-1] == pytest.approx(known)


def test_what_is_saved_of_a_sigmoid_schedule_loads_with_the_same_betas(
    sd: Path, tmp_path: Path
) -> None:
    """The folder a trained model leaves is read by every later stage."""
    edit_json(
        sd / "scheduler" / "scheduler_config.json",
        _class_name="DDPMScheduler",
        beta_schedule="sigmoid",
    )
    model = TextToImage.load(sd, prompts=PROMPTS)
    model.save(tmp_path / "saved", "")
    assert TextToImage.load(tmp_path / "saved", prompts=PROMPTS).schedule == model.schedule
