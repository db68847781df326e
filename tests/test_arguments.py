"""Wrong arguments of the public functions: each is refused by its name, and nothing is silently something else."""

import copy
import dataclasses
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_config
from PIL import Image

import jaxdiff
from jaxdiff import arguments, data, guidance, process, samplers, schedules, timesteps
from jaxdiff import model as models
from jaxdiff.config import Data, Sample, Train
from jaxdiff.data import Source, derived
from jaxdiff.errors import NotFinite
from jaxdiff.eval import features, fid, neighbors, zero_shot
from jaxdiff.pipeline import requests
from jaxdiff.text import tokenizer

KEY, SCHEDULE = jax.random.key(0), schedules.linear()
GREY, COLOUR = np.zeros([28, 28, 1], np.uint8), np.zeros([32, 32, 3], np.uint8)
SDEDIT = {"prompt": 9, "method": "sdedit"}


def digits():
    return jaxdiff.load("digits")


def captioned():
    return jaxdiff.load("captioned")


def generate(**given):
    return lambda: jaxdiff.generate(digits(), **{"num": 1, "show_progress": False} | given)


def draw(*prompts, **given):
    return lambda: jaxdiff.generate(captioned(), *prompts, show_progress=False, **given)


def edit(image=GREY, **given):
    return lambda: jaxdiff.edit(digits(), image, show_progress=False, **SDEDIT | given)


def condition(**given):
    return lambda: jaxdiff.condition(digits(), **given)


def encode(images):
    return lambda: jaxdiff.encode(captioned(), images)


def decode(x, how="whole"):
    return lambda: jaxdiff.decode(captioned(), x, how)


def evaluate(metrics="fid", **given):
    return lambda: jaxdiff.evaluate(digits(), metrics, **{"num": 4} | given)


def sample(**given):
    """`jaxdiff.sample` of two digits in two steps."""

    def run():
        model = digits()
        arguments = {
            "key": KEY,
            "sampler": jaxdiff.ddim(),
            "denoise": guidance.cfg(jaxdiff.denoiser_of(model), 2.0),
            "schedule": SCHEDULE,
            "timesteps": [1000, 500, 0],
            "x_T": model.noise(KEY, 2),
            "cond": jaxdiff.condition(model, labels=[7, 3]),
        }
        return jaxdiff.sample(**arguments | {name: made() if callable(made) else made for name, made in given.items()})

    return run


def denoise(x_t=None, t=500, cond=None):
    def run():
        model = digits()
        given = jaxdiff.condition(model, labels=[7, 3]).cond if cond is None else cond
        return jaxdiff.denoiser_of(model)(model.noise(KEY, 2) if x_t is None else x_t, t, given)

    return run


def fit(source=None, run="unused", **given):
    config = tiny_config(sample_every=0)
    config = dataclasses.replace(config, data=Data("own", (28, 28, 1)), **given)
    return lambda: jaxdiff.fit(config, source=source, run=run)


def source_of(image, **more):
    return Source(lambda i: {"image": image} | more, 4, (28, 28, 1), ("a", "b") if more else ())


def judged(images):
    return lambda: features.gathered(features.Features(lambda x: (x, x), "none"), [images])


class Tensor:
    """Array of another library, which converts itself to NumPy, or refuses to."""

    def __init__(self, array, requires_grad=False):
        self.array, self.requires_grad = array, requires_grad

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise RuntimeError("use detach() first")
        return np.asarray(self.array, dtype)


def ruined():
    """Digits of which one layer is nan."""
    params = digits().params
    return digits().replace(params=params | {"conv_in": jax.tree.map(lambda leaf: leaf * np.nan, params["conv_in"])})


def of_roles(call, message):
    """A function of each model that draws no images."""
    names = "captioned_vae", "captioned_vqvae", "captioned_clip", "digits_classifier"
    return {f"{call.__name__} of {name}": (lambda name=name: call(jaxdiff.load(name)), message) for name in names}


