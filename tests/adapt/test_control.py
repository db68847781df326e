"""ControlNets: the identity at initialisation, scaled sums of residuals row by row, and a trainable copy of the encoder."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import load_golden
from jax.tree_util import Partial

from jaxdiff import Guided, denoiser, guidance, network, schedules
from jaxdiff.adapt import control
from jaxdiff.nets.controlnet import ControlConfig, ControlNet
from jaxdiff.nets.unet import UNet, UNetConfig
from jaxdiff.types import Aux, Cond

SMALL = UNetConfig(
    out_channels=2,
    channels=(8, 16),
    blocks=1,
    attention=(0,),
    mid_attention=False,
    groups=4,
    context_dim=6,
)
CONFIG = ControlConfig(SMALL, embedding=(4, 6))
N = 5
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((2, 8, 8, 2)).astype(np.float32), 500
PICTURE = RNG.random((2, 16, 16, 3)).astype(np.float32)
BARE = Cond(context=RNG.standard_normal((2, 3, 6)).astype(np.float32))
COND = BARE._replace(control=PICTURE)
UNET, BRANCH = network(UNet(SMALL)), network(ControlNet(CONFIG))


def random_params(module, cond, seed):
    """Random parameters, none of them zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), X, jnp.zeros(2), cond)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape).astype(np.float32), shapes)


BASE, ONE, OTHER = (
    random_params(UNet(SMALL), BARE, 1),
    random_params(ControlNet(CONFIG), COND, 2),
    random_params(ControlNet(CONFIG), COND, 3),
)
plain, branch = jax.jit(UNET), jax.jit(BRANCH)
fresh = functools.cache(lambda: control.init(jax.random.key(0), CONFIG, BASE))


def echo(params, x_t, t, cond=None, keys=None):
    """Network that returns its arguments."""
    return (params, cond, keys), Aux()


def never_runs(params, x_t, t, cond=None, keys=None):
    raise AssertionError("this branch was not to run")


def residuals_of(*branches, params, **conditions):
    """Residuals in the network's condition, returned by `echo`."""
    (_, cond, _), _ = control.add_control(echo, *branches)(
        {"unet": 0, "control": params}, X, T, BARE._replace(**conditions)
    )
    return cond.residuals


def known(seed):
    """Branch with random residuals, and these residuals."""
    rng = np.random.default_rng(seed)
    shapes = [(2, 8, 8, 8), (2, 8, 8, 8), (2, 4, 4, 8), (2, 4, 4, 16), (2, 4, 4, 16)]
    output = tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return (lambda params, x_t, t, cond=None, keys=None: (output, Aux())), output


def test_at_initialisation_the_output_is_unchanged_bit_for_bit():
    apply = jax.jit(control.add_control(UNET, BRANCH))
    output, _ = apply({"unet": BASE, "control": fresh()}, X, T, COND)
    before, _ = plain(BASE, X, T, BARE)
    assert np.abs(before).max() > 0.1
    np.testing.assert_array_equal(output, before)
    trained, _ = apply({"unet": BASE, "control": ONE}, X, T, COND)
    assert np.abs(trained - before).max() > 1e-2


def test_the_encoder_is_copied_also_in_memory():
    arrays = jax.tree.map(jnp.asarray, BASE)
    base, copy = (flatten_dict(params, sep="/") for params in (arrays, fresh()))
    encoder = {path for path in base if not path.startswith(("up_blocks", "conv_norm_out", "conv_out"))}
    assert len(encoder) > 30 and encoder == {path for path in copy if not path.startswith("controlnet_")}
    for path in encoder:
        np.testing.assert_array_equal(copy[path], base[path])
    again = flatten_dict(control.init(jax.random.key(1), CONFIG, arrays), sep="/")
    assert all(again[path].unsafe_buffer_pointer() != base[path].unsafe_buffer_pointer() for path in encoder)
    for path in again.keys() - encoder:
        leads_in = path.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding/conv_out"))
        assert np.any(again[path]) == (not leads_in and "kernel" in path), path
        assert leads_in or "bias" in path or np.any(again[path] != copy[path])  # another key


