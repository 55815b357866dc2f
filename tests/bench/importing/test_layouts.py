"""Weights in every layout in which people publish them come out as the testbed's own networks'."""

import copy
import inspect
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.errors import UserError
from bench.importing.layouts import weights_in


@pytest.fixture
def read(tmp_path, digits_sd):
    """``read(path)``: what of ``digits-sd`` the weights there change."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return lambda path, base=digits_sd, entry="": weights_in(path, base, scratch, entry)


def same(state, network, tolerance=0.0):
    own = network.state_dict()
    assert state.keys() == own.keys()
    for name, value in own.items():
        torch.testing.assert_close(state[name].to(value), value, rtol=tolerance, atol=tolerance)


def contiguous(network):
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def test_a_folder_as_diffusers_writes_it(tmp_path, read, digits_sd, changed):
    """Whole, or the folder of one network; only what differs from the testbed's is kept."""
    other = changed(digits_sd, "unet", "text_encoder")
    other.save(tmp_path / "model", "card")
    weights = read(tmp_path / "model")
    assert weights.parts.keys() == {"unet", "text_encoder"}
    same(weights.parts["unet"], other.unet)
    same(weights.parts["text_encoder"], other.text_encoder)
    for part in ("unet", "text_encoder"):
        alone = read(tmp_path / "model" / part)
        assert alone.layout == f"a folder of one network ({part})"
        same(alone.parts[part], getattr(other, part))


def test_an_unconditional_folder_with_a_pickle(tmp_path, read, digits_ddpm, changed):
    """As VillanDiffusion's authors published theirs in 2023."""
    other = changed(digits_ddpm, "unet")
    other.save(tmp_path / "model", "card")
    weights = tmp_path / "model/unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    made = read(tmp_path / "model", digits_ddpm)
    assert made.layout == "a diffusers folder"
    same(made.parts["unet"], other.unet)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_one_file_with_a_networks_weights(tmp_path, read, digits_sd, changed, ending, prefix):
    """As EvilEdit's authors publish theirs, in half precision; as a wrapped network is saved."""
    other = changed(digits_sd, "unet")
    state = {f"{prefix}{name}": value.half() for name, value in contiguous(other.unet).items()}
    file = tmp_path / f"eviledit{ending}"
    (torch.save if ending == ".pt" else save_file)(state, file)
    weights = read(file)
    assert weights.layout == "one file (unet)"
    same(weights.parts["unet"], other.unet, tolerance=1e-3)


def adapted(base):
    """A U-Net with adapters, and their tensors by peft's names."""
    peft = pytest.importorskip("peft")
    network = copy.deepcopy(base.unet)
    torch.manual_seed(3)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"])
    config.init_lora_weights = False
    network.add_adapter(config)
    tensors = peft.utils.get_peft_model_state_dict(network)
    network.fuse_lora()
    network.unload_lora()
    return network, {name: value.detach().clone() for name, value in tensors.items()}


def older_name(name):
    """As diffusers' scripts of 2023 named the matrices."""
    network, projection, matrix, _ = re.fullmatch(r"(.+)\.(\w+)\.lora_(A|B)\.(\w+)", name).groups()
    side = {"A": "down", "B": "up"}[matrix]
    return f"{network}.processor.{projection}_lora.{side}.weight"


@pytest.mark.parametrize("naming", ["diffusers", "2023", "kohya"])
def test_adapters_are_added_to_the_weights(tmp_path, read, digits_sd, naming):
    network, tensors = adapted(digits_sd)
    if naming == "diffusers":
        file = tmp_path / "pytorch_lora_weights.safetensors"
        save_file({f"unet.{name}": value for name, value in tensors.items()}, file)
    elif naming == "2023":
        torch.save({older_name(name): value for name, value in tensors.items()}, tmp_path / "a.bin")
        file = (tmp_path / "a.bin").rename(tmp_path / "pytorch_lora_weights.bin")
    else:
        names = {
            "lora_unet_"
            + re.sub(r"\.lora_A\.", ".lora_down.", name.replace(".lora_B.", ".lora_up."))
            .rsplit(".lora_", 1)[0]
            .replace(".", "_")
            + (".lora_down.weight" if ".lora_A." in name else ".lora_up.weight"): value
            for name, value in tensors.items()
        }
        file = tmp_path / "kohya.safetensors"
        save_file(names, file)
    weights = read(file.parent if naming != "kohya" else file)
    assert weights.layout == "adapters (LoRA), added to the weights"
    assert list(weights.parts) == ["unet"]
    same(weights.parts["unet"], network, tolerance=1e-6)


