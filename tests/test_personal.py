"""Adapting a model from the command line, each way to a file, and drawing with it: tiny models of random weights."""

import dataclasses
import json
import math
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import fails, tiny_config
from PIL import Image
from tiny import tiny_latent, write_ends

from jaxdiff import Cond, cli, meshes
from jaxdiff import config as configs
from jaxdiff import model as models
from jaxdiff.adapt import fuse, lora, new_tokens
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.config import Config, Diffusion, DreamBooth, FewSteps, LoRA, NewTokens, Prior
from jaxdiff.data import Source
from jaxdiff.model import Model, Origin, adaptation, checkpoints, runs
from jaxdiff.model.frozen_models import open_models
from jaxdiff.model.params import param_shapes
from jaxdiff.pipeline import fuse as fusion
from jaxdiff.train import base_model, initial, parallel, rundir, setup

STAR = "a red <star> on a blue background"
SMALL = """--train.batch-size 8 --train.steps-per-call 1 --train.save-every 1 --train.log-every 1 --train.sample-every 0
    --train.steps 2 --optim.warmup 0 --sample.steps 2 --sample.num 8 --sample.batch-size 8""".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base of random weights, its data, and a cache of what is encoded that goes with it."""
    folder, values = tmp_path_factory.mktemp("personal"), np.random.default_rng(0)
    config = tiny_latent("vae", "clip")
    codec, clip = (models.load(str(path)) for path in write_ends(folder))
    submodels = {"codec": codec, "text_encoder": models.text_transformer_of(clip)}
    shapes = param_shapes(config)
    params = jax.tree.map(lambda leaf: 0.3 * values.standard_normal(leaf.shape).astype(np.float32), shapes)
    base = Model(config=config, params=params, submodels=submodels, origin=Origin(trained_on="noise"))
    models.write(folder / "base.safetensors", base, "float32")
    flow = Diffusion(schedule="rectified_flow", num_levels=50, predict="flow", time="sigma", cond_dropout=0.1)
    models.write(
        folder / "flow.safetensors", base.replace(config=dataclasses.replace(config, diffusion=flow)), "float32"
    )
    (folder / "stars").mkdir()
    with (folder / "stars" / "metadata.jsonl").open("w") as file:
        for i in range(6):
            Image.fromarray(values.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "stars" / f"{i}.png")
            file.write(json.dumps({"file_name": f"{i}.png", "text": STAR}) + "\n")
    Image.fromarray(values.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / "large.png")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(place / "data"))
    monkeypatch.chdir(place)
    return place


BASE = ["--base", "base.safetensors", "--data.source", "folder:stars"]
NO_PRIOR = ["--adapt.prior.prompts", "--adapt.prior.weight", "1"]
ADAMW = ["--optim.method", "adamw"]  # compiled faster than Muon, by which notebook 06 trains a LoRA
TEXT_LORA = ["--adapt.rank", "2", "--adapt.targets", "attention", "--adapt.text-encoder", "--adapt.dropout", "0.2"]
CLASS = ["--adapt.prior.prompts", "one", "a 2", "--adapt.prior.num", "16"]
WAYS = {
    "lora": ["captioned_lora", *NO_PRIOR, *TEXT_LORA, *ADAMW],
    "dreambooth": ["captioned_dreambooth", "--adapt.text-encoder", *CLASS, *ADAMW],
    "words": ["captioned_textual_inversion"],
    "few_steps": ["captioned_few_steps", "--adapt.rank", "2", "--adapt.intervals", "12", *ADAMW],
    "control": ["captioned_controlnet", "--adapt.embedding", "4", "4", "4", *ADAMW],
}


def trained(way, steps=2, name=None, *more):
    name, (config, *flags) = name or way, WAYS[way]
    flags = [*flags, *BASE, *SMALL, "--train.steps", str(steps), *more]
    cli.main(["train", config, "--run-dir", name, *flags])
    return models.load(name)


def picture(*args):
    """What `jaxdiff sample` draws, uint8 [N, 32, 32, 3]."""
    few = ["--num", "8", "--batch-size", "8", "--steps", "2", "--npz", "--out", "drawn.png", "--overwrite"]
    cli.main(["sample", *args, *few])
    return np.load("drawn.npz")["images"]


def differ(one, other):
    """Paths of the parameters that are not the same bits."""
    one, other = (flatten_dict(tree, sep="/") for tree in (one, other))
    assert one.keys() == other.keys()
    return {path for path in one if not np.array_equal(one[path], other[path])}


def test_lora(here, capsys):
    model, base = trained("lora"), models.load("base.safetensors")
    adapter = models.load_adapter("lora/adapter.safetensors")
    changed = differ(model.params, base.params)
    assert changed == set(adapter.loras["unet"].factors) and all("attn" in path for path in changed)
    assert set(adapter.new_tokens) == {"<star>"} and len(adapter.loras["text"].factors) == 4
    files = models.with_adapter(base, adapter)  # which is float16
    chex.assert_trees_all_close(files.params, model.params, atol=1e-4)
    chex.assert_trees_all_close(
        files.submodels["text_encoder"].params, model.submodels["text_encoder"].params, atol=1e-4
    )
    plain = picture("base.safetensors", STAR)
    with_it = picture("base.safetensors", STAR, "--lora", "lora/adapter.safetensors")
    half = picture("base.safetensors", STAR, "--lora", "lora:0.5")
    assert (plain != with_it).any() and (half != with_it).any() and (half != plain).any()
    cli.main(["export", "lora", "--out", "again.safetensors", "--overwrite"])
    assert "adapter      again.safetensors, of base.safetensors" in capsys.readouterr().out
    chex.assert_trees_all_equal(with_it, picture("base.safetensors", STAR, "--adapter", "again.safetensors"))


def test_lora_goes_on_with_the_same_bits(here):
    at_once = models.load("lora") if (here / "lora").exists() else trained("lora")
    shutil.copytree("lora", "half")
    shutil.rmtree(runs.checkpoint_dir("half") / "2")  # as if it had been killed before its last one
    assert checkpoints.steps(runs.checkpoint_dir("half")) == [1]
    gone_on = trained("lora", 2, "half", "--resume")
    assert sorted(checkpoints.steps(runs.checkpoint_dir("half"))) == [1, 2]
    for name in ("params", "submodels"):
        one, other = (jax.tree.leaves(getattr(model, name)) for model in (at_once, gone_on))
        chex.assert_trees_all_equal([x for x in one if hasattr(x, "shape")], [x for x in other if hasattr(x, "shape")])


def test_tags_change_in_each_step_and_go_on_with_the_same_bits(here):
    """The text encoder is frozen and not kept in the adapter; the captions are encoded in each step."""
    flags = ["--data.source", "folder:tags", "--data.caption-tags.shuffle", "--data.caption-tags.dropout", "0.3"]
    flags += ["--data.trigger", "zz", "--adapt.new.tokens", "--adapt.new.initial", "--adapt.no-text-encoder"]
    shutil.copytree("stars", "tags")
    rows = [{"file_name": f"{i}.png", "text": ["red, blue, seven, small", "2, white"]} for i in range(6)]
    (here / "tags" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    at_once = trained("lora", 2, "tagged", *flags)
    assert set(models.load_adapter("tagged/adapter.safetensors").loras) == {"unet"}
    shutil.copytree("tagged", "tagged_half")
    shutil.rmtree(runs.checkpoint_dir("tagged_half") / "2")
    gone_on = trained("lora", 2, "tagged_half", "--resume", *flags)
    chex.assert_trees_all_equal(at_once.params, gone_on.params)
    plain = trained("lora", 2, "untagged", *flags[:2], *flags[5:])
    assert differ(at_once.params, plain.params)


def test_lora_on_a_mesh(here):
    """The frozen models are split, too; the adapter is whole."""
    if not (here / "lora").exists():
        trained("lora")
    mesh = ["--train.mesh", "data=2,fsdp=2,tensor=2", "--train.rules", "kernel=tensor+fsdp(1)"]
    trained("lora", 2, "lora_mesh", "--train.parallel", "sharded", *mesh)
    alone, split = models.load_adapter("lora"), models.load_adapter("lora_mesh/adapter.safetensors")
    for name, corrections in alone.loras.items():
        one, other = (jax.tree.leaves(adapter.loras[name].factors) for adapter in (alone, split))
        assert len(one) == len(other) == 2 * len(corrections.factors)
        apart = [np.abs(np.float32(a) - np.float32(b)).reshape(-1) > 1e-3 for a, b in zip(one, other)]
        assert np.concatenate(apart).mean() < 0.02


def test_dreambooth(here):
    """All of both networks is trained, the class is drawn by the base once, and half of all examples are of it."""
    model, base = trained("dreambooth"), models.load("base.safetensors")
    assert len(differ(model.params, base.params)) > 50
    assert len(differ(model.submodels["text_encoder"].params, base.submodels["text_encoder"].params)) > 12
    assert len(list((here / "dreambooth" / "class").glob("*.png"))) == 16
    plain = picture("base.safetensors", STAR)
    assert (picture("dreambooth", STAR) != plain).any()
    cli.main(["export", "dreambooth", "--out", "full.safetensors", "--overwrite"])
    chex.assert_trees_all_close(models.load("full.safetensors").params, model.params, atol=1e-3)
    config = configs.read_run("dreambooth")
    source = base_model.examples(config, setup.open_source(config), "dreambooth")
    assert [bool(source.read(i)["prior"]) for i in range(4)] == [False, True, False, True]
    assert source[0]["caption"] == STAR and source[1]["caption"] == config.adapt.prior.prompts[0]


def test_few_steps(here, capsys):
    """Kernels of all blocks are corrected, from a loss whose teacher is the base as it was."""
    model, base = trained("few_steps"), models.load("base.safetensors")
    adapter = models.load_adapter("few_steps/adapter.safetensors")
    changed = differ(model.params, base.params)
    assert changed == set(adapter.loras["unet"].factors) and all("block" in path for path in changed)
    assert adapter.metadata["method"] == "few_steps" and not adapter.new_tokens
    sample = model.config.sample
    assert (sample.sampler.kind, sample.steps, sample.guidance) == ("lcm", 2, 1.0)
    assert models.with_adapter(base, adapter).config.sample.sampler.kind == "lcm"
    flags = ["--guidance", "1"]
    with_it = picture("base.safetensors", "4", "--lora", "few_steps/adapter.safetensors", *flags)
    assert (with_it != picture("base.safetensors", "4", "--sampler", "lcm", *flags)).any()
    np.testing.assert_array_equal(
        with_it, picture("base.safetensors", "4", "--lora", "few_steps/adapter.safetensors", "--sampler", "lcm", *flags)
    )
    good = {"sampler": "lcm", "steps": 4, "spacing": "trailing", "guidance": 1.0}
    wrong = {"sampler": ["lcm"], "steps": -4, "spacing": "none", "guidance": math.nan}
    assert models.with_adapter(base, adapter, 0.0).config.sample == base.config.sample
    for said in (3, {"sampler": "lcm"}, *(good | {name: value} for name, value in wrong.items())):
        with pytest.raises(ValueError, match=r"sample|steps|spacing|guidance"):
            models.with_adapter(base, adapter._replace(metadata=adapter.metadata | {"sample": said}))
    config = configs.read_run("few_steps")
    join, rest = adaptation.joined(config, base), adaptation.frozen_params(config, base)
    whole = join(rest, runs.averaged("few_steps", config, base)[1])
    assert not differ(whole["base"], base.params) and differ(whole["unet"], base.params) == changed
    x, cond = jnp.ones([1, 8, 8, 2]), Cond(context=jnp.ones([1, 24, 8]))
    taught, _ = adaptation.make_teacher(config)(whole, x, 30, cond)
    chex.assert_trees_all_close(taught, base.apply(base.params, x, 30, cond)[0], atol=1e-6)
    capsys.readouterr()
    for flags, says in FEW_STEPS_MISTAKES:
        message = fails(capsys, "train", "captioned_few_steps", "--run-dir", "never", *BASE, *SMALL, *flags.split())
        assert says in message


def test_few_steps_by_reflow(here, capsys):
    """Of a base whose process is rectified flow; it is no consistency distillation."""
    reflow = ["--adapt.objective", "reflow", "--adapt.intervals", "2"]
    base = ["--base", "flow.safetensors", "--data.source", "folder:stars", *SMALL]
    message = fails(capsys, "train", "captioned_few_steps", "--run-dir", "never", *base, *reflow)
    assert "--adapt.phases and --adapt.huber are of --adapt.objective=consistency" in message
    flags = ["captioned_few_steps", "--adapt.rank", "2", "--adapt.phases", "1", *ADAMW, *base, *reflow]
    cli.main(["train", *flags, "--run-dir", "reflow", "--train.steps", "2"])
    changed = differ(models.load("reflow").params, models.load("flow.safetensors").params)
    assert changed == set(models.load_adapter("reflow/adapter.safetensors").loras["unet"].factors)


def test_few_steps_of_a_model_without_conditions_have_no_guidance():
    config = tiny_config()
    configs.check(dataclasses.replace(config, adapt=FewSteps(base="tiny", intervals=10)))
    with pytest.raises(ValueError, match=r"`adapt\.guidance`=3\.0 is towards labels or texts"):
        configs.check(dataclasses.replace(config, adapt=FewSteps(base="tiny", intervals=10, guidance=3.0)))
    few = FewSteps(base="tiny", intervals=10, guidance=3.0)
    labelled = dataclasses.replace(config, adapt=few, net=dataclasses.replace(config.net, num_classes=3))
    with pytest.raises(ValueError, match="leads away from no label or text, which the base was trained without"):
        configs.check(labelled)
    with pytest.raises(ValueError, match="=importance remembers losses of all levels"):
        levels = dataclasses.replace(config.diffusion, levels="importance")
        configs.check(dataclasses.replace(config, adapt=FewSteps(base="tiny", intervals=10), diffusion=levels))
    for value in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match=r"`adapt\.guidance`"):
            configs.check(dataclasses.replace(labelled, adapt=dataclasses.replace(few, guidance=value)))


FEW_STEPS_MISTAKES = [
    ("--adapt.intervals 1", "--adapt.intervals=1 must be from 2 to 49"),
    ("--adapt.intervals 10", "--adapt.phases=4 must be at least 1, less than --adapt.intervals=10, and divide it"),
    ("--adapt.intervals 12 --adapt.objective reflow", "choose consistency"),
    ("--adapt.intervals 12 --adapt.huber 0", "--adapt.huber=0.0 must be above 0"),
    ("--diffusion.cond-dropout 0.2", "--diffusion.cond-dropout is that of the base model: leave it out"),
    ("--adapt.intervals 12 --adapt.rank 9", "--adapt.rank=9 must be from 1 to 8"),
]


def test_textual_inversion(here):
    """Nothing but the new word's row of the table is trained."""
    model, base = trained("words"), models.load("base.safetensors")
    assert not differ(model.params, base.params)
    text, before = model.submodels["text_encoder"], base.submodels["text_encoder"]
    new, old = new_tokens.token_embeddings(text.params), new_tokens.token_embeddings(before.params)
    size = before.tokenizer.vocab_size
    np.testing.assert_array_equal(new[:size], old[:size])
    assert text.tokenizer.token_ids("<star>") == [size] and not np.array_equal(new[size], old[size])
    assert (here / "words" / "adapter.safetensors").stat().st_size < 2000
    drawn = picture("base.safetensors", STAR, "--lora", "words/adapter.safetensors")
    np.testing.assert_array_equal(drawn, picture("words", STAR, "--guidance", "2"))


