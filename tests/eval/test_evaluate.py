"""`jaxdiff eval`: its numbers are those of the likelihoods called directly, and its report says how they were made."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import tiny_config
from jax.sharding import NamedSharding, PartitionSpec

import jaxdiff
from jaxdiff import cli, data, guidance, samplers, timesteps
from jaxdiff.errors import NotFinite
from jaxdiff.eval import bits, evaluate, likelihood, measure
from jaxdiff.eval.evaluate import Plan
from jaxdiff.eval.measure import Measure
from jaxdiff.model import Model, denoiser_of
from jaxdiff.objectives import to_unit_range
from jaxdiff.pipeline import Request
from jaxdiff.train import initial, loop
from jaxdiff.types import Cond

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def model():
    return Model(config=CONFIG, params=initial.new_state(CONFIG).params)


def plan_of(model, **options) -> Plan:
    return evaluate.prepared(Plan(model, Measure(**options), Request(model.config.sample)))


def test_the_bound_is_that_of_each_example_whatever_the_batches(model):
    ticks, plan = [], plan_of(model, num=12, batch_size=8, steps=20, seed=3)
    found = evaluate.measured(plan, ticks.append)["nll"]
    assert sum(ticks) == evaluate.work(plan) == 2 * 20 and len(ticks) == 20
    source = data.load("digits:test")
    chosen = np.random.default_rng(3).permutation(500)[:12]
    images = np.stack([source[int(i)]["image"] for i in chosen])
    schedule = CONFIG.diffusion.make_schedule()
    bound = likelihood.variational_bound(
        jax.random.key(3),
        guidance.clip_x0(denoiser_of(model), schedule),
        schedule,
        timesteps.grid(50, 20),
        to_unit_range(images),
    )
    assert found["bits_per_dim"] == pytest.approx(float(bound.total.mean()), rel=1e-4)
    assert found["prior"] == pytest.approx(float(bound.prior.mean()), rel=1e-4)
    assert found["decoder"] == pytest.approx(float(bound.steps[-1].mean()), rel=1e-4)
    assert found["standard_error"] == pytest.approx(float(bound.total.std(ddof=1)) / np.sqrt(12), rel=1e-3)
    assert (found["num_steps"], found["variance"], found["clip"]) == (20, "posterior", True)


def test_the_command_writes_a_report_and_never_over_another(tmp_path, capsys):
    run = tmp_path / "tiny"
    loop.fit(dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=2)), run=run)
    args = ["eval", str(run), "--num", "8", "--batch-size", "8", "--steps", "3"]
    cli.main([*args, "--metrics", "nll,nll_ode", "--tolerance", "1e-2"])
    path = run / "eval" / "nll_nll_ode_seed0.json"
    written, out = json.loads(path.read_text()), capsys.readouterr().out
    assert str(path) in out and "bits_per_dim" in out
    about = {"run": str(run), "step": 2, "weights": "EMA", "trained_on": "digits", "source": "digits:test", "num": 8}
    assert about.items() <= written.items() and set(written["metrics"]) == {"nll", "nll_ode"}
    for numbers in written["metrics"].values():
        assert np.isfinite(numbers["bits_per_dim"]) and numbers["standard_error"] > 0
    cli.main(args)
    cli.main(args)
    assert {p.name for p in (run / "eval").glob("*.json")} == {path.name, "nll_seed0.json", "nll_seed0_2.json"}


def test_the_density_is_that_of_the_flow_called_directly():
    """Of a network that knows labels, which are the examples' own."""
    config = dataclasses.replace(CONFIG, net=dataclasses.replace(CONFIG.net, num_classes=10))
    params = jax.tree.map(lambda x: x + 0.02, initial.new_state(config).params)
    model, options = Model(config=config, params=params), {"num": 8, "batch_size": 8, "seed": 3, "probes": 2}
    found = jaxdiff.evaluate(model, "nll_ode", tolerance=1e-2, **options)["nll_ode"]
    source, schedule = data.load("digits:test"), CONFIG.diffusion.make_schedule()
    chosen = [source[int(i)] for i in np.random.default_rng(3).permutation(500)[:8]]
    images, labels = (np.stack([example[what] for example in chosen]) for what in ("image", "label"))
    over_devices = NamedSharding(jax.sharding.Mesh(jax.local_devices(), ("batch",)), PartitionSpec("batch"))
    keys, labels = jax.device_put((samplers.keys_for(jax.random.key(3), 8), labels.astype(np.int32)), over_devices)
    bits = likelihood.bits_per_dim(
        likelihood.log_prob(
            samplers.fold(keys, 1),
            denoiser_of(model),
            schedule,
            likelihood.dequantize(samplers.fold(keys, 0), images),
            Cond(label=labels),
            2,
            samplers.ode.adaptive(1e-2, 1e-2),
        ),
        (28, 28, 1),
    )
    assert found["bits_per_dim"] == pytest.approx(float(bits.mean()), rel=1e-4)
    assert (found["probes"], found["tolerance"]) == (2, 1e-2)


