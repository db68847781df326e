"""LoRAs of others: each layout is the update that its makers define, and what is none is refused by name."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from helpers import fails

import jaxdiff
from jaxdiff import cli
from jaxdiff.model.interop import mapping
from jaxdiff.text import tokenizer

PIPELINE = Path(__file__).parents[1] / "golden" / "pipelines" / "stable_diffusion_1"
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "up_blocks.1.resnets.0.conv1"
POINT = "mid_block.attentions.0.proj_in"  # a 1x1 convolution
WORDS = "encoder.layers.1.self_attn.v_proj"
RANK, ALPHA = 2, 3.0

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def model():
    return jaxdiff.load(PIPELINE)


def kernels(model, net):
    """Published kernels by the names of their modules, in the published axes."""
    params = model.params if net == "unet" else model.submodels["text_encoder"].params
    flat = flatten_dict(params, sep="/")
    return {
        entry.published.removesuffix(".weight"): np.asarray(
            mapping.LAYOUTS[entry.layout].to_published(flat[entry.ours])
        )
        for entry in mapping.entries(params)
        if entry.ours.endswith("/kernel")
    }


def matrices(model, modules, net="unet"):
    """Random down and up tensors of modules, as PyTorch's linear layers and convolutions have them."""
    rng, whole = np.random.default_rng(0), kernels(model, net)
    made = {}
    for module in modules:
        out, rest = whole[module].shape[0], whole[module].shape[1:]
        down = rng.standard_normal((RANK, *rest)).astype(np.float32)
        up = rng.standard_normal((out, RANK) + (1,) * (len(rest) - 1)).astype(np.float32)
        made[module] = down, up
    return made


def update(down, up):
    """Kernel of a layer to RANK channels and one from them, as PyTorch computes them."""
    return np.einsum("or,r...->o...", up.reshape(len(up), -1), down)


def kohya(module, net):
    return {"unet": "lora_unet_", "text": "lora_te_text_model_"}[net] + module.replace(".", "_")


def peft(module, net):
    return {"unet": "unet.", "text": "text_encoder.text_model."}[net] + module


LAYOUTS = {
    "kohya": (kohya, "lora_down.weight", "lora_up.weight"),
    "peft": (peft, "lora_A.weight", "lora_B.weight"),
    "diffusers": (peft, "lora.down.weight", "lora.up.weight"),
    "linear layer": (peft, "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_its_update(model, layout, tmp_path):
    name, down_ending, up_ending = LAYOUTS[layout]
    tensors, wanted = {}, {"unet": {}, "text": {}}
    for net, modules in (("unet", (QUERY, OUT, CONV, POINT)), ("text", (WORDS,))):
        for module, (down, up) in matrices(model, modules, net).items():
            tensors |= {f"{name(module, net)}.{down_ending}": down, f"{name(module, net)}.{up_ending}": up}
            wanted[net][module] = update(down, up)
            if layout == "kohya":
                tensors[f"{name(module, net)}.alpha"] = np.array(ALPHA, np.float32)
                wanted[net][module] *= ALPHA / RANK
    safetensors.numpy.save_file(tensors, tmp_path / "theirs.safetensors")
    adapted = jaxdiff.with_adapters(model, {str(tmp_path / "theirs.safetensors"): 0.5})
    for net, updates in wanted.items():
        before, after = kernels(model, net), kernels(adapted, net)
        for module in before:
            np.testing.assert_allclose(
                after[module], before[module] + 0.5 * updates.get(module, 0), atol=1e-5, err_msg=module
            )


def test_the_processors_of_earlier_files_and_alphas_in_headers(model, tmp_path):
    (down, up), (down_out, up_out) = matrices(model, (QUERY, OUT)).values()
    processor = QUERY.removesuffix(".to_q") + ".processor.to_q_lora"
    out = OUT.removesuffix(".to_out.0") + ".processor.to_out_lora"
    tensors = {f"{processor}.down.weight": down, f"{processor}.up.weight": up,
               f"unet.{out}.down.weight": down_out, f"unet.{out}.up.weight": up_out}  # fmt: skip
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 4, "unet.r": RANK})}
    path = tmp_path / "old.safetensors"
    for said, scale in (({}, 1.0), (metadata, 4 / RANK)):
        safetensors.numpy.save_file(tensors, path, said)
        before, after = kernels(model, "unet"), kernels(jaxdiff.with_adapters(model, str(path)), "unet")
        for module, update_of in ((QUERY, update(down, up)), (OUT, update(down_out, up_out))):
            np.testing.assert_allclose(after[module], before[module] + scale * update_of, atol=1e-5)