def test_controlnet(here, capsys):
    """The base is as it was; the picture and its scale make a difference, and a scale of 0 makes none."""
    model, base = trained("control", 3), models.load("base.safetensors")
    assert not differ(model.params, base.params) and len(model.controls) == 1
    Image.fromarray(np.full([32, 32, 3], 200, np.uint8)).save("grey.png")
    how = ["base.safetensors", STAR, "--controlnet", "control/adapter.safetensors", "--guidance", "2"]
    plain = picture("base.safetensors", STAR, "--guidance", "2")
    told = picture(*how, "--control", "grey.png", "--control-scale", "20")
    assert (told != plain).any()
    np.testing.assert_array_equal(picture(*how, "--control", "grey.png", "--control-scale", "0"), plain)
    assert "was cropped" not in capsys.readouterr().err
    run = picture("control", STAR, "--guidance", "2", "--control", "grey.png", "--control-scale", "20")
    assert np.abs(run.astype(int) - told).max() <= 8  # the same but for the file's float16
    other = picture(*how, "--control", "large.png", "--control-scale", "20")
    assert "large.png is 40x40 and was cropped and resized to 32x32" in capsys.readouterr().err
    assert (other != told).any() and (picture(*how, "--control", "grey.png", "--guess") != plain).any()
    two = [*how, "--controlnet", "control", "--control", "grey.png", "--control", "grey.png"]
    twice = picture(*two, "--control-scale", "10", "--control-scale", "10")
    assert np.abs(twice.astype(int) - told).max() <= 1  # two halves are the whole