def q_sample(x0, t=500, eps=0.0, schedule=SCHEDULE):
    return lambda: process.q_sample(schedule, x0, t, eps)


HALF, GRADIENT = "a \ud800 seven", Tensor(np.zeros([1, 32, 32, 3], np.float32), requires_grad=True)
NO_PATH = {"a number": 5, "nothing": None, "a null byte": "a\0b", "half of a character": "a\ud800"}
REFUSED = {
    # models of other roles
    **of_roles(jaxdiff.condition, "is not a denoiser: its network is of kind"),
    **{
        f"{call.__name__} of a {name}": (
            lambda call=call, name=name, channels=channels: call(
                jaxdiff.load(name), np.zeros([1, 8, 8, channels], np.float32)
            ),
            f"has no latents, as its network is of kind '{kind}'",
        )
        for name, kind, channels in (("captioned_clip", "clip", 3), ("digits_classifier", "classifier", 1))
        for call in (jaxdiff.encode, jaxdiff.decode)
    },
    "an image decoded by an autoencoder": (
        lambda: jaxdiff.decode(jaxdiff.load("captioned_vae"), np.zeros([1, 32, 32, 3], np.float32)),
        "`x` must be float [B, H, W, 6], not [1, 32, 32, 3]",
    ),
    "texts embedded by a denoiser": (lambda: zero_shot.embed_texts(digits(), ["a"]), "`clip` must be a CLIP, and "),
    "one text embedded": (
        lambda: zero_shot.embed_texts(jaxdiff.load("captioned_clip"), "seven"),
        "`texts` must be a list of texts, not str",
    ),
    "no texts embedded": (lambda: zero_shot.embed_texts(jaxdiff.load("captioned_clip"), []), "`texts` is empty"),
    "no images embedded": (
        lambda: zero_shot.embed_images(jaxdiff.load("captioned_clip"), np.zeros([0, 32, 32, 3], np.uint8)),
        "`images` is empty",
    ),
    # texts that are no UTF-8
    "half of a character drawn": (draw(HALF), r"`prompts`='a \ud800 seven' holds half of a character"),
    "half of a character weighted": (
        lambda: jaxdiff.condition(captioned(), [HALF], prompt_syntax="weighted"),
        r"`prompts`='a \ud800 seven' holds half of a character",
    ),
    "half of a character avoided": (
        draw("a seven", guidance=2.0, negative=HALF),
        r"`negative`='a \ud800 seven' holds half of a character",
    ),
    "half of a character edited": (
        lambda: jaxdiff.edit(captioned(), COLOUR, prompt=HALF, method="sdedit"),
        r"`prompt`='a \ud800 seven' holds half of a character",
    ),
    "half of a character as labels": (generate(labels=HALF), r"`labels`='a \ud800 seven' holds half of a character"),
    "half of a character tokenized": (
        lambda: captioned().text_encoder([HALF]),
        r"`text`='a \ud800 seven' holds half of a character",
    ),
    "half of a character learned": (
        lambda: tokenizer.train(["a", HALF], 600, 6),
        r"`texts`='a \ud800 seven' holds half of a character",
    ),
    "half of a character as token": (
        lambda: tokenizer.with_new_tokens(captioned().text_encoder.tokenizer, ["<\ud800>"]),
        r"`new_tokens`='<\ud800>' holds half of a character",
    ),
    "one text tokenized": (lambda: captioned().text_encoder("seven"), "`texts` must be a list of texts, not str"),
    "numbers tokenized": (lambda: captioned().text_encoder([7]), "`text` must be a text, not int"),
    "one text learned": (lambda: tokenizer.train("seven", 600, 6), "`texts` must be several texts, not one"),
    "half a vocabulary": (lambda: tokenizer.train(["a"], 600.5, 6), "`vocab_size`=600.5 must be of type int"),
    "one text as new tokens": (
        lambda: tokenizer.with_new_tokens(captioned().text_encoder.tokenizer, "<a>"),
        "`new_tokens` must be a list of tokens, not str",
    ),
    "one text as prompts": (
        lambda: derived.with_prompts(source_of(GREY), "a seven"),
        "`prompts`='a seven' must be a list of at least one text",
    ),
    # names
    **{
        f"a sampler by a {type(name).__name__}": (
            generate(labels=7, sampler=name),
            f"the sampler must be a name, such as 'ddim_cfgpp', or a choice, not of type {kind}",
        )
        for name, kind in (({"kind": "ddim"}, "dict"), (["ddim"], "tuple"), (jaxdiff.ddim(), "Sampler"))
    },
    "a sampler's class": (
        lambda: samplers.SAMPLERS.choice(samplers.SAMPLERS["ddim"]),
        "the sampler must be a name, such as 'ddim_cfgpp', or a choice, not the class ddim",
    ),
    "a list in a registry": (lambda: samplers.SAMPLERS.get([1]), "the sampler must be a name"),
    "a number parsed": (lambda: samplers.SAMPLERS.parse(5), "the sampler must be a name"),
    "a registered list": (lambda: samplers.SAMPLERS.register(["x"]), "registered under a name, not under a list"),
    "a method by a list": (edit(method=["sdedit"]), "must be a name, such as "),
    "a spacing by a list": (lambda: digits().levels(3, ["trailing"]), "the spacing must be a name, such as 'trailing'"),
    "a spacing and a number": (lambda: digits().levels("trailing", 3), "the spacing must be a name"),
    "data by a dict": (lambda: Data({"kind": "digits"}), "the data source must be a name, such as 'digits'"),
    "data by a source": (lambda: data.load(source_of(GREY)), "the data source must be a name, such as 'digits'"),
    "data by bytes": (lambda: data.load(b"digits"), "the data source must be a name, such as 'digits'"),
    "an option of data": (lambda: data.load("digits", split=[1]), "split=(1,) must be of type str"),
    "a layout by a list": (
        lambda: jaxdiff.export(digits(), "a.safetensors", layout=["jaxdiff"]),
        "unknown layout ['jaxdiff']: did you mean 'jaxdiff'?",
    ),
    "decoded by a list": (decode(np.zeros([1, 8, 8, 6]), ["whole"]), "unknown way of decoding ['whole']"),
    "a config by a list": (lambda: jaxdiff.config.load(["digits"]), "`name` must be the name of a config"),
    "levels as text": (lambda: timesteps.grid("1000", 5), "`num_levels`='1000' must be of type int"),
    # arrays of others
    "encoded with gradients": (
        encode(GRADIENT),
        "`images`, of type Tensor, cannot be read as an array of NumPy (use detach() first)",
    ),
    "edited with gradients": (edit(GRADIENT), "`image`, of type Tensor, cannot be read as an array of NumPy"),
    "controlled with gradients": (draw("a seven", control=GRADIENT), "`control`, of type Tensor, cannot be read"),
    "prompted with gradients": (draw("a seven", image_prompt=GRADIENT), "`image_prompt`, of type Tensor, cannot be"),
    "labels with gradients": (generate(labels=GRADIENT), "`labels`, of type Tensor, cannot be read as an array"),
    "controlled by a number": (draw("a seven", control=5), "`control` must be a picture, uint8 [H, W, C], or a list"),
    "encoded nothing": (encode(np.zeros([0, 32, 32, 3], np.float32)), "`images` is empty, of shape [0, 32, 32, 3]"),
    "decoded nothing": (decode(np.zeros([0, 8, 8, 6], np.float32)), "`x` is empty, of shape [0, 8, 8, 6]"),
    # inversions, metrics, weights, paths and places
    "an inversion by a number": (
        lambda: jaxdiff.edit(digits(), prompt=9, inversion=5),
        "`inversion` must be an Inversion, such as of an earlier edit, not int",
    ),
    "an inversion by its file": (
        lambda: jaxdiff.edit(digits(), prompt=9, inversion="a.safetensors"),
        "`inversion` must be an Inversion, such as of an earlier edit, not str",
    ),
    **{
        f"metrics as {metrics!r}": (evaluate(metrics), "`metrics`=")
        for metrics in (5, {"fid": 1}, {"fid"}, b"fid", [1])
    },
    "weights of nan": (
        lambda: jaxdiff.export(ruined(), "a.safetensors", dtype="float32"),
        "the weights conv_in/bias are not finite",
    ),
    "large weights": (
        lambda: jaxdiff.export(
            digits().replace(params=jax.tree.map(lambda leaf: leaf + 1e6, digits().params)), "a.safetensors"
        ),
        "are not finite as float16: choose `dtype`=float32",
    ),
    **{
        f"{what} {name}": (lambda call=call, path=path: call(path), "must be a name or a path")
        for name, path in NO_PATH.items()
        for what, call in {
            "loaded from": jaxdiff.load,
            "exported to": lambda path: jaxdiff.export(digits(), path),
            "an adapter from": models.load_adapter,
            "adapted by": lambda path: jaxdiff.with_adapters(captioned(), [path]),
        }.items()
    },
    "adapters as a number": (lambda: jaxdiff.with_adapters(captioned(), 5), "`adapters` must be a name, or a list"),
    "a ControlNet as a number": (
        lambda: jaxdiff.with_adapters(captioned(), controlnet=5),
        "`controlnet` must be a name, or a list of them, not int",
    ),
    "an exported model as adapter": (
        lambda: models.export_adapter(digits(), "a.safetensors", digits()),
        "`adapter` must be an Adapter",
    ),
    **{
        f"placed on {placement!r}": (
            lambda placement=placement: jaxdiff.load("digits", placement=placement),
            "`placement` must be a device, such as jax.devices('cpu')[0], a sharding or a mesh, not",
        )
        for placement in ("cpu", 5, ["cpu"])
    },
    "a pickled model": (lambda: pickle.dumps(digits()), "a Model cannot be pickled: jaxdiff.export writes it"),
    # sources
    **{
        f"an image shape of {shape!r}": (lambda shape=shape: data.load("digits", shape), "`image_shape` ")
        for shape in ((28.0, 28.0, 1.0), "28x28x1", 28, (None, 28, 1), (28, 28, True))
    },
    **{
        f"a source with {name}={value!r}": (
            lambda name=name, value=value: Source(
                **{"read": lambda i: {"image": GREY}, "size": 4, "image_shape": (28, 28, 1)} | {name: value}
            ),
            f"`{name}`",
        )
        for name, values in {
            "read": (5, None),
            "size": (3.5, -1, "4", True),
            "image_shape": ((28.0, 28, 1), (28, 28), 28),
            "classes": ("ab",),
            "caption": ("a seven",),
            "label": (3,),
        }.items()
        for value in values
    },
    **{
        f"examples {i!r}": (lambda i=i: source_of(GREY)[i], "a source has examples by number, not by")
        for i in (slice(2), 1.0, "image", [1, 2])
    },
    # a request
    "model by name": (lambda: jaxdiff.generate("digits"), "`model` must be a Model, from jaxdiff.load, not str"),
    "model as parameters": (lambda: jaxdiff.generate({}), "`model` must be a Model, from jaxdiff.load, not dict"),
    "classifier by name": (generate(classifier="digits_classifier"), "`classifier` must be a Model"),
    "labels of floats": (generate(labels=[7.5]), "`labels` must be integers: 7.5"),
    "label True": (generate(labels=True), "`labels` must be integers: True"),
    "labels in two axes": (generate(labels=[[7, 3], [1, 2]]), "`labels` must be integers"),
    "fewer images than labels": (generate(labels=[7, 3], num=1), "`num`=1 images are too few for 2 `labels`"),
    "num as float": (generate(num=2.5), "`num`=2.5 must be of type int"),
    "steps as text": (generate(steps="3"), "`steps`='3' must be of type int"),
    "steps as float": (generate(steps=3.7), "`steps`=3.7 must be of type int"),
    "seed as float": (generate(seed=1.5), "`seed`=1.5 must be of type int"),
    "seed as key": (generate(seed=KEY), "`seed`=PRNGKeyArray must be of type int"),
    "guidance as text": (generate(labels=7, guidance="2"), "`guidance`='2' must be of type float"),
    "guidance as array": (generate(labels=7, guidance=np.ones(2)), "`guidance`=(1.0, 1.0) must be of type float"),
    "guidance nan": (generate(labels=7, guidance=float("nan")), "`guidance`=nan must be at least 0 and finite"),
    "interval of one": (generate(labels=7, guidance=2.0, interval=(200,)), "`interval`=(200,) must be of type"),
    "size as text": (generate(size="28x28"), "`size`='28x28' must be of type"),
    "clip as text": (generate(clip="no"), "`clip`='no' must be of type bool"),
    "decode unknown": (draw("a seven", decode="tile"), "`decode`='tile' must be of type"),
    "compat as bool": (generate(compat=True), "`compat` must be a Compat, not True"),
    "batch size of none": (generate(batch_size=0), "`batch_size`=0 must be at least 1"),
    "option of a sampler": (
        generate(sampler=samplers.SAMPLERS["ddim"](eta="1")),
        "`sampler.eta`='1' must be of type float",
    ),
    "prompt as number": (draw(7), "`prompts`=7 must be of type tuple[str, ...]"),
    "prompt as bytes": (draw(b"a seven"), "must be of type tuple[str, ...]"),
    "negative as list": (draw("a seven", guidance=2.0, negative=["red"]), "`negative`=('red',) must be of type str"),
    "condition of no images": (condition(labels=[7], num=0), "`num`=0 must be at least 1"),
    "condition before the first": (condition(labels=[7], start=-1), "`start`=-1 must be at least 0"),
    "condition on a guidance": (condition(labels=[7], guidance=2.0), "takes no `guidance` as a condition"),
    "condition by a syntax": (condition(labels=[7], prompt_syntax="wieghted"), "`prompt_syntax`='wieghted' must be"),
    # images
    "edit of floats": (edit(GREY.astype(np.float32)), "`image` must be uint8 (28, 28, 1), not float32"),
    "edit of channels first": (
        edit(GREY.transpose(2, 0, 1)),
        "`image` must be uint8 (28, 28, 1), not uint8 (1, 28, 28)",
    ),
    "edit of a batch": (edit(GREY[None]), "`image` must be uint8 (28, 28, 1), not uint8 (1, 28, 28, 1)"),
    "edit of a path": (edit("a.png"), "`image` must be uint8 (28, 28, 1)"),
    "edit to a name": (edit(to="digits"), "`to` must be a Model"),
    "edit by a float": (edit(prompt=9.0), "`prompt`=9.0 must be of type"),
    "edit by a list": (edit(prompt=[9]), "`prompt`=(9,) must be of type"),
    "edit guided away": (edit(guidance=-1.0), "`guidance`=-1.0 must be at least 0 and finite"),
    "strength as text": (edit(strength="half"), "`strength`='half' must be of type float"),
    "mask of floats": (edit(method="inpaint", mask=np.ones([28, 28])), "`mask` must be of bool or uint8, not float64"),
    "mask of channels first": (
        edit(method="inpaint", mask=np.ones([1, 28, 28], bool)),
        "`mask` must be of the image's size",
    ),
    "control of floats": (
        draw("a seven", control=COLOUR.astype(np.float32)),
        "there are 0 ControlNets, 1 pictures (`control`)",
    ),
    "encoded uint8": (encode(COLOUR[None]), "`images` must be of floats, not uint8: images are x / 127.5 - 1"),
    "encoded 0..255": (encode(np.full([1, 32, 32, 3], 255.0)), "`images` must lie in [-1, 1]"),
    "encoded channels first": (encode(np.zeros([1, 3, 32, 32])), "`images` must be float [B, H, W, 3]"),
    "encoded without batch": (encode(np.zeros([32, 32, 3])), "`images` must be float [B, H, W, 3]"),
    "decoded image": (decode(np.zeros([1, 32, 32, 3])), "`x` must be float [B, H, W, 6]"),
    "decoded integers": (decode(np.zeros([1, 8, 8, 6], int)), "`x` must be of floats, not int64"),
    "decoded somehow": (decode(np.zeros([1, 8, 8, 6]), "tile"), "unknown way of decoding 'tile'"),
    "judged floats": (
        judged(np.ones([4, 28, 28, 1])),
        "`batches` must be uint8 [N, H, W, C] of 1 or 3 channels, not float64",
    ),
    "judged channels first": (judged(np.ones([4, 3, 28, 28], np.uint8)), "`batches` must be uint8 [N, H, W, C]"),
    "judged integers": (judged(np.ones([4, 28, 28, 1], np.int32)), "not int32 [4, 28, 28, 1]"),
    "embedded floats": (
        lambda: zero_shot.embed_images(jaxdiff.load("captioned_clip"), np.zeros([2, 32, 32, 3])),
        "`images` must be uint8 [N, 32, 32, 3], not float64",
    ),
    "distances of two ranges": (
        lambda: neighbors.nearest(np.zeros([2, 4]), np.zeros([2, 4], np.uint8)),
        "images of float64 and uint8 cannot be compared",
    ),
    "distance of features": (lambda: fid.frechet(np.eye(2), np.eye(2)), "`a` must be Moments"),
    # models and files
    "nothing loaded": (lambda: jaxdiff.load(""), "a model must be a name or a path, not ''"),
    "a number loaded": (lambda: jaxdiff.load(7), "a model must be a name or a path, not 7"),
    "loaded in another dtype": (lambda: jaxdiff.load("digits", dtype="int32"), "`dtype`='int32' must be one of"),
    "a text loaded": (lambda: jaxdiff.load(__file__), "is no model: give a .safetensors file"),
    "weight as text": (lambda: jaxdiff.with_adapters(captioned(), {"star": "1"}), "the weight of star='1' must be"),
    "exported elsewhere": (lambda: jaxdiff.export(digits(), "a.bin"), "a.bin must end in .safetensors"),
    "exported as int8": (
        lambda: jaxdiff.export(digits(), "a.safetensors", dtype="int8"),
        "`dtype`='int8' must be one of float16, float32",
    ),
    "exported to nowhere": (lambda: jaxdiff.export(digits(), "nowhere/a.safetensors"), "there is no directory nowhere"),
    "exported parameters": (lambda: jaxdiff.export({}, "a.safetensors"), "`model` must be a Model"),
    "evaluated by name": (lambda: jaxdiff.evaluate("digits"), "`model` must be a Model"),
    "evaluated on an array": (evaluate(source=GREY[None]), "`source`=ndarray must be of type"),
    "evaluated as text": (evaluate(num="4"), "`num`='4' must be of type int"),
    "evaluated at half a step": (evaluate("nll", steps=3.5), "`steps`=3.5 must be of type"),
    "sampling of an evaluation": (evaluate(sample=Sample(steps="3")), "`sample.steps`='3' must be of type int"),
    # training
    "a config by name": (lambda: jaxdiff.fit("digits"), "`config`='digits' must be of type Config"),
    "trained on arrays": (fit(GREY[None]), "`source`=ndarray must be of type"),
    "trained into a number": (fit(run=7), "`run`=7 must be of type"),
    "steps of training": (fit(train=Train(steps=4.0)), "`train.steps`=4.0 must be of type int"),
    "a section as another": (fit(train=Sample()), "`train` must be a Train, not Sample("),
    # the core
    "a legacy key": (sample(key=lambda: jax.random.PRNGKey(0)), "`key` must be a typed random key"),
    "a seed as key": (sample(key=0), "`key` must be a typed random key"),
    "keys of other examples": (sample(key=lambda: samplers.keys_for(KEY, 3)), "`key` has shape [3], and there are 2"),
    "a sampler's function": (
        sample(sampler=lambda: jaxdiff.ddim),
        "`sampler` must be a Sampler, such as jaxdiff.ddim()",
    ),
    "a sampler's name": (sample(sampler="ddim"), "`sampler` must be a Sampler"),
    "a model as denoiser": (sample(denoise=digits), "`denoise` must be a function (x_t, t, cond) -> Prediction"),
    "a model guided": (lambda: guidance.cfg(digits(), 2.0), "a function is needed, not a Model"),
    "a schedule's name": (
        sample(schedule="linear"),
        "`schedule` must be a Schedule, such as jaxdiff.schedules.linear()",
    ),
    "x_T of integers": (sample(x_T=np.zeros([2, 28, 28, 1], np.uint8)), "`x_T` must be float32 [B, ...], not uint8"),
    "x_T of half": (sample(x_T=lambda: jnp.zeros([2, 28, 28, 1], jnp.bfloat16)), "`x_T` must be float32 [B, ...]"),
    "x_T without batch": (sample(x_T=np.zeros([28, 28, 1], np.float32)), "`cond.label` has 2 rows, and there are 28"),
    "x_T of colours": (sample(x_T=np.zeros([2, 28, 28, 3], np.float32)), "does not fit the network's parameters"),
    "levels as a number": (sample(timesteps=50), "`timesteps` must be a grid of levels"),
    "levels that there are not": (sample(timesteps=[2000, 0]), "`timesteps` must be levels in 0..1000"),
    "rows of a condition": (
        sample(cond=lambda: jaxdiff.condition(digits(), labels=[1, 2, 3])),
        "`cond.label` has 3 rows, and there are 2 examples",
    ),
    "two conditions unguided": (
        sample(denoise=lambda: jaxdiff.denoiser_of(digits())),
        "a network takes one condition: wrap the denoiser in jaxdiff.guidance.cfg",
    ),
    "one key for all noise": (lambda: samplers.noise(KEY, (2,)), "`keys` must be one key for each example"),
    "half a key": (lambda: samplers.keys_for(KEY, 2.5), "`n`=2.5 must be of type int"),
    "denoised integers": (denoise(np.zeros([2, 28, 28, 1], np.uint8)), "`x_t` must be of floats, not uint8"),
    "levels of other examples": (
        denoise(t=np.array([1, 2, 3])),
        "`t` must be one level, or one for each of 2 examples",
    ),
    "labels as floats": (
        denoise(cond=jaxdiff.Cond(label=np.ones(2, np.float32), vector=np.zeros([2, 6], np.float32))),
        "`cond.label` must be int [B]",
    ),
    "noised uint8": (q_sample(GREY), "`x0` must be of floats, not uint8"),
    "noise of another shape": (
        q_sample(np.zeros([2, 3]), eps=np.zeros([1, 3])),
        "`eps` must have the shape of `x0`",
    ),
    "levels in a batch": (q_sample(np.zeros([2, 3]), t=np.array([1, 2])), "`t` must be one level, not [2]: jax.vmap"),
    "a table as schedule": (q_sample(1.0, schedule=SCHEDULE.betas), "`schedule` must be a Schedule"),
    "levels of none": (sample(timesteps=[]), "`timesteps` must be a grid of levels"),
    "levels in a square batch": (
        lambda: process.predict_from("eps", SCHEDULE, np.zeros([2, 2]), np.zeros([2, 2]), [5, 900]),
        "`t` must be one level, not [2]",
    ),
    "an image far outside": (generate(labels=7, guidance=1e10, clip=False, steps=3), "lies far outside of [-1, 1]"),
    "an array as prediction": (
        lambda: process.p_step(SCHEDULE, 1.0, 1.0, 5, 4, 0.0),
        "`prediction` must be a Prediction",
    ),
    "half a level": (lambda: schedules.linear(10.5), "`num_levels`=10.5 must be of type int"),
    "half a step": (lambda: timesteps.grid(1000, 2.5), "`num_steps`=2.5 must be of type int"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_are_refused_by_name(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError, OSError, NotFinite), match=re.escape(message)) as error:
        call()
    assert "\n" not in str(error.value).strip() or case == "x_T of colours"
    assert not list(tmp_path.iterdir())  # nothing is half-written


@pytest.mark.parametrize(
    "bad, message",
    [
        ((GREY / 255).astype(np.float32), r"the image of example \d must be uint8 \(28, 28, 1\), not float32"),
        (GREY.transpose(2, 0, 1), r"the image of example \d must be uint8 \(28, 28, 1\), not uint8 \(1, 28, 28\)"),
        (GREY.tolist(), r"the image of example \d must be uint8 \(28, 28, 1\), not list"),
    ],
)
def test_examples_of_ones_own_are_checked_as_they_are_read(bad, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(source_of(bad), tmp_path / "run")()
    with pytest.raises(ValueError, match=message):
        evaluate("nearest", source=source_of(bad))()


def test_labels_and_dicts_of_ones_own_are_checked():
    with pytest.raises(ValueError, match=r"the label of example 0 must be an int, not 1\.5"):
        derived.checked(source_of(GREY, label=1.5))[0]
    with pytest.raises(ValueError, match="example 0 must be a dict with 'image'"):
        derived.checked(Source(lambda i: GREY, 4, (28, 28, 1)))[0]
    with pytest.raises(ValueError, match="example 0 must be a dict with 'label'"):
        derived.checked(Source(lambda i: {"image": GREY}, 4, (28, 28, 1), ("a",)))[0]


def test_numbers_of_numpy_and_jax_are_numbers():
    assert arguments.plain(np.float32(2)) == 2.0 and arguments.plain(jnp.array(3)) == 3
    images = [
        jaxdiff.generate(digits(), labels=label, steps=steps, guidance=scale, seed=seed, show_progress=False)
        for label, steps, scale, seed in [
            (7, 2, 2.0, 5),
            (np.int64(7), np.int32(2), np.float32(2), np.uint32(5)),
            (jnp.array([7]), jnp.array(2), jnp.array(2.0), jnp.array(5)),
        ]
    ]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def test_autoencoders_encode_and_decode():
    for name, channels in (("captioned_vae", 6), ("captioned_vqvae", 4)):
        autoencoder = jaxdiff.load(name)
        latents = jaxdiff.encode(autoencoder, np.zeros([1, 32, 32, 3], np.float32))
        assert latents.shape == (1, 8, 8, channels) and jaxdiff.decode(autoencoder, latents).shape == (1, 32, 32, 3)


def test_arrays_of_other_libraries_are_arrays():
    image = np.full([1, 28, 28, 1], 0.5, np.float32)
    np.testing.assert_array_equal(jaxdiff.encode(digits(), Tensor(image)), image)
    np.testing.assert_array_equal(jaxdiff.decode(digits(), Tensor(image)), image)
    assert requests.as_control(Image.new("RGB", (32, 16))).pictures[0].shape == (1, 16, 32, 3)


def test_batches_that_are_traced_are_encoded():
    image = np.full([1, 28, 28, 1], 5.0, np.float32)  # whose size is not known under jit
    assert jax.jit(lambda model, x: jaxdiff.encode(model, x))(digits(), image).shape == image.shape
    np.testing.assert_array_equal(jax.jit(lambda model, x: jaxdiff.decode(model, x))(digits(), image), image)


def test_paths_of_bytes_are_paths(tmp_path):
    jaxdiff.export(jaxdiff.load(b"digits"), bytes(tmp_path / "a.safetensors"))
    assert jaxdiff.load(bytes(tmp_path / "a.safetensors")).image_shape == (28, 28, 1)
    assert models.load_adapter(b"star").metadata["base"] == "captioned"


def test_models_are_copied():
    for other in (copy.copy(digits()), copy.deepcopy(digits())):
        assert jax.tree.structure(other) == jax.tree.structure(digits())


def test_no_metrics_are_the_default_ones():
    found = [evaluate(metrics, num=8, batch_size=8, steps=2)() for metrics in ((), None)]
    assert found[0] == found[1] and list(found[0]) == ["nll"]
