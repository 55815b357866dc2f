"""Adapters (LoRA) change the weights by as much as whoever made them says, or are refused."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

from bench.errors import UserError
from bench.importing.layouts import weights_in

peft = pytest.importorskip("peft")


@pytest.fixture
def read(tmp_path, digits_sd):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return lambda path: weights_in(path, digits_sd, scratch)


def adapted(network, **settings):
    """Peft's own: the network with adapters added, their tensors, and their settings."""
    network = copy.deepcopy(network)
    torch.manual_seed(3)
    usual = {"r": 2, "target_modules": ["to_q", "to_v"], "init_lora_weights": False}
    config = peft.LoraConfig(**usual | settings)
    network.add_adapter(config)
    tensors = peft.utils.get_peft_model_state_dict(network)
    tensors = {name: value.detach().clone() for name, value in tensors.items()}
    network.fuse_lora()
    network.unload_lora()
    return network, tensors, plain(config)


def plain(config):
    return {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in config.to_dict().items()
    }


def same(state, network):
    for name, value in network.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-6)


QUERY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
SCALED = [
    {"lora_alpha": 2},
    {"lora_alpha": 8},
    {"lora_alpha": 1.5},
    {"lora_alpha": 8, "use_rslora": True},
    {"lora_alpha": 8, "use_dora": True},
    {"lora_alpha": 8, "alpha_pattern": {"to_v": 3}},
    {"lora_alpha": 8, "alpha_pattern": {QUERY: 3, "to_q": 5}, "rank_pattern": {"to_v": 4}},
]


@pytest.mark.parametrize("settings", SCALED, ids=json.dumps)
def test_by_their_alpha_as_diffusers_saves_it(tmp_path, read, digits_sd, settings):
    """In the header of the file, where nothing of the tensors says it."""
    from diffusers import StableDiffusionPipeline

    network, tensors, config = adapted(digits_sd.unet, **settings)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "model", unet_lora_layers=tensors, unet_lora_adapter_metadata=config
    )
    same(read(tmp_path / "model").parts["unet"], network)


@pytest.mark.parametrize("settings", SCALED[:4], ids=json.dumps)
def test_by_their_alpha_as_peft_saves_it(tmp_path, read, digits_sd, settings):
    """In a file beside the tensors, whose names begin otherwise; of the text encoder too."""
    for part, targets in (("unet", ["to_q", "to_v"]), ("text_encoder", ["q_proj", "v_proj"])):
        torch.manual_seed(4)
        config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **settings)
        model = peft.get_peft_model(copy.deepcopy(getattr(digits_sd, part)), config)
        model.save_pretrained(tmp_path / part)
        read_again = read(tmp_path / part)
        assert read_again.layout == "adapters (LoRA), added to the weights"
        same(read_again.parts[part], model.merge_and_unload())


@pytest.mark.parametrize("alpha", [1.0, 2.0, 6.0])
def test_by_their_alpha_as_kohya_saves_it(tmp_path, read, digits_sd, alpha):
    """In a tensor beside each pair."""
    network, tensors, _ = adapted(digits_sd.unet, lora_alpha=alpha)
    kohya = {}
    for name, value in tensors.items():
        layer, side = name.removesuffix(".weight").rsplit(".lora_", 1)
        stem = "lora_unet_" + layer.replace(".", "_")
        kohya[f"{stem}.lora_{'down' if side == 'A' else 'up'}.weight"] = value
        kohya[f"{stem}.alpha"] = torch.tensor(alpha)
    save_file(kohya, tmp_path / "kohya.safetensors")
    same(read(tmp_path / "kohya.safetensors").parts["unet"], network)


def saved(folder, tensors, settings=None):
    folder.mkdir(exist_ok=True)
    header = {f"unet.{name}": value for name, value in (settings or {}).items()}
    save_file(
        {f"unet.{name}": value for name, value in tensors.items()},
        folder / "pytorch_lora_weights.safetensors",
        {"lora_adapter_metadata": json.dumps(header)} if settings is not None else None,
    )
    return folder


def test_adapters_that_are_not_whole_are_refused(tmp_path, read, digits_sd):
    """Diffusers leaves the missing half as the memory happens to be, and passes over the others."""
    _, tensors, _ = adapted(digits_sd.unet)
    first = next(iter(tensors))
    half = {name: value for name, value in tensors.items() if name != first}
    with pytest.raises(UserError, match=f"{first.partition('.lora_')[0]} has the matrix B without"):
        read(saved(tmp_path / "half", half))
    more = tensors | {
        name.replace("attentions.0", "attentions.9"): value.clone()
        for name, value in tensors.items()
        if "mid_block" in name
    }
    with pytest.raises(UserError, match=f"of {len(more)} tensors {len(tensors)} have a place"):
        read(saved(tmp_path / "more", more))
    with pytest.raises(UserError, match="mid_block.lora_mid.weight, which is no part"):
        read(saved(tmp_path / "loha", tensors | {"mid_block.lora_mid.weight": torch.zeros(2, 2)}))
    peft_names = {f"base_model.model.{name}": value for name, value in tensors.items()}
    (tmp_path / "alone").mkdir()
    save_file(peft_names, tmp_path / "alone/adapter_model.safetensors")
    with pytest.raises(UserError, match="need the adapter_config.json beside them"):
        read(tmp_path / "alone")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa', which is not read"),
        ({"bias": "all"}, "bias 'all'"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out True"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"of_a_later_release": 3}, "of_a_later_release 3"),
        ({"lora_alpha": "8"}, "lora_alpha must be a finite number, got '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a finite number, got nan"),
        ({"lora_alpha": None}, "lora_alpha must be a finite number, got None"),
        ({"use_rslora": "yes"}, "use_rslora 'yes'"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern must give names of layers"),
        ({"alpha_pattern": {"to_q": True}}, "lora_alpha must be a finite number, got True"),
        ({"alpha_pattern": [1]}, "alpha_pattern must give names of layers"),
    ],
)
def test_settings_that_are_not_read_are_refused(tmp_path, read, digits_sd, settings, reason):
    _, tensors, config = adapted(digits_sd.unet)
    with pytest.raises(UserError, match=r"adapters|pytorch_lora_weights") as refused:
        read(saved(tmp_path / "model", tensors, config | settings))
    assert reason in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000])
def test_a_damaged_header_is_refused(tmp_path, read, digits_sd, text):
    _, tensors, _ = adapted(digits_sd.unet)
    folder = saved(tmp_path / "model", tensors)
    file = folder / "pytorch_lora_weights.safetensors"
    save_file(
        {f"unet.{name}": value for name, value in tensors.items()},
        file,
        {"lora_adapter_metadata": text},
    )
    with pytest.raises(UserError, match="lora_adapter_metadata"):
        read(folder)


def test_a_scale_that_is_given_twice_is_refused(tmp_path, read, digits_sd):
    _, tensors, config = adapted(digits_sd.unet)
    layer = next(iter(tensors)).partition(".lora_")[0]
    with pytest.raises(UserError, match="the scale of its adapters twice"):
        read(saved(tmp_path / "m", tensors | {f"{layer}.alpha": torch.tensor(2.0)}, config))