def test_what_is_frozen_is_neither_trained_nor_a_constant(here):
    base = models.load("base.safetensors")
    config = Config(data=dataclasses.replace(Config().data, source="folder:stars", image_shape=(32, 32, 3)))
    config = dataclasses.replace(config, adapt=LoRA(base="base.safetensors", rank=2, new=NewTokens(("<star>",))))
    config = base_model.with_base(config, base.config)
    state = initial.new_state(config, base)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert count < 0.25 * sum(leaf.size for leaf in jax.tree.leaves(base.params))
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * count
    rest = adaptation.frozen_params(config, base)
    whole = adaptation.joined(config, base)(rest, state.params)
    assert not differ(whole["unet"], base.params)  # at first, to the bit
    text = base.submodels["text_encoder"]
    new, old = new_tokens.token_embeddings(whole["text"]), new_tokens.token_embeddings(text.params)
    np.testing.assert_array_equal(new[: text.tokenizer.vocab_size], old[: text.tokenizer.vocab_size])
    source = base_model.examples(config, setup.open_source(config), here / "unused")
    parts = open_models(config, source, None, base)
    step = setup.make_step(config, parts)
    batch = {
        "image": jnp.zeros([1, 64, 8, 8, 2]),
        "index": jnp.zeros([1, 64], jnp.uint32),
        "cond": Cond(context=jnp.full([1, 64, 24], 513, jnp.int32)),
    }
    arguments = parallel.replicate(state), initial.step_key(config), parallel.split(batch, axis=1)
    program = step.lower(*arguments, parallel.replicate(rest))
    outputs = jax.tree.leaves(program.out_info)
    assert sum(np.prod(leaf.shape[1:]) for leaf in outputs) < 6 * count
    kernels = {leaf.shape for leaf in jax.tree.leaves(base.params) if leaf.ndim > 1 and leaf.size > 32}
    constants = re.findall(r"stablehlo.constant dense<\"0x[^>]*> : tensor<([^>]*)xf32>", program.as_text())
    assert not {"x".join(map(str, shape)) for shape in kernels} & set(constants)


