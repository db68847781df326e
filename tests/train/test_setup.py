"""What a config says of the objective is what is trained, resumed and sampled from."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import tiny_config
from tiny import tiny_latent

from jaxdiff import cli, denoise, objectives, schedules
from jaxdiff import config as configs
from jaxdiff.config import Diffusion, check
from jaxdiff.data.caption_tags import CaptionTags
from jaxdiff.model.frozen_models import FrozenModels
from jaxdiff.nets.unet import UNet
from jaxdiff.samplers import SAMPLERS
from jaxdiff.text import tokenizer
from jaxdiff.train import initial, loop, setup


def config_with(out_channels=1, sample=None, **diffusion):
    config = tiny_config()
    return dataclasses.replace(
        config,
        net=dataclasses.replace(config.net, out_channels=out_channels),
        diffusion=Diffusion(**{"schedule": "linear", "num_levels": 50, "predict": "v"} | diffusion),
        sample=dataclasses.replace(config.sample, **(sample or {})),
    )


def test_the_schedule_is_shifted_then_ended_in_noise():
    made = Diffusion("cosine", 20, shift=2.0, zero_snr=True, predict="v").make_schedule()
    wanted = schedules.zero_terminal_snr(schedules.shift(schedules.cosine(20), 2.0))
    jax.tree.map(np.testing.assert_array_equal, made, wanted)


@pytest.mark.parametrize("name", objectives.WEIGHTINGS)
def test_every_weighting_by_name_is_its_function(name):
    assert objectives.WEIGHTINGS.functions[name] is getattr(objectives, name)


@pytest.mark.parametrize(
    "config",
    [
        config_with(weighting="p2", levels="logit_normal", offset_noise=0.1, input_perturbation=0.1),
        config_with(schedule="sigmoid", objective="bound", levels="stratified"),
    ],
    ids=["denoising", "bound"],
)
def test_the_loss_is_that_of_the_objective(config):
    """Against the objective called with these options, on one device."""
    d, apply = config.diffusion, denoise.network(UNet(config.net))
    draws = initial.make_levels(config)
    wanted = {
        "denoising": lambda: objectives.denoising(
            apply, d.make_schedule(), "v", objectives.p2, levels=draws, offset_noise=0.1, input_perturbation=0.1
        ),
        "bound": lambda: objectives.variational_bound(apply, d.make_schedule(), "v", levels=draws),
    }[d.objective]()
    check(config)
    params, keys = initial.new_state(config).params, jax.random.split(jax.random.key(3), 8)
    image = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8)
    batch = {"image": image, "index": np.arange(8)}
    run = jax.jit(lambda loss_fn: loss_fn(params, (), keys, batch)[0], static_argnums=0)
    np.testing.assert_array_equal(run(setup.diffusion_loss(config, FrozenModels())), run(wanted))


def test_learned_variance_trains_by_importance_resumes_and_is_sampled_from(tmp_path):
    """The hybrid loss end to end; what the levels remember is part of the state, and goes on where it was."""
    config = config_with(2, {"sampler": SAMPLERS["ddpm"](variance="learned")}, objective="hybrid", levels="importance")
    half = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2))
    loop.fit(half, run=tmp_path / "run")
    state = loop.fit(config, run=tmp_path / "run", resume=True)
    assert state.extra.losses.shape == (51, 10)
    assert float(state.extra.counts.sum()) == 4 * 16 and float(state.extra.losses.min()) >= 0
    cli.main(["sample", str(tmp_path / "run"), "--num", "8"])


def test_zero_terminal_snr_works_with_v_end_to_end(tmp_path):
    config = config_with(zero_snr=True)
    assert float(config.diffusion.make_schedule().alpha[50]) == 0.0
    state = loop.fit(config, run=tmp_path / "run")
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))
    cli.main(["sample", str(tmp_path / "run"), "--num", "8", "--npz", "--sampler", "dpmpp_2m"])
    images = np.load(tmp_path / "run" / "samples" / "dpmpp_2m_trailing_3_seed0.npz")["images"]
    assert images.std() > 1  # neither not finite nor all the same


def test_runs_of_the_same_program_share_it():
    config = tiny_config()
    renamed = dataclasses.replace(config, name="other", train=dataclasses.replace(config.train, save_every=4))
    faster = dataclasses.replace(config, optim=dataclasses.replace(config.optim, learning_rate=0.5))
    assert setup.make_step(config) is setup.make_step(renamed) is not setup.make_step(faster)
    longer = lambda config: dataclasses.replace(config, train=dataclasses.replace(config.train, steps=100))
    decaying = dataclasses.replace(config, optim=dataclasses.replace(config.optim, decay_to=0.1))
    assert setup.make_step(config) is setup.make_step(longer(config))  # whose rate is constant
    assert setup.make_step(decaying) is not setup.make_step(longer(decaying))


@pytest.mark.parametrize(
    ("role", "says"),
    [
        ("pixels", "`data.trigger` and `data.caption_tags` change captions, which this network does not read"),
        ("texts", "this training encodes them once: it is for a CLIP, and for `adapt` lora, dreambooth"),
        ("space", "`data.trigger`='sks ' must not begin or end with a space"),
    ],
)
def test_tags_need_texts_that_are_read_in_each_step(role, says):
    whole = tiny_config() if role == "pixels" else tiny_latent("captioned_vae", "captioned_clip")
    changes = {"trigger": "sks "} if role == "space" else {"caption_tags": CaptionTags(shuffle=True)}
    with pytest.raises(ValueError, match=re.escape(says)):
        configs.check(dataclasses.replace(whole, data=dataclasses.replace(whole.data, **changes)))


def test_a_trigger_is_read_as_a_whole():
    words = tokenizer.train(["a red seven"], 600, 6)
    config = dataclasses.replace(tiny_config(), data=configs.Data(trigger="red seven"))
    setup.check_trigger(config, FrozenModels(tokenizer=words))
    setup.check_trigger(config, FrozenModels())
    config = dataclasses.replace(config, data=configs.Data(trigger="red " * 5 + "red"))
    with pytest.raises(ValueError, match=r"of `data.trigger` 'red red red red red red' the end 'red red' is cut"):
        setup.check_trigger(config, FrozenModels(tokenizer=words))
    unknown = SimpleNamespace(
        truncation=lambda text: None, token_ids=lambda text: [7], start_id=6, end_id=7
    )  # as CLIP's
    with pytest.raises(ValueError, match="holds what the tokenizer does not know"):
        setup.check_trigger(config, FrozenModels(tokenizer=unknown))
