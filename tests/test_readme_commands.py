"""Every line of jaxdiff in the documentation runs, in small: tiny models, few steps, few images."""

import dataclasses
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from helpers import tiny_config
from PIL import Image
from test_readme import FILES, ROOT, blocks, commands
from tiny import tiny_autoencoder, tiny_clip, tiny_latent

from jaxdiff import cli, config
from jaxdiff import model as models
from jaxdiff.adapt import lora
from jaxdiff.adapt.adapter import Adapter
from jaxdiff.model import shipped
from jaxdiff.nets.unet_config import ClassifierConfig
from jaxdiff.text import tokenizer
from jaxdiff.train import initial, loop, parallel

pytestmark = pytest.mark.usefixtures("one_device")


def tiny(image=(28, 28, 1), num_classes=0, source="digits") -> config.Config:
    """A config in the place of one that ships."""
    small = tiny_config()
    return dataclasses.replace(
        small,
        data=config.Data(source, image),
        net=dataclasses.replace(small.net, out_channels=image[-1], num_classes=num_classes),
        diffusion=config.Diffusion(cond_dropout=0.1 if num_classes else 0.0),
    )


def tiny_classifier(levels: str) -> config.Config:
    """The same of a classifier."""
    small = tiny_config()
    net = ClassifierConfig(out_channels=10, channels=(8,), blocks=1, attention=(), mid_attention=False, groups=4)
    return dataclasses.replace(small, net=net, diffusion=config.Diffusion(levels=levels), sample=config.Sample())


TINY = {
    "digits": tiny(),
    "digits_conditional": tiny(num_classes=10),
    "outlined": tiny(num_classes=10),
    "digits_classifier": tiny_classifier("uniform"),
    "digits_judge": tiny_classifier("clean"),
    "folder_small": tiny((32, 32, 3), source="folder:photos"),
    "captioned_judge": dataclasses.replace(
        tiny_classifier("clean"),
        data=config.Data("captioned:judge", (32, 32, 3)),
    ),
    "captioned_vae": tiny_autoencoder(),
    "captioned_vqvae": tiny_autoencoder(words=8),
    "captioned_clip": tiny_clip(),
    "captioned_latent": tiny_latent("captioned_vae", "captioned_clip"),
}
ADAPTED = ("lora", "dreambooth", "textual_inversion", "controlnet", "few_steps")
for name in (f"captioned_{method}" for method in ADAPTED):
    whole = config.load(name)
    adapt = whole.adapt
    if adapt.prior.wanted:
        adapt = dataclasses.replace(adapt, prior=config.Prior())
    if adapt.kind == "controlnet":
        adapt = dataclasses.replace(adapt, embedding=(4, 4, 4))
    if adapt.kind == "few_steps":
        adapt = dataclasses.replace(adapt, rank=2)
    sample = dataclasses.replace(whole.sample, num=8, batch_size=8)
    rhythm = {"optim": tiny_config().optim, "train": tiny_config().train}
    TINY[name] = config.Config(name=name, data=whole.data, adapt=adapt, sample=sample, **rhythm)
TINY |= {name: dataclasses.replace(small, name=name) for name, small in TINY.items()}
OWN_NAME = ("outlined", "digits_classifier", "digits_judge", "captioned_judge", "captioned_vae", "captioned_clip")
SHIPPED = {name: name for name in OWN_NAME} | {"digits": "digits_conditional", "captioned": "captioned_latent"}
WORDS = "a small large red green blue white seven two on a blue background"  # that fit into 24 tokens
SMALLER = {"--train.steps": 375, "--num": 32, "--steps": 50}  # numbers that are divided by this, to end in seconds
FEW = {  # what is added where it is not said
    "sample": {"--num": "16", "--batch-size": "16", "--steps": "2"},
    "eval": {"--num": "16", "--batch-size": "16"},
    "edit": {"--steps": "2"},
    "fuse": {"--images": "2", "--levels": "1", "--steps": "0"},
}


FEW_STEPS = {"sampler": "lcm", "steps": 4, "spacing": "trailing", "guidance": 1.0}