MISTAKES = [
    ("--base nowhere", "unknown model 'nowhere'"),
    ("--adapt.rank 9 --adapt.targets attention", "--adapt.rank=9 must be from 1 to 8"),
    ("--adapt.targets nothing", "no kernel's path matches 'nothing'"),
    ("--adapt.targets (", "neither made of attention"),
    ("--adapt.prior.weight 0.5", "--adapt.prior needs the class: name it by --adapt.prior.prompts"),
    ("--adapt.condition edges", "--adapt.condition is an option of --adapt controlnet"),
    ("--adapt.new.tokens Star", "must be without spaces and capitals"),
    ("--adapt.new.tokens red", "is a token already"),
    ("--adapt.prior.prompts a --adapt.prior.num 0", "--adapt.prior.num=0 must be at least 1"),
    ("--adapt.prior.prompts a b --adapt.prior.num 1", "is less than the 2 prompts of --adapt.prior.prompts"),
    ("--adapt.prompts seven", "none of --adapt.prompts holds the new token '<star>'"),
    ("--net.blocks 3", "--net.blocks is that of the base model: leave it out"),
    ("--diffusion.predict eps", "--diffusion.predict is that of the base model"),
    ("--adapt.new.tokens <moon>", "none of the captions of folder:stars holds the new token '<moon>'"),
    ("--adapt.prior.prompts a --adapt.prior.source folder:stars --adapt.prior.num 3", "has images already"),
    ("--adapt.new.initial one two", "names 2 words for the 1 of --adapt.new.tokens"),
    ("--adapt.new.tokens --adapt.new.initial red", "names 1 words for the 0 of --adapt.new.tokens"),
    ("--data.image-shape 28 28 3", "must be that of the base model, (32, 32, 3)"),
    ("--data.trigger {long}", "of --data.trigger"),
    ("--data.trigger sks --adapt.prompts a-<star>", "--data.trigger is put in front of captions, and --adapt.prompts"),
    ("--data.caption-tags.keep 2", "--data.caption-tags.keep=2 is a number of first tags that"),
    ("--data.caption-tags.dropout 1", "--data.caption-tags.dropout=1.0 must lie in [0, 1)"),
    ("--base captioned_vae", "captioned_vae is not a denoiser"),
]