def test_the_base_must_be_the_network_of_the_config():
    init = lambda params=BASE, **unet: control.init(
        jax.random.key(0), dataclasses.replace(CONFIG, unet=dataclasses.replace(SMALL, **unet)), params
    )
    with pytest.raises(ValueError, match=r"conv_in/bias is \(8,\) in it, and \(16,\) by the config"):
        init(channels=(16, 16))
    with pytest.raises(ValueError, match=r"down_blocks_0/attentions_1/norm/bias is missing in it, and \(8,\) by"):
        init(blocks=2)
    with pytest.raises(
        ValueError, match=r"down_blocks_0/downsamplers_0/\S* is \(8,\) in it, and missing by the config"
    ):
        init(channels=(8,))
    with pytest.raises(ValueError, match=r"conv_in/kernel does not have the channels .* patch=2"):
        init(patch=2)
    with pytest.raises(ValueError, match=r"conv_in/kernel does not have the channels"):
        init({})


def test_guess_mode_is_diffusers_with_the_same_weights(name="stable_diffusion_2"):
    """At levels, which are one more than diffusers' times."""
    (base, base_params), (golden, params) = load_golden(f"unet_{name}"), load_golden(f"controlnet_{name}")
    kind = {"head_dim": 8, "linear_projection": True, "image_channels": 3}
    published = {
        "mid_attention": True,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0.0,
        "eps": 1e-5,
    }
    unet = dataclasses.replace(SMALL, **published, **kind)
    apply = control.add_control(network(UNet(unet)), network(ControlNet(ControlConfig(unet, embedding=(4, 6, 10)))))
    last = lambda x: x.transpose(0, 2, 3, 1)
    x, image = np.split(last(base["x"]), [2], axis=-1)
    scales = control.guess_scales(float(golden["scale"]), control.num_residuals(unet))
    cond = Cond(
        context=base["context"],
        image=image,
        control=last(golden["picture"]),
        control_scale=jnp.tile(scales[None], (2, 1)),
    )
    both = {"unet": base_params["params"], "control": params["params"]}
    y, _ = jax.jit(apply)(both, x, base["t"] + 1, cond)
    np.testing.assert_allclose(y, last(golden["guess/y"]), atol=1e-4)
    assert np.abs(golden["guess/y"] - golden["full/y"]).max() > 0.1


def test_guess_scales_rise_from_a_tenth():
    np.testing.assert_allclose(control.guess_scales(2.0, 13), 2 * 10.0 ** np.linspace(-1, 0, 13), rtol=1e-5)


def test_residuals_are_scaled_by_row_and_by_level():
    apart, output = known(4)
    given = residuals_of(apart, params=0, control=PICTURE)
    chex.assert_trees_all_equal(given, output)
    scale = np.array([0.5, -2.0], np.float32)
    for r, wanted in zip(residuals_of(apart, params=0, control=PICTURE, control_scale=scale), output, strict=True):
        np.testing.assert_allclose(r, np.stack([0.5 * wanted[0], -2 * wanted[1]]), rtol=1e-6)
    scales = RNG.random((2, N)).astype(np.float32)
    found = residuals_of(apart, params=0, control=PICTURE, control_scale=scales)
    for i, (r, wanted) in enumerate(zip(found, output, strict=True)):
        np.testing.assert_allclose(r, np.stack([scales[b, i] * wanted[b] for b in range(2)]), rtol=1e-6)


def test_branches_are_summed_and_one_without_a_control_input_does_not_run():
    (one, a), (other, b) = known(4), known(5)
    both = {"params": (0, 0), "control": (PICTURE, PICTURE)}
    chex.assert_trees_all_close(residuals_of(one, other, **both), tuple(x + y for x, y in zip(a, b)), rtol=1e-6)
    scaled = residuals_of(one, other, **both, control_scale=(None, np.array([3.0, 3.0], np.float32)))
    chex.assert_trees_all_close(scaled, tuple(x + 3 * y for x, y in zip(a, b)), rtol=1e-5)
    half = residuals_of(one, never_runs, params=(0, 0), control=(PICTURE, None), control_scale=None)
    chex.assert_trees_all_equal(half, a)
    more = residuals_of(one, params=0, control=PICTURE, residuals=b)  # given beside the control input
    chex.assert_trees_all_close(more, tuple(x + y for x, y in zip(a, b)), rtol=1e-6)


