"""Everything that is chosen by name: constructible, documented, and expressible as flags and as JSON."""

import dataclasses
import inspect
import json
import re
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from jaxdiff import Guided, samplers, schedules, testing, timesteps
from jaxdiff.objectives import LEVEL_DRAWS, WEIGHTINGS, LevelDraw
from jaxdiff.registry import Registry
from jaxdiff.samplers import SAMPLERS, Sampler
from jaxdiff.schedules import SCHEDULES, Schedule
from jaxdiff.timesteps import SPACINGS

LINEAR = schedules.linear(20)
RUN = {"key": jax.random.key(0), "batch_size": 4, "axis_name": None, "schedule": LINEAR}
CALLS = {  # the call that all choices of a registry share, and a check of its result
    SAMPLERS.what: (lambda choice: choice(), lambda result: isinstance(result, Sampler)),
    SCHEDULES.what: (
        lambda choice: choice(20),
        lambda result: isinstance(result, Schedule) and result.num_levels == 20,
    ),
    SPACINGS.what: (
        lambda choice: choice(schedules.rectified_flow(20) if choice.kind == "flow_match" else LINEAR, 3),
        lambda result: result.shape == (4,) and np.all(np.diff(result) < 0) and result[-1] == 0,
    ),
    WEIGHTINGS.what: (lambda choice: choice(LINEAR, jnp.array([1, 20]), "v"), lambda result: result.shape == (2,)),
    LEVEL_DRAWS.what: (
        lambda choice: choice(**RUN),
        lambda result: isinstance(result, LevelDraw) and result.draw(result.init(20), *DRAW)[0].shape == (4,),
    ),
}
DRAW = samplers.keys_for(jax.random.key(0), 4), jnp.arange(4), 20
REGISTRIES = [SAMPLERS, SCHEDULES, SPACINGS, WEIGHTINGS, LEVEL_DRAWS]
EVERY = [pytest.param(registry, name, id=f"{registry.what}-{name}") for registry in REGISTRIES for name in registry]
every = pytest.mark.parametrize("registry, name", EVERY)
# Other flags of `jaxdiff sample`, beside which the options of samplers and spacings stand.
SAMPLING_FLAGS = (
    *"sampler steps labels prompts prompt_syntax negative guidance interval rescale clip compat".split(),
    *"size decode spacing num batch_size seed".split(),
)


def options(choice):
    return {field.name: field for field in dataclasses.fields(choice)}


@every
def test_a_choice_has_defaults_and_the_call_of_its_registry(registry, name):
    call, check = CALLS[registry.what]
    assert check(call(registry.choice(name)))


@every
def test_a_choice_describes_itself_and_each_of_its_options(registry, name):
    doc = registry[name].__doc__
    assert doc.splitlines()[0].strip()
    documented = re.findall(r"^ {2}(\w+): \S", doc.partition("Args:\n")[2].partition("\n\n")[0], re.M)
    assert set(options(registry[name])) <= set(documented)


def is_textual(kind):
    if typing.get_origin(kind) is typing.Literal:
        return True
    if isinstance(kind, types.UnionType):
        return all(map(is_textual, typing.get_args(kind)))
    return kind in (bool, int, float, str, type(None))


@every
def test_options_can_be_text(registry, name):
    for field in options(registry[name]).values():
        assert is_textual(field.type), field
        assert any(isinstance(field.default, kind) for kind in (bool, int, float, str, type(None))), field


@every
def test_a_choice_survives_json(registry, name):
    choice = registry.choice(name)
    fields = json.loads(json.dumps(dataclasses.asdict(choice)))
    assert registry[name](**fields) == choice


def flag(field):
    """The arguments that set an option to its default, or to another value if that is None or a bool."""
    name = field.name.replace("_", "-")
    if isinstance(field.default, bool):
        return {field.name: not field.default}, [f"--no-{name}" if field.default else f"--{name}"]
    value = 5 if field.default is None else field.default
    return {field.name: value}, [f"--{name}", str(value)]


@every
def test_each_option_is_a_flag(registry, name):
    assert tyro.cli(registry[name], args=[]) == registry.choice(name)
    for field in options(registry[name]).values():
        values, args = flag(field)
        assert tyro.cli(registry[name], args=args) == registry[name](**values)