@pytest.mark.parametrize("flags, says", MISTAKES)
def test_what_cannot_be_learned(here, capsys, flags, says):
    usual = [] if "--base" in flags else BASE[:2]
    flags = [*usual, *BASE[2:], *SMALL, *NO_PRIOR, *flags.format(long="x".join("abcdefgh" * 9)).split()]
    assert says in fails(capsys, "train", "captioned_lora", "--run-dir", "never", *flags)
    assert not (here / "never" / "checkpoints").exists()


def test_what_cannot_be_put_beside(here, capsys):
    if not (here / "control").exists():
        trained("control", 3)
    base = ["sample", "base.safetensors", STAR]
    control = [*base, "--controlnet", "control"]
    assert "are 1 ControlNets (of edges) and 0 pictures" in fails(capsys, *control)
    assert "cannot be read" in fails(capsys, *control, "--control", "broken.png")
    assert "no_such.png" in fails(capsys, *control, "--control", "no_such.png")
    assert "name one by --controlnet" in fails(capsys, *base, "--control", "large.png")
    assert "give it as --controlnet" in fails(capsys, *base, "--lora", "control")
    assert "there is no" in fails(capsys, *base, "--lora", "no_such.safetensors")
    assert "did you mean 'star'" in fails(capsys, *base, "--lora", "sta")
    assert "are 1 ControlNets (of edges) and 0 pictures" in fails(capsys, "eval", "control")
    assert "is no LoRA" in fails(capsys, *base, "--lora", "base.safetensors")
    if not (here / "lora").exists():
        trained("lora")
    says = fails(capsys, "sample", "captioned", STAR, "--lora", "lora")
    assert "lora: this LoRA is of another network: " in says and "attn1/to_k/kernel" in says
    assert "one --lora is given twice" in fails(capsys, *base, "--lora", "lora", "--lora", "lora")
    again = ["--lora", "lora", "--lora", "lora/adapter.safetensors"]
    assert "'<star>' is a token already" in fails(capsys, *base, *again)


