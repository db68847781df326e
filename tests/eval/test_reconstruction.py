"""`jaxdiff eval` of autoencoders and CLIPs: its numbers by other means, and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_autoencoder, tiny_clip, tiny_latent

from jaxdiff import cli, data
from jaxdiff import model as models
from jaxdiff.eval import evaluate
from jaxdiff.eval.evaluate import Plan
from jaxdiff.eval.measure import Measure
from jaxdiff.model import Model
from jaxdiff.pipeline import Request
from jaxdiff.train import initial

NUM = 24


def chosen(seed=0):
    source = data.load("captioned:unseen")
    return [source[int(i)] for i in np.random.default_rng(seed).permutation(len(source))[:NUM]]


def plan_of(model, **options) -> Plan:
    return evaluate.prepared(Plan(model, Measure(**options), Request(model.config.sample)))


def test_an_autoencoder_by_hand(tmp_path, capsys):
    out = tmp_path / "report.json"
    command = ["eval", "captioned_vqvae", "--source", "captioned:unseen", "--num", str(NUM), "--batch-size", "16"]
    cli.main([*command, "--metrics", "psnr,codebook", "--out", str(out)])
    found = json.loads(out.read_text())["metrics"]
    assert set(found) == {"psnr", "codebook"}
    model = models.load("captioned_vqvae")
    net, words = model.config.make_net(), model.params["quantize"]["embedding"]
    x = np.stack([example["image"] for example in chosen()]) / 127.5 - 1
    encode, decode = (
        jax.jit(lambda x, method=method: net.apply({"params": model.params}, x, method=method))
        for method in ("encode", "decode")
    )
    z = np.asarray(encode(jnp.asarray(x, jnp.float32)))
    index = np.square(z[..., None, :] - words[None, None, None]).sum(-1).argmin(-1)
    again = np.asarray(decode(jnp.asarray(words[index])))
    decibel = 10 * np.log10(4 / np.square(again - x).mean((1, 2, 3)))
    assert found["psnr"]["mean"] == pytest.approx(decibel.mean(), abs=0.01)
    share = np.bincount(index.ravel(), minlength=len(words)) / index.size
    assert found["codebook"]["used"] == pytest.approx((share > 0).mean())
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    assert found["codebook"]["perplexity"] == pytest.approx(np.exp(entropy), rel=1e-4)


def test_a_clip_by_hand():
    model = models.load("captioned_clip")
    plan, ticks = plan_of(model, source="captioned:unseen", num=NUM, batch_size=16), []
    found = evaluate.measured(plan, ticks.append)["retrieval"]
    assert sum(ticks) == evaluate.work(plan) == 2
    examples, net = chosen(), model.config.make_net()
    tokens = model.tokenizer([example["caption"] for example in examples])
    x = np.stack([example["image"] for example in examples]) / np.float32(127.5) - 1
    texts, images, _ = jax.jit(net.apply)({"params": model.params}, tokens, x)
    similar, own = np.asarray(texts @ images.T), np.arange(NUM)
    assert found["text_to_image"] == (similar.argmax(1) == own).mean()
    assert found["image_to_text"] == (similar.argmax(0) == own).mean()


@pytest.mark.parametrize(
    ("config", "asked", "why"),
    [
        (tiny_autoencoder(), {"metrics": "codebook"}, "unknown metric of a network of role 'autoencoder': 'codebook'"),
        (tiny_clip(), {"metrics": "psnr"}, "unknown metric of a network of role 'clip': 'psnr'"),
        (dataclasses.replace(tiny_clip(), net=tiny_clip().net.text), {}, "give the CLIP that it is a half of"),
        (tiny_latent("vae", "clip"), {"metrics": "nll"}, "unknown metric 'nll'"),
        (tiny_autoencoder(), {"judge": "digits_judge"}, "`judge` and `inception` are for"),
        (tiny_autoencoder(), {"steps": 5}, "`steps`=5 is for the metric nll"),
    ],
)
def test_what_cannot_be_measured(config, asked, why):
    with pytest.raises(ValueError, match=why):
        plan_of(Model(config=config, params=None), **{"source": "captioned:unseen", **asked})


def test_a_clip_needs_captions():
    config = tiny_clip()
    model = Model(config=config, params=initial.new_state(config).params)
    with pytest.raises(ValueError, match=r"the images of digits:test are 28x28x1, and the model's 32x32x3"):
        plan_of(model, source="digits:test", num=8, batch_size=8)