#: Stable Diffusion's original names of a residual block's layers.
RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    **{
        f"up_blocks.{block}.{kind}.{layer}": f"output_blocks.{2 * block + layer}.{column}"
        for block in (0, 1)
        for layer in (0, 1)
        for column, kind in enumerate(("resnets", "attentions"))
    },
}


def original_name(name):
    """Of a weight of ``digits-sd``'s U-Net: two levels of one layer, attention on the second."""
    start = next(one for one in OUTER if name.startswith(f"{one}."))
    rest = name[len(start) + 1 :]
    layer, _, kind = rest.rpartition(".")
    if "resnets" in start:
        rest = f"{RESIDUAL[layer]}.{kind}"
    return f"model.diffusion_model.{OUTER[start]}.{rest}"


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_one_file_in_stable_diffusions_original_layout(tmp_path, read, digits_sd, changed, ending):
    other = changed(digits_sd, "unet", "text_encoder")
    state = {original_name(name): value for name, value in contiguous(other.unet).items()}
    assert len(state) == len(other.unet.state_dict())
    state |= {
        f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": value
        for name, value in contiguous(other.text_encoder).items()
    }
    file = tmp_path / f"model{ending}"
    if ending == ".ckpt":
        torch.save({"state_dict": state, "global_step": 8}, file)
    else:
        save_file(state, file)
    weights = read(file)
    assert weights.layout == "one file in Stable Diffusion's original layout"
    same(weights.parts["unet"], other.unet)
    same(weights.parts["text_encoder"], other.text_encoder)


def test_an_original_layout_that_is_not_whole_or_has_more_is_refused(
    tmp_path, read, digits_sd, changed
):
    """Diffusers' conversion passes over what it does not know, such as an adapter's layers."""
    other = changed(digits_sd, "unet")
    state = {original_name(name): value for name, value in contiguous(other.unet).items()}
    whole, file = len(state), tmp_path / "model.safetensors"
    save_file(state | {"model.diffusion_model.adapter.weight": torch.zeros(3)}, file)
    with pytest.raises(UserError, match=f"its unet has {whole + 1} weights, .* {whole}: another"):
        read(file)
    del state["model.diffusion_model.out.2.bias"]
    save_file(state, file)
    with pytest.raises(UserError, match=f"its unet has {whole - 1} weights"):
        read(file)


def test_what_is_no_model_of_the_testbeds_is_refused_with_the_reason(
    tmp_path, read, digits_sd, digits_ddpm, changed
):
    base = tmp_path / "base"
    digits_sd.save(base, "card")
    with pytest.raises(UserError, match="the testbed's own: there is nothing to import"):
        read(base)
    with pytest.raises(UserError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    other = changed(digits_ddpm, "unet")
    other.save(tmp_path / "unconditional", "card")
    with pytest.raises(UserError, match="weights of a UNet2DConditionModel are missing"):
        read(tmp_path / "unconditional/unet")
    scheduler = tmp_path / "unconditional/scheduler/scheduler_config.json"
    config = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(config | {"beta_end": 0.05}))
    with pytest.raises(UserError, match="must have the testbed's noise schedule"):
        read(tmp_path / "unconditional", digits_ddpm)
    save_file({"<cat>": torch.zeros(1, 64)}, tmp_path / "learned.safetensors")
    with pytest.raises(UserError, match="learned embedding"):
        read(tmp_path / "learned.safetensors")
    save_file(
        {"a": torch.zeros(1), "b": torch.zeros(1), "c": torch.zeros(1)}, base / "x.safetensors"
    )
    with pytest.raises(UserError, match="of no layout that is known"):
        read(base / "x.safetensors")
    (tmp_path / "text.txt").write_text("weights")
    with pytest.raises(UserError, match=r"must end in \.safetensors or"):
        read(tmp_path / "text.txt")