def test_fused(here, capsys):
    """Two LoRAs of words of their own as one, from the command line: of both ranks, both ways, for the base alone."""
    loras = []
    for i, word in enumerate(("<star>", "<moon>")):
        base = models.load("base.safetensors")
        fresh = lora.init(jax.random.key(i), base.params, 1)
        up = {path: both._replace(up=both.up + 0.3) for path, both in fresh.factors.items()}
        about = {"name": word, "base": "base.safetensors", "prompts": [f"a red {word}"], "prior": ["a red seven"]}
        corrections = {"unet": fresh._replace(factors=up)}
        if not i:  # what reads is corrected by one alone
            reads = lora.init(jax.random.key(9), base.submodels["text_encoder"].params, 1, lora.TEXT_ATTENTION)
            up = {path: both._replace(up=both.up + 0.3) for path, both in reads.factors.items()}
            corrections["text"] = reads._replace(factors=up)
        made = Adapter(about, corrections, {word: np.full(8, 0.1, np.float32)})
        models.write_adapter(f"lora_{i}.safetensors", made, "float32")
        loras.append(made)
    two = ["fuse", "lora_0.safetensors", "lora_1.safetensors", "--overwrite", "-o"]
    few = ["--images", "4", "--levels", "2", "--steps", "0"]
    cli.main([*two, "both", *few])
    cli.main([*two, "mean.safetensors", "--method", "average"])
    cli.main([*two, "by_few", *few, "--at-a-time", "40"])
    assert "fused        both.safetensors, of base.safetensors, with <star>, <moon>" in capsys.readouterr().out
    both, mean, by_few = (models.load_adapter(f"{name}.safetensors") for name in ("both", "mean", "by_few"))
    chex.assert_trees_all_close(by_few.loras, both.loras, atol=1e-3)
    base = models.load("base.safetensors")
    halves = lora.merge(lora.merge(base.params, loras[0].loras["unet"], 0.5), loras[1].loras["unet"], 0.5)
    chex.assert_trees_all_close(models.with_adapter(base, mean).params, halves, atol=1e-3)
    changed = differ(models.with_adapter(base, both).params, base.params)
    assert changed == set(loras[0].loras["unet"].factors) and set(both.new_tokens) == {"<star>", "<moon>"}
    assert all(down.shape[1] == 2 for down, _ in both.loras["unet"].factors.values())
    assert both.loras["text"].factors.keys() == loras[0].loras["text"].factors.keys()
    same = ["fuse", "lora_0.safetensors", "lora_0.safetensors", "-o", "same"]
    assert "two of the adapters have the new token '<star>'" in fails(capsys, *same)
    assert "needs two LoRAs or more" in fails(capsys, "fuse", "lora_0.safetensors", "-o", "same")
    assert "--images=0 must be at least 1" in fails(capsys, *two, "none", "--images", "0")
    assert "--at-a-time=0 must be at least 1" in fails(capsys, *two, "none", "--at-a-time", "0")
    average = [*two, "none", "--method", "average", "--images", "4"]
    assert "--images is an option of --method gradient" in fails(capsys, *average)
    with pytest.raises(ValueError, match="tiny_latent is not a text-to-image model without ControlNets"):
        fusion.fused(base.replace(submodels={}), loras)
    with pytest.raises(ValueError, match="this LoRA is of another network"):
        fusion.fused(models.load("digits"), loras, "average")
    ticks, method = [], fusion.Gradient(images=4, levels=2, steps=0, at_a_time=40)
    fusion.fused(base, loras, method, ticks.append)
    assert sum(ticks) == fusion.work(loras, method)
    plain = picture("base.safetensors", STAR)
    two = picture("base.safetensors", STAR, "--lora", "lora_0.safetensors:0.5", "--lora", "lora_1.safetensors:0.5")
    np.testing.assert_allclose(two, picture("base.safetensors", STAR, "--lora", "mean.safetensors"), atol=2)
    assert (two != plain).any()