def test_the_infinite_default_of_heun_is_a_number_in_json():
    fields = json.loads(json.dumps(dataclasses.asdict(SAMPLERS.choice("heun"))))
    assert fields["s_max"] == float("inf")


def test_options_as_flags_and_in_calls():
    choice = tyro.cli(SAMPLERS["heun"], args=["--churn", "0.2", "--s-max", "inf"])
    assert choice == SAMPLERS["heun"](churn=0.2)
    assert float(choice().step.args[0].gamma) == pytest.approx(0.2)
    assert SPACINGS["leading"](offset=1, end=1)(LINEAR, 4).tolist() == [17, 12, 7, 2, 1]
    assert SPACINGS["trailing"](start=10)(LINEAR, 2).tolist() == [10, 5, 0]
    assert SCHEDULES["linear"](beta_start=0.1, beta_end=0.3)(3).betas == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert WEIGHTINGS["min_snr"](gamma=0.5)(LINEAR, jnp.array([1]), "x0").tolist() == [0.5]
    with pytest.raises(ValueError, match="`std`=0 must be above 0"):
        LEVEL_DRAWS["logit_normal"](std=0)(**RUN)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_options_of_a_sampler_are_no_other_flags_of_sampling(sampler):
    own = set(options(SAMPLERS[sampler]))
    spacings = set().union(*(options(SPACINGS[spacing]) for spacing in SPACINGS))
    assert own & (spacings | set(SAMPLING_FLAGS)) == set()
    assert spacings & set(SAMPLING_FLAGS) == set()


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs(name):
    """Also those that need a random key or two conditions."""
    data, x_T = testing.gaussian([1.0, -0.5], 0.25), samplers.noise(DRAW[0], (2,))
    arguments = data.denoiser(LINEAR), LINEAR, timesteps.levels("trailing", LINEAR, 5), x_T, Guided(None, None)
    x, _ = samplers.sample(RUN["key"], SAMPLERS.choice(name)(), *arguments)
    assert x.shape == x_T.shape and np.all(np.isfinite(x)) and np.all(x != x_T)


def makers(module, returns):
    """Public functions of a module that return a type, which is what a registry should hold."""
    public = {name: f for name, f in vars(module).items() if inspect.isfunction(f) and not name.startswith("_")}
    return {name for name, f in public.items() if inspect.signature(f).return_annotation in (returns, returns.__name__)}


def test_nothing_public_is_left_out():
    transforms = {"from_alpha_sigma", "from_betas", "from_log_snr", "zero_terminal_snr", "shift"}
    assert makers(samplers, Sampler) == set(SAMPLERS)
    assert makers(schedules, Schedule) - transforms == set(SCHEDULES)
    assert {*timesteps.LEVEL_SPACINGS, *timesteps.SIGMA_SPACINGS, "consistency", "flow_match"} == set(SPACINGS)


def test_a_predictor_is_a_name_or_a_sampler():
    by_name = samplers.predictor_corrector(predictor="ddpm")
    assert jax.tree.structure(by_name) == jax.tree.structure(samplers.predictor_corrector(predictor=samplers.ddpm()))
    with pytest.raises(ValueError, match="unknown sampler 'ddmp': did you mean 'ddpm'"):
        samplers.predictor_corrector(predictor="ddmp")


def test_a_level_draw_receives_the_parts_of_its_run_that_it_has():
    stratified = LEVEL_DRAWS.choice("stratified")(**RUN)
    assert sorted(stratified.draw((), None, jnp.arange(4), 4)[0].tolist()) == [1, 2, 3, 4]
    assert options(LEVEL_DRAWS["importance"]).keys() == {"history", "mix"}
    registry = type(LEVEL_DRAWS)("draw of levels")

    @registry.register("seen")
    def seen(axis_name, factor: float = 2.0):
        return axis_name, factor

    assert registry["seen"](factor=3.0)(key=None, batch_size=8, axis_name="batch") == ("batch", 3.0)
    assert seen("a") == ("a", 2.0)  # the function itself is unchanged


def test_the_registry_names_the_nearest_choice():
    with pytest.raises(ValueError, match="unknown draw of levels 'importence': did you mean 'importance'"):
        LEVEL_DRAWS.choice("importence")
    with pytest.raises(ValueError, match="is a schedule, not a weighting"):
        WEIGHTINGS.choice(SCHEDULES["sigmoid"]())
    assert all(isinstance(registry, Registry) for registry in REGISTRIES)