def test_each_branch_has_its_parameters_and_its_control_input():
    apply = control.add_control(echo, branch, branch)
    pictures = PICTURE, 1 - PICTURE
    (_, cond, _), _ = apply({"unet": 0, "control": (ONE, OTHER)}, X, T, BARE._replace(control=pictures))
    alone = [branch(params, X, T, BARE._replace(control=p))[0] for params, p in zip((ONE, OTHER), pictures)]
    chex.assert_trees_all_close(cond.residuals, tuple(a + b for a, b in zip(*alone)), atol=1e-5)


def test_without_a_control_input_no_branch_runs():
    apply = control.add_control(echo, never_runs)
    for cond in (None, BARE):
        (params, received, keys), _ = apply({"unet": 7, "control": 0}, X, T, cond, keys="keys")
        assert params == 7 and received is cond and keys == "keys"


def test_equal_arguments_give_the_same_function():
    assert control.add_control(UNET, BRANCH) is control.add_control(network(UNet(SMALL)), network(ControlNet(CONFIG)))
    assert control.add_control(UNET, BRANCH) is not control.add_control(UNET, BRANCH, BRANCH)


def test_branches_have_other_keys_than_the_network():
    heard = []

    def listen(params, x_t, t, cond=None, keys=None):
        heard.append(keys)
        return known(4)[1], Aux()

    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    cond = BARE._replace(control=(PICTURE, PICTURE))
    (_, _, own), _ = control.add_control(echo, listen, listen)({"unet": 0, "control": (0, 0)}, X, T, cond, keys=keys)
    assert own is keys
    data = [np.asarray(jax.random.key_data(k)) for k in (keys, *heard)]
    assert len({row.tobytes() for each in data for row in each}) == 6


def negated(p, site, t):
    return -p


def test_attention_is_edited_in_the_network_only():
    edit = Partial(negated)
    (_, cond, _), _ = control.add_control(echo, known(4)[0])(
        {"unet": 0, "control": 0}, X, T, COND._replace(attention_edit=edit)
    )
    assert cond.attention_edit is edit and cond.control is None
    (_, cond, _), _ = control.add_control(echo, branch)(
        {"unet": 0, "control": ONE}, X, T, COND._replace(attention_edit=edit)
    )
    chex.assert_trees_all_close(cond.residuals, branch(ONE, X, T, COND)[0], atol=1e-5)


def test_in_guidance_a_half_of_scale_zero_is_uncontrolled():
    """One forward pass of 2B rows; each half is as in a pass of its own."""
    scale = np.array([0.5, 1.5], np.float32)
    schedule = schedules.linear()
    calls = []

    def counted(*args, **keys):
        calls.append(args[1].shape[0])
        return control.add_control(UNET, BRANCH)(*args, **keys)

    guided = Guided(COND._replace(control_scale=scale), COND._replace(control_scale=0 * scale))
    denoise = guidance.cfg(denoiser(counted, {"unet": BASE, "control": ONE}, schedule), 3.0)
    found = jax.jit(denoise)(X, T, guided).eps
    assert calls == [4]
    residuals = tuple(jnp.asarray(scale)[:, None, None, None] * r for r in branch(ONE, X, T, COND)[0])
    good, bad = plain(BASE, X, T, BARE._replace(residuals=residuals))[0], plain(BASE, X, T, BARE)[0]
    assert np.abs(good - bad).max() > 1e-2
    np.testing.assert_allclose(found, bad + 3 * (good - bad), atol=1e-4)


def test_other_control_inputs_scales_and_weights_do_not_recompile():
    run = jax.jit(chex.assert_max_traces(lambda *args: control.add_control(UNET, BRANCH)(*args)[0], n=1))
    output = [
        run({"unet": BASE, "control": params}, X, t, COND._replace(control=picture, control_scale=np.float32(scale)))
        for params, t, picture, scale in [
            (ONE, 500, PICTURE, [1, 1]),
            (OTHER, 500, PICTURE, [1, 1]),
            (ONE, 400, PICTURE, [1, 1]),
            (ONE, 500, 1 - PICTURE, [1, 1]),
            (ONE, 500, PICTURE, [1, 0.5]),
        ]
    ]
    assert all(np.abs(other - output[0]).max() > 1e-4 for other in output[1:])
    np.testing.assert_allclose(output[4][0], output[0][0], atol=1e-6)