@pytest.mark.parametrize("way", WAYS)
def test_starts_in_parts_on_a_mesh(here, way):
    """The state before the first step is that of `jax.pmap`, and each device has an eighth of what can be split."""
    if not (here / way).exists():
        trained(way)
    config = configs.read_run(way)
    base = base_model.open_base(config, way)
    train = dataclasses.replace(config.train, parallel="sharded", mesh="fsdp=8", rules=(".=fsdp(8)",))
    whole = initial.new_state(config, base)
    parts = initial.new_state(dataclasses.replace(config, train=train), base)
    size = sum(x.nbytes for x in jax.tree.leaves(parts))
    mine = sum(x.addressable_data(0).nbytes for x in jax.tree.leaves(parts))
    assert mine < size / 4 and all(isinstance(x, np.ndarray) for x in jax.tree.leaves(base.params))
    chex.assert_trees_all_close(meshes.on_host(parts), whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("way", ["lora", "dreambooth", "control"])
def test_a_run_in_another_dtype(here, way):
    """Its weights, and the network that computes with them."""
    if not (here / way).exists():
        trained(way)
    model = models.load(way, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model)} == {"bfloat16"}
    assert model.config.net.dtype == "bfloat16"
    chex.assert_trees_all_close(jax.tree.map(jnp.float32, model.params), models.load(way).params, rtol=1e-2, atol=1e-2)