def smaller(arguments: list[str]) -> list[str]:
    """The arguments of jaxdiff with few steps and images, and a tiny config in place of those that are trained."""
    command, *words = arguments
    if command == "train":
        words = [f"{word}.py" if word in TINY else word for word in words]
    for flag in set(words) & set(SMALLER):
        value = words.index(flag) + 1
        words[value] = str(max(2, int(words[value]) // SMALLER[flag]))
    few = dict(FEW.get(command, {}) if "--from-inversion" not in words else {})
    if command == "eval" and "--metrics" in words:
        few["--steps" if "nll" in words else "--sample.steps"] = "2"
    return [command, *words, *(word for flag, n in few.items() if flag not in words for word in (flag, n))]


@pytest.fixture
def tiny_models(tmp_path, monkeypatch):
    """Untrained models in the place of those that ship."""
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    monkeypatch.setattr(shipped, "ADAPTERS", tmp_path / "adapters")
    made = {}
    for name, of in SHIPPED.items():
        words = tokenizer.train([WORDS], 600, 24) if name == "captioned_clip" else None
        params = some_state(TINY[of]).params
        origin = models.Origin(name, 0, "EMA", str(TINY[of].data.source))
        made[name] = models.Model(config=TINY[of], params=params, origin=origin, tokenizer=words)
    text_encoder = models.text_transformer_of(made["captioned_clip"])
    trained_on = config.Data("captioned:judge", (32, 32, 3))  # so that there is a test split to evaluate on
    made["captioned"] = made["captioned"].replace(
        config=dataclasses.replace(TINY["captioned_latent"], data=trained_on),
        submodels={"codec": made["captioned_vae"], "text_encoder": text_encoder},
        tokenizer=text_encoder.tokenizer,
    )
    for name, model in made.items():
        models.write(tmp_path / f"{name}.safetensors", model)
    (tmp_path / "adapters").mkdir()
    star = {"unet": lora.init(jax.random.key(0), made["captioned"].params, rank=1)}, {"<star>": jnp.zeros(8)}
    models.write_adapter(
        tmp_path / "adapters" / "star.safetensors", Adapter({"base": "captioned", "name": "star"}, *star)
    )
    few = {"base": "captioned", "name": "few_steps", "sample": FEW_STEPS}
    models.write_adapter(tmp_path / "adapters" / "few_steps.safetensors", Adapter(few, star[0]))


@pytest.fixture
def untrained(monkeypatch):
    """Training without initial values, steps and samples, for which nothing is compiled: all around them is done."""

    def compiled(config, state, key, batch, frozen, kept):
        ones = np.ones(config.train.steps_per_call)
        metrics = parallel.replicate({"loss": ones, "grad_norm": ones})
        step = lambda state, key, batch: (state._replace(step=state.step + config.train.steps_per_call), metrics)
        return step, None, 0.0

    monkeypatch.setattr(initial, "new_state", some_state)
    monkeypatch.setattr(loop.setup, "compiled", compiled)
    monkeypatch.setattr(loop.previews, "draw", lambda *arguments: None)


def some_state(config, base=None):
    """A state in which the parameters are random numbers and what is counted is 0."""
    rng = np.random.default_rng(0)
    number = lambda x: rng.normal(0, 0.1, x.shape) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape)
    return jax.tree.map(lambda x: number(x).astype(x.dtype), initial.state_shapes(config, base))


def test_shell_lines_of_jaxdiff_run(tmp_path, monkeypatch, tiny_models, untrained):
    """In the order in which they stand, each block in a directory of its own; tests/test_cli.py really trains."""
    ran = 0
    for i, block in enumerate(block for path in FILES for block in blocks(path.read_text())):
        if block.words[:1] == ["bash"]:
            directory = tmp_path / str(i)
            directory.mkdir()
            monkeypatch.chdir(directory)
            for name, small in TINY.items():
                text = f"from jaxdiff import config\nget_config = lambda: config.from_json({config.to_json(small)!r})\n"
                Path(f"{name}.py").write_text(text)
            make_photos(Path("photos"))
            make_tables(Path())
            for name in ("star", "heart", "sks"):
                make_photos(Path("glyphs") / name, f"a red <{name}>")
            make_photos(Path("birds/train"), "1bird, red, small")
            make_pictures(Path())
            make_published(Path())
            for words in commands(block.body):
                if Path(words[0]).name == "jaxdiff":
                    cli.main(smaller(words[1:]))
                    ran += 1
    assert ran >= 11


def make_photos(directory: Path, caption: str | None = None) -> None:
    directory.mkdir(exist_ok=True, parents=True)
    for i in range(3):
        Image.new("RGB", (50, 40), (80 * i, 0, 0)).save(directory / f"{i}.png")
        if caption:
            (directory / f"{i}.txt").write_text(caption)


def make_tables(directory: Path) -> None:
    """Photographs in shards, in a Parquet file and in a data set of Hugging Face."""
    for name in ("shards", "parquet", "saved"):
        (directory / name).mkdir()
    files = sorted((directory / "photos").glob("*.png"))
    for i in range(2):
        with tarfile.open(directory / "shards" / f"train-000{i}.tar", "w") as archive:
            archive.add(files[i], files[i].name)
    table = pa.table({"image": [file.read_bytes() for file in files]})
    pq.write_table(table, directory / "parquet" / "train.parquet")
    with pa.OSFile(str(directory / "saved" / "data.arrow"), "wb") as file:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)


def make_published(directory: Path) -> None:
    """A small pipeline of diffusers in the place of a large one, and a LoRA of it."""
    golden = ROOT / "tests" / "golden"
    (directory / "stable-diffusion-v1-5").symlink_to(golden / "pipelines" / "stable_diffusion_1")
    query = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q"
    factors = {f"{query}.lora_{way}.weight": np.ones([8, 8], np.float32) for way in ("down", "up")}
    safetensors.numpy.save_file(factors, directory / "theirs.safetensors")


def make_pictures(directory: Path) -> None:
    """Images that the lines of `jaxdiff edit` edit."""
    Image.new("RGB", (32, 32), "blue").save(directory / "in.png")
    Image.new("RGB", (32, 32), "white").save(directory / "edges.png")
    for name, mode in (("seven", "L"), ("hole", "L")):
        Image.linear_gradient(mode).resize((28, 28)).save(directory / f"{name}.png")