def test_what_peft_itself_saves_has_its_alpha_beside_it(model, tmp_path):
    ((down, up),) = matrices(model, (QUERY,)).values()
    name = f"base_model.model.{QUERY}"
    path = tmp_path / "adapter_model.safetensors"
    safetensors.numpy.save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, path)
    with pytest.raises(FileNotFoundError, match=r"adapter_config.json is missing"):
        jaxdiff.with_adapters(model, str(path))
    beside = tmp_path / "adapter_config.json"
    beside.write_text(json.dumps({"r": RANK, "lora_alpha": 6, "use_rslora": False, "alpha_pattern": {}}))
    before, after = kernels(model, "unet"), kernels(jaxdiff.with_adapters(model, str(path)), "unet")
    np.testing.assert_allclose(after[QUERY], before[QUERY] + 6 / RANK * update(down, up), atol=1e-5)
    beside.write_text(json.dumps({"r": RANK, "lora_alpha": 6, "use_rslora": True}))
    with pytest.raises(ValueError, match=f"{path}: unet.use_rslora=True is not supported"):
        jaxdiff.with_adapters(model, str(path))


def test_several_are_added_and_drawn_with_by_the_command_line(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = []
    for module in (QUERY, CONV):
        ((down, up),) = matrices(model, (module,)).values()
        paths.append(f"{kohya(module, 'unet')[-5:]}.safetensors")
        name = kohya(module, "unet")
        safetensors.numpy.save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, paths[-1])
    both = jaxdiff.with_adapters(model, {paths[0]: 0.5, paths[1]: 2.0})
    one = jaxdiff.with_adapters(jaxdiff.with_adapters(model, {paths[0]: 0.5}), {paths[1]: 2.0})
    jax.tree.map(np.testing.assert_array_equal, both.params, one.params)
    args = ["a red seven", "--steps", "2", "--npz", "--overwrite", "--out", "drawn.png"]
    cli.main(["sample", str(PIPELINE), *args])
    plain = np.load("drawn.npz")["images"]
    cli.main(["sample", str(PIPELINE), *args, "--lora", f"{paths[0]}:0.5", "--lora", f"{paths[1]}:2"])
    assert (np.load("drawn.npz")["images"] != plain).any()