def test_a_model_that_carries_controls_is_a_pytree():
    """Parameters are leaves; the module and the kind of control input are static, and compared by value."""
    one, other = (control.Control(ControlNet(CONFIG), params, "edges") for params in (ONE, OTHER))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(other))
    chex.assert_trees_all_equal(jax.tree.leaves(one), jax.tree.leaves(ONE))
    for changed in ({"condition": "mask"}, {"net": ControlNet(dataclasses.replace(CONFIG, embedding=(8, 6)))}):
        assert jax.tree.structure(dataclasses.replace(one, **changed)) != jax.tree.structure(one)
    halved = jax.tree.map(lambda leaf: leaf / 2, {"controls": (one, other)})["controls"][0]
    chex.assert_trees_all_close(halved.params, jax.tree.map(lambda leaf: leaf / 2, ONE))

    @chex.assert_max_traces(n=1)
    def run(controls, x):
        apply, params = control.with_controls(UNET, BASE, controls)
        return apply(params, x, T, COND)[0]

    run = jax.jit(run)
    found = [run((each,), X) for each in (one, other)]
    wanted, _ = jax.jit(control.add_control(UNET, BRANCH))({"unet": BASE, "control": ONE}, X, T, COND)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)
    assert np.abs(found[1] - wanted).max() > 1e-3


def test_training_starts_at_the_zero_convolutions_and_then_reaches_all():
    apply, wanted = control.add_control(UNET, BRANCH), RNG.standard_normal(X.shape).astype(np.float32)

    @jax.jit
    def step(params):
        loss = lambda branch: jnp.square(apply({"unet": BASE, "control": branch}, X, T, COND)[0] - wanted).mean()
        value, grads = jax.value_and_grad(loss)(params)
        return value, grads, jax.tree.map(lambda p, g: p - 0.02 * g, params, grads)

    params, moved, losses = fresh(), [], []
    for _ in range(3):
        loss, grads, params = step(params)
        losses.append(float(loss))
        moved.append({path for path, g in flatten_dict(grads, sep="/").items() if np.any(g)})
    every = set(flatten_dict(params, sep="/"))
    zero = {path for path in every if path.startswith(("controlnet_down", "controlnet_mid"))}
    assert moved[0] == zero and len(zero) == 2 * N  # a kernel of zeros passes no gradient on
    inner = {path for path in every if "controlnet_cond_embedding" in path and "conv_out" not in path}
    assert every - moved[1] == inner and len(inner) == 6
    assert moved[2] == every
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("options", [{}, {"channels": (8,)}, {"channels": (8, 8, 8), "blocks": 3}], ids=str)
def test_the_number_of_residuals_is_that_of_a_branch(options):
    unet = dataclasses.replace(SMALL, **options)
    output, _ = jax.eval_shape(
        ControlNet(ControlConfig(unet, embedding=(4, 6))).init_with_output, jax.random.key(0), X, jnp.zeros(2), COND
    )
    assert control.num_residuals(unet) == len(output)


def test_arguments_that_are_refused():
    with pytest.raises(ValueError, match="needs a control branch"):
        control.add_control(UNET)
    with pytest.raises(ValueError, match=r"control_scale must be \(2,\), or \(2, 5\) for each residual, not \(2, 3\)"):
        residuals_of(known(4)[0], params=0, control=PICTURE, control_scale=np.ones([2, 3]))
    with pytest.raises(ValueError, match=r"for each residual, not \(\)"):
        residuals_of(known(4)[0], params=0, control=PICTURE, control_scale=0.5)
    with pytest.raises(ValueError, match=r"cond.control must be a tuple of 2 for 2 control branches"):
        residuals_of(known(4)[0], known(5)[0], params=(0, 0), control=PICTURE)
    with pytest.raises(ValueError, match=r'params\["control"\] must be a tuple of 2'):
        residuals_of(known(4)[0], known(5)[0], params=(0, 0, 0), control=(PICTURE, PICTURE))
    with pytest.raises(ValueError, match=r"cond.control must be one and no tuple for 1 control branch$"):
        residuals_of(known(4)[0], params=0, control=(PICTURE,))
    short = lambda *args, **keys: (known(4)[1][1:], Aux())
    with pytest.raises(ValueError, match=r"they have \[4, 5\] residuals"):
        residuals_of(known(4)[0], short, params=(0, 0), control=(PICTURE, PICTURE))
    with pytest.raises(ValueError, match="takes no control_scale"):  # without a control input
        jax.eval_shape(
            control.add_control(UNET, BRANCH), {"unet": BASE}, X, T, BARE._replace(control_scale=jnp.ones(2))
        )