def test_images_of_the_class_that_are_there(tmp_path):
    """Those of a run that goes on are its own, whichever version sampled them; a new run refuses those of another class."""
    config = Config(adapt=DreamBooth(base="base.safetensors", prior=Prior(("a seven",))))
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "about.json").write_text("of another class, or by another version")
    sample = lambda: base_model.sample_class(config, Model(params=None), tmp_path, lambda: None)
    with pytest.raises(ValueError, match="class holds images of another class: remove it"):
        sample()
    rundir.write_config(tmp_path, config)
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    sample()


def test_prompts_that_a_run_learns_from():
    """Those that are given come before captions, of which all are looked through for a new word, and 64 are kept."""
    read = lambda i: {"image": np.zeros([4, 4, 3], np.uint8)}
    adapt = LoRA(base="base", new=NewTokens(("<star>",)), prompts=("a <star>", "a red <star>"))
    config = Config(name="some", adapt=adapt)
    assert base_model.prompts(config, Source(read, 2, (4, 4, 3))) == ["a <star>", "a red <star>"]
    late = Source(read, 100, (4, 4, 3), caption=lambda i: f"a {'<star>' if i == 99 else 'seven'}, {i}")
    config = dataclasses.replace(config, adapt=dataclasses.replace(adapt, prompts=()))
    assert base_model.prompts(config, late) == [f"a seven, {i}" for i in range(64)]
    with pytest.raises(ValueError, match=r"none of the captions of .* holds the new token '<star>', such as 'seven'"):
        base_model.prompts(config, Source(read, 100, (4, 4, 3), caption=lambda i: "seven"))


def test_fused_layers_are_nearer_in_all_when_they_go_on(here):
    """What the network says with a LoRA of both, beside what it says with each concept's own: less far after `matched`."""
    base = models.load("base.safetensors")
    rng, shape = np.random.default_rng(0), base.config.shape
    loras = []
    for i in range(2):
        fresh = lora.init(jax.random.key(i), base.params, 1)
        up = {
            path: both._replace(up=jnp.asarray(rng.normal(0, 1, both.up.shape))) for path, both in fresh.factors.items()
        }
        loras.append(fresh._replace(factors=up))
    drawn = [
        (rng.normal(size=[8, *shape]).astype(np.float32), np.asarray(base.text_encoder([said] * 8)))
        for said in (STAR, "")
    ]
    begun = fuse.averaged(loras)
    apply = jax.jit(lambda one, x, c: base.apply(lora.merge(base.params, one), x, 500, Cond(context=c))[0])
    far = lambda one: sum(
        float(jnp.square(apply(one, *each) - apply(own, *each)).mean()) for own, each in zip(loras, drawn)
    )
    same = fusion.matched(base, begun, loras, drawn, steps=0)
    ended = fusion.matched(base, begun, loras, drawn, steps=60, learning_rate=1e-2)
    assert far(same) == far(begun) and far(ended) < 0.7 * far(begun)
    assert [f.down.shape for f in ended.factors.values()] == [f.down.shape for f in begun.factors.values()]


def test_a_run_that_has_lost_its_base(here, capsys):
    if not (here / "words").exists():
        trained("words")
    (here / "words" / "base.safetensors").rename(here / "away")
    try:
        assert "has lost its base.safetensors" in fails(capsys, "sample", "words", STAR)
    finally:
        (here / "away").rename(here / "words" / "base.safetensors")
    kept = checkpoints.steps(runs.checkpoint_dir("words"))
    assert "--resume cannot change adapt" in fails(
        capsys,
        "train",
        "captioned_textual_inversion",
        "--run-dir",
        "words",
        "--resume",
        "--train.steps",
        "4",
        "--adapt.new.initial",
        "eight",
    )
    assert checkpoints.steps(runs.checkpoint_dir("words")) == kept