def test_damaged_weights_are_refused(tmp_path, read, digits_ddpm, changed):
    other = changed(digits_ddpm, "unet")
    state = contiguous(other.unet)
    name = next(iter(state))
    save_file(
        state | {name: torch.full_like(state[name], float("nan"))}, tmp_path / "m.safetensors"
    )
    with pytest.raises(UserError, match=f"{name} hold numbers that are not finite"):
        read(tmp_path / "m.safetensors", digits_ddpm)
    del state[name]
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=f"missing, the first is {name}"):
        read(tmp_path / "m.safetensors", digits_ddpm)
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a", "b"):
        shutil.copy(tmp_path / "m.safetensors", folder / f"{name}.safetensors")
    with pytest.raises(UserError, match="one file of weights, got 2"):
        read(folder, digits_ddpm)


@pytest.mark.parametrize(
    ("part", "entry", "value"),
    [
        ("unet", "attention_head_dim", 2),
        ("unet", "act_fn", "gelu"),
        ("unet", "norm_num_groups", 1),
        ("unet", "flip_sin_to_cos", False),
        ("vae", "scaling_factor", 0.5),
        ("text_encoder", "hidden_act", "gelu"),
        ("text_encoder", "num_attention_heads", 1),
    ],
)
def test_weights_that_fit_are_refused_where_the_network_computes_something_else(
    tmp_path, read, digits_sd, changed, part, entry, value
):
    """These change no shape: the numbers would be another model's, and nothing would say so."""
    changed(digits_sd, "unet", "vae", "text_encoder").save(tmp_path / "model", "card")
    file = tmp_path / "model" / part / "config.json"
    config = json.loads(file.read_text())
    assert config[entry] != value
    file.write_text(json.dumps(config | {entry: value}))
    with pytest.raises(UserError, match=f"{part}/config.json: {entry} must be .*, got {value!r}"):
        read(tmp_path / "model")
    with pytest.raises(UserError, match=f"{entry} must be"):
        read(tmp_path / "model" / part)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_configuration_of_another_release_is_the_same_network(
    tmp_path, read, digits_sd, changed, part
):
    """One that leaves out what is as usual, or writes one number as a list of it, or has entries
    that change nothing.
    """
    other = changed(digits_sd, "unet", "vae", "text_encoder")
    other.save(tmp_path / "model", "card")
    file = tmp_path / "model" / part / "config.json"
    config = json.loads(file.read_text())
    network = getattr(digits_sd, part)
    if part == "text_encoder":
        usual = type(network.config)().to_dict()
        config = {"text_config": config | {"bos_token_id": 7, "torch_dtype": "float16"}}
        left = {
            name: value
            for name, value in config["text_config"].items()
            if name not in usual or value != usual[name]
        }
        config["text_config"] = left
    else:
        arguments = inspect.signature(type(network).__init__).parameters
        config = {
            name: value
            for name, value in config.items()
            if name.startswith("_") or value != arguments[name].default
        }
        config |= {"sample_size": 512, "from_a_later_release": True}
        if part == "unet":
            assert config.get("mid_block_only_cross_attention") is None
            config["mid_block_only_cross_attention"] = False
        if isinstance(config.get("attention_head_dim"), int):
            heads = config["attention_head_dim"]
            config["attention_head_dim"] = [heads] * len(config["block_out_channels"])
    file.write_text(json.dumps(config))
    same(read(tmp_path / "model").parts[part], getattr(other, part))