A = np.zeros([RANK, 8], np.float32)
REFUSED = {
    "DoRA": ({f"unet.{QUERY}.dora_scale": A}, "is DoRA, which is no product of two matrices and is not supported"),
    "LoHa": ({f"{kohya(QUERY, 'unet')}.hada_w1_a": A}, "is LoHa, which is no"),
    "LoKr": ({f"{kohya(QUERY, 'unet')}.lokr_w1": A}, "is LoKr, which is no"),
    "middle": ({f"{kohya(CONV, 'unet')}.lora_mid.weight": A}, "is LoCon with a middle, which is no"),
    "whole": ({f"{kohya(CONV, 'unet')}.diff": A}, "is a whole kernel, which is no"),
    "other network": (
        {"lora_unet_down_blocks_7_resnets_0_conv1.lora_down.weight": A},
        "is of another network: stable_diffusion_1 has no layer of the name lora_unet_down_blocks_7_resnets_0_conv1",
    ),
    "half": ({f"unet.{QUERY}.lora_A.weight": A}, "to_q/kernel has no up matrix: the file is not whole"),
    "other shape": (
        {f"unet.{QUERY}.lora_A.weight": A[:, :5], f"unet.{QUERY}.lora_B.weight": A.T},
        "down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_q/kernel",
    ),
    "twice": (
        {f"unet.{QUERY}.lora_A.weight": A, f"{kohya(QUERY, 'unet')}.lora_down.weight": A},
        "is there a second time under another name",
    ),
    "other ranks": (
        {f"unet.{QUERY}.lora_A.weight": A, f"unet.{QUERY}.lora_B.weight": np.zeros([8, 3], np.float32)},
        "attn2/to_q/kernel is no LoRA: its matrices are (2, 8) and (8, 3)",
    ),
    "one dimension": (
        {f"unet.{QUERY}.lora_A.weight": A[0], f"unet.{QUERY}.lora_B.weight": A.T},
        "attn2/to_q/kernel is no LoRA: its matrices are (8,) and (8, 2)",
    ),
    "no rank": (
        {f"unet.{QUERY}.lora_A.weight": A[:0], f"unet.{QUERY}.lora_B.weight": A.T[:, :0]},
        "attn2/to_q/kernel is no LoRA: its matrices are (0, 8) and (8, 0)",
    ),
    "other key": ({f"unet.{QUERY}.lora_A.weight": A, "step": A}, "step is no part of a LoRA that is supported"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_expressed_is_named(case, tmp_path, capsys):
    tensors, message = REFUSED[case]
    path = tmp_path / "theirs.safetensors"
    safetensors.numpy.save_file(tensors, path)
    error = fails(capsys, "sample", PIPELINE, "a red seven", "--lora", path)
    assert re.search(re.escape(message), error) and str(path) in error


def test_a_lora_of_stable_diffusion_xl_has_the_names_of_single_files(tmp_path):
    model = jaxdiff.load(PIPELINE.parent / "stable_diffusion_xl")
    module = "up_blocks.0.attentions.1.transformer_blocks.1.attn2.to_k"
    theirs = "lora_unet_output_blocks_1_1_transformer_blocks_1_attn2_to_k"
    text = "encoder.layers.0.mlp.fc1"
    rng = np.random.default_rng(1)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    tensors = {f"{theirs}.lora_down.weight": normal(RANK, 16), f"{theirs}.lora_up.weight": normal(16, RANK)}
    name = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    tensors |= {f"{name}.lora_down.weight": normal(RANK, 8), f"{name}.lora_up.weight": normal(24, RANK)}
    safetensors.numpy.save_file(tensors, tmp_path / "xl.safetensors")
    adapted = jaxdiff.with_adapters(model, str(tmp_path / "xl.safetensors"))
    before, after = kernels(model, "unet"), kernels(adapted, "unet")
    wanted = update(tensors[f"{theirs}.lora_down.weight"], tensors[f"{theirs}.lora_up.weight"])
    np.testing.assert_allclose(after[module], before[module] + wanted, atol=1e-5)
    second = lambda model: model.replace(submodels={"text_encoder": model.submodels["second_text_encoder"]})
    before, after = kernels(second(model), "text"), kernels(second(adapted), "text")
    wanted = update(tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"])
    np.testing.assert_allclose(after[text], before[text] + wanted, atol=1e-5)


def test_textual_inversions_of_several_rows_and_of_two_text_encoders(model, tmp_path):
    rows = np.arange(24, dtype=np.float16).reshape(3, 8)
    safetensors.numpy.save_file({"emb_params": rows}, tmp_path / "EasyNegative.safetensors")
    safetensors.numpy.save_file({"<cat-toy>": rows[0]}, tmp_path / "learned_embeds.safetensors")
    words = model.text_encoder.tokenizer
    first = words.vocab_size
    both = jaxdiff.with_adapters(
        model, [str(tmp_path / f"{name}.safetensors") for name in ("EasyNegative", "learned_embeds")]
    )
    new = both.text_encoder.tokenizer
    ids = new(["a EasyNegative <cat-toy>"])[0].tolist()
    assert ids[1:6] == [*words.token_ids("a"), first, first + 1, first + 2, first + 3]
    table = both.submodels["text_encoder"].params["embeddings"]["token_embedding"]["embedding"]
    np.testing.assert_array_equal(table[first : first + 4], [*rows, rows[0]])
    again = tokenizer.from_json(tokenizer.to_json(new))
    assert again == new and again(["easynegative"]).tolist() == new(["easynegative"]).tolist()
    assert new.truncation("easynegative " * 8) == ("easynegative " * 7, "easynegative ")  # of 24 tokens in all
    xl = jaxdiff.load(PIPELINE.parent / "stable_diffusion_xl")
    path = str(tmp_path / "learned_embeds.safetensors")
    with pytest.raises(ValueError, match=rf"{path} is of 1 text encoder\(s\), and stable_diffusion_xl has 2"):
        jaxdiff.with_adapters(xl, path)
    safetensors.numpy.save_file({"clip_l": rows, "clip_g": 2 * rows}, tmp_path / "neg.safetensors")
    xl = jaxdiff.with_adapters(xl, str(tmp_path / "neg.safetensors"))
    assert [words.token_ids("neg")[1:] for words in (xl.text_encoder.tokenizer, xl.text_encoder.second)] == [
        [first + 1, first + 2]
    ] * 2
    table = xl.submodels["second_text_encoder"].params["embeddings"]["token_embedding"]["embedding"]
    np.testing.assert_array_equal(table[first : first + 3], 2 * rows)
    safetensors.numpy.save_file({"<wide>": np.zeros(16)}, tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match="'<wide>' is of a text encoder of width 16, and this one has width 8"):
        jaxdiff.with_adapters(model, str(tmp_path / "wide.safetensors"))