def test_what_is_not_finite_is_no_report(monkeypatch, model):
    nan = lambda measure, denoise, schedule, tick, keys, examples: {"bits_per_dim": np.full(len(keys), np.nan)}
    monkeypatch.setitem(bits.METRICS, "nll_ode", bits.METRICS["nll_ode"]._replace(of=nan))
    with pytest.raises(NotFinite, match=r"nll_ode is not finite: .* larger `tolerance`"):
        jaxdiff.evaluate(model, "nll_ode")


MISTAKES = {
    "the same twice": ({"metrics": "nll,nll"}, "nll stands twice in `metrics` nll,nll"),
    "options of another metric": ({"metrics": "nll_ode", "steps": 7}, "`steps`=7 is for the metric nll: add it to"),
    "probes of another metric": ({"probes": 9}, "`probes`=9 is for the metric nll_ode: add it to"),
    "unknown metric": ({"metrics": "nl"}, "unknown metric 'nl': did you mean 'nll'?"),
    "no learned variance": ({"variance": "learned"}, "needs a network that predicts one"),
    "no examples": ({"num": 0}, "must be at least 1"),
    "batch and devices": ({"batch_size": 12}, "does not divide by the 8 devices"),
    "more steps than levels": ({"steps": 51}, "`steps`=51 must be from 2 to 50"),
    "more examples than there are": ({"num": 501}, "digits:test has 500 examples: `num`=500 takes all"),
}


@pytest.mark.parametrize("options, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes(options, message, model):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        jaxdiff.evaluate(model, **options)


def test_an_own_source_is_evaluated(model):
    """A `Source` in place of a name: its examples are those that are chosen."""
    digits = data.load("digits:test")
    few = dataclasses.replace(digits, size=8)
    found = jaxdiff.evaluate(model, source=few, num=8, batch_size=8, steps=3)
    assert np.isfinite(found["nll"]["bits_per_dim"])
    with pytest.raises(ValueError, match="has 8 examples"):
        jaxdiff.evaluate(model, source=few, num=9, batch_size=8, steps=3)


def test_an_own_source_needs_no_test_split(model):
    folder = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, source="folder:photographs"))
    few = dataclasses.replace(data.load("digits:test"), size=8)
    found = jaxdiff.evaluate(model.replace(config=folder), source=few, num=8, batch_size=8, steps=3)
    assert np.isfinite(found["nll"]["bits_per_dim"])


def test_texts_are_those_of_the_real_examples_unless_some_are_given():
    model = jaxdiff.load("captioned")
    assert model.config.sample.prompts and evaluate.default_sample(model).prompts == ()


@pytest.mark.parametrize(
    "options", [{"judge": "digits_judge"}, {"classifier": True}, {"sample": True}, {"control": True}]
)
def test_arguments_of_samples_are_refused_where_none_are_measured(options, model):
    given = {
        "classifier": model,
        "sample": dataclasses.replace(CONFIG.sample, steps=2),
        "control": [np.zeros([28, 28, 1])],
    }
    with pytest.raises(ValueError, match="leave them out"):
        jaxdiff.evaluate(model, "nll", **{name: given.get(name, value) for name, value in options.items()})


def test_what_was_trained_on_is_not_measured_on():
    for source in ("folder:photographs", "digits:train+test", "tfds:cifar10:test", "tfds:cifar10:all", "own"):
        with pytest.raises(ValueError, match="no test split was kept from"):
            measure.held_out(source)
    assert measure.held_out("tfds:imagenet_resized/64x64:0.1.0") == "tfds:imagenet_resized/64x64:0.1.0:test"
