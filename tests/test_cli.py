"""The command line: what it writes, and what it says to a mistake."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import tiny_config
from PIL import Image

from jaxdiff import cli
from jaxdiff import config as configs
from jaxdiff.train import loop

CONFIG = """
from helpers import tiny_config

def get_config():
    return tiny_config()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    loop.train(tiny_config(), directory)
    return directory


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "tiny")


def contents(directory: Path) -> dict:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def fails(capsys, *args) -> str:
    """Runs a command that must be refused; gives its one line."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(arg) for arg in args])
    assert stop.value.code not in (0, None)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("jaxdiff: error: "), lines
    return lines[0]


def test_trains_a_config_file_with_overrides(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CONFIG)
    cli.main(["train", "mine.py", "--train.steps", "2", "--optim.learning-rate", "0.5"])
    out = capsys.readouterr().out
    assert "runs/tiny/samples/step_0000002.png" in out and "jaxdiff sample runs/tiny" in out
    assert configs.read_run(tmp_path / "runs" / "tiny").optim.learning_rate == 0.5


def test_resumes_with_the_run_s_own_config(run, capsys):
    shutil.rmtree(run / "checkpoints" / "4")
    cli.main(["train", "digits", "--run-dir", str(run), "--resume"])
    assert configs.read_run(run) == tiny_config()
    assert (run / "checkpoints" / "4").is_dir()


def test_samples_everything_it_is_asked_for(run, capsys):
    args = ["--num", "5", "--npz", "--individual", "--animation", str(run / "a.gif"), "--sampler", "ddpm"]
    cli.main(["sample", str(run), *args])
    out = capsys.readouterr().out
    images = np.load(run / "samples" / "ddpm_trailing_3_seed0.npz")["images"]
    assert images.shape == (5, 28, 28, 1) and images.dtype == np.uint8
    assert len(list((run / "samples" / "ddpm_trailing_3_seed0").glob("*.png"))) == 5
    assert Image.open(run / "a.gif").n_frames == 3
    for written in ("ddpm_trailing_3_seed0.png", "ddpm_trailing_3_seed0.npz", "a.gif"):
        assert written in out


def test_an_image_does_not_depend_on_the_batch_size(run):
    for size in (8, 16):
        cli.main(
            [
                "sample",
                str(run),
                "--num",
                "12",
                "--eta",
                "1.0",
                "--batch-size",
                str(size),
                "--npz",
                "--out",
                f"{run}/{size}.png",
            ]
        )
    small, large = (np.load(run / f"{size}.npz")["images"].astype(int) for size in (8, 16))
    assert abs(small - large).max() <= 1  # one grey level: other batch, other order of sums
    assert small.std() > 10


def test_a_second_default_sample_takes_a_new_name(run):
    cli.main(["sample", str(run)])
    cli.main(["sample", str(run)])
    assert {path.name for path in (run / "samples").glob("ddim*")} == {
        "ddim_trailing_3_seed0.png",
        "ddim_trailing_3_seed0_2.png",
    }


def test_help_lists_commands_and_configs(capsys):
    cli.main(["--help"])
    out = capsys.readouterr().out
    assert all(word in out for word in ("train", "sample", "digits", "cifar10"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "digits", "--help"])
    assert stop.value.code == 0 and "--train.steps" in capsys.readouterr().out


TRAIN_MISTAKES = {
    "unknown config": (["digitz"], "did you mean 'digits'?"),
    "unknown field": (["digits", "--train.step", "3"], "did you mean --train.steps"),
    "unknown flag": (["digits", "--resum"], "did you mean --resume?"),
    "wrong type": (
        ["digits", "--train.steps", "many"],
        "--train.steps: 'many' is not a whole number",
    ),
    "missing value": (["digits", "--train.steps"], "Missing value for argument '--train.steps'"),
    "wrong choice": (["digits", "--diffusion.schedule", "cosinus"], "invalid choice 'cosinus'"),
    "channels and groups": (["digits", "--net.channels", "30", "60"], "channels=30 cannot be divided into groups=16"),
    "image and depth": (["digits", "--net.channels", "64", "64", "64"], "must be multiples of 8"),
    "output channels": (["digits", "--net.out-channels", "3"], "--net.out-channels=3 must be the 1 channels"),
    "more steps than levels": (["digits", "--sample.steps", "2000"], "num_steps=2000 must be from 1 to 1000"),
    "unknown spacing": (["digits", "--sample.spacing", "trail"], "did you mean 'trailing'?"),
    "unknown sampler": (["digits", "--sample.sampler", "dppm"], "did you mean 'ddpm'?"),
    "unknown data": (["digits", "--data.name", "digit"], "did you mean 'digits'?"),
    "unknown split": (["digits", "--data.split", "valid"], "unknown split of digits 'valid'"),
    "image shape": (["digits", "--data.image-shape", "32", "32", "1"], "the images of digits are 28x28x1"),
    "batch and devices": (["digits", "--train.batch-size", "12"], "does not divide by the 8 devices: 16 would do"),
    "no groups": (["digits", "--net.groups", "0"], "groups=0 and head_dim=32 must be at least 1"),
    "variance of no objective": (["digits", "--net.out-channels", "2"], "--net.out-channels=2 must be the 1 channels"),
    "vectors from nowhere": (["digits", "--net.vector-dim", "4"], "--net.vector-dim=4 must be 0"),
    "option of another sampler": (
        ["digits", "--sample.eta", "0.5"],
        "eta=0.5 is for the sampler ddim, and this one is",
    ),
    "steps per call": (["digits", "--train.steps-per-call", "7"], "must be a multiple of steps_per_call=7"),
    "warm-up": (["digits", "--optim.warmup", "100000"], "must be shorter than --train.steps"),
    "no config": ([], "jaxdiff train needs a config"),
}


@pytest.mark.parametrize("args, message", TRAIN_MISTAKES.values(), ids=TRAIN_MISTAKES)
def test_mistakes_in_training(args, message, tmp_path, capsys):
    assert message in fails(capsys, "train", *args, *(["--run-dir", tmp_path / "run"] if args else []))
    assert not (tmp_path / "run").exists()


SAMPLE_MISTAKES = {
    "unknown sampler": (["--sampler", "dpm"], "did you mean 'ddpm'?"),
    "unknown spacing": (["--spacing", "leadin"], "did you mean 'leading'?"),
    "more steps than levels": (["--steps", "51"], "num_steps=51 must be from 1 to 50"),
    "unknown flag": (["--step", "5"], "did you mean --steps?"),
    "wrong type": (["--eta", "big"], "--eta"),
    "eta out of range": (["--eta", "1.5"], "eta=1.5 must lie in [0, 1]"),
    "batch and devices": (["--batch-size", "12"], "does not divide by the 8 devices"),
    "no images": (["--num", "0"], "must be at least 1"),
    "option of another sampler": (["--sampler", "ddpm", "--eta", "0.5"], "choose ddim, or set eta to None"),
    "variance not learned": (["--sampler", "ddpm", "--variance", "learned"], "needs a network that says a variance"),
    "grid that is no png": (["--out", "grid.jpg"], "must end in .png"),
    "animation of a wrong kind": (["--animation", "a.mp4"], "must end in .gif or .webp"),
    "missing directory": (["--out", "nowhere/grid.png"], "there is no directory nowhere"),
}


@pytest.mark.parametrize("args, message", SAMPLE_MISTAKES.values(), ids=SAMPLE_MISTAKES)
def test_mistakes_in_sampling(args, message, run, capsys):
    before = contents(run)
    assert message in fails(capsys, "sample", run, *args)
    assert contents(run) == before


def test_never_overwrites(run, capsys):
    before = contents(run)
    assert "already holds a run: add --resume" in fails(capsys, "train", "digits", "--run-dir", run)
    assert contents(run) == before
    (run / "mine.png").write_bytes(b"precious")
    assert "add --overwrite" in fails(capsys, "sample", run, "--out", run / "mine.png")
    assert (run / "mine.png").read_bytes() == b"precious"


def test_other_mistakes(run, tmp_path, capsys):
    assert "did you mean 'sample'?" in fails(capsys, "sampel", run)
    assert "holds no run" in fails(capsys, "sample", tmp_path / "nothing")
    assert "holds no run" in fails(capsys, "train", "digits", "--run-dir", tmp_path / "nothing", "--resume")
    shutil.rmtree(run / "checkpoints")
    assert "there is no checkpoint" in fails(capsys, "sample", run)
    (run / "config.json").write_text((run / "config.json").read_text().replace('"sample"', '"sampel"'))
    assert "did you mean 'sample'?" in fails(capsys, "sample", run)


BAD_CONFIGS = {
    "nothing": ("", "must define get_config()"),
    "unknown field": ("config.Config(train=config.Train(stps=3))", "unknown field of Train in"),
    "unknown field, nearest": ("config.Config(train=config.Train(stps=3))", "did you mean 'steps'?"),
    "wrong type": ("config.Config(train=config.Train(steps='many'))", "mine.train.steps='many' must be of type int"),
    "wrong choice": ("config.Config(diffusion=config.Diffusion('cosinus'))", "mine.diffusion.schedule='cosinus'"),
    "no dataclass": ("config.Config(train=3)", "mine.train must hold fields, not 3"),
    "bool for int": ("config.Config(train=config.Train(steps=True))", "mine.train.steps=True must be of type int"),
}


@pytest.mark.parametrize("code, message", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_mistakes_in_a_config_file(code, message, tmp_path, capsys):
    text = f"from jaxdiff import config\n\ndef get_config():\n    return {code}\n" if code else ""
    (tmp_path / "mine.py").write_text(text)
    assert message in fails(capsys, "train", tmp_path / "mine.py", "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


REFUSED_RESUMES = {
    "other network": (["--net.channels", "16"], "--resume cannot change net"),
    "other data": (["--data.split", "judge"], "--resume cannot change data"),
    "other batch": (["--train.batch-size", "8"], "--resume cannot change train.batch_size from 16 to 8"),
    "nothing left": ([], "the run is at step 4 already"),
    "uneven rest": (["--train.steps", "6", "--train.log-every", "6", "--train.save-every", "6"], ""),
}


@pytest.mark.parametrize("args, message", REFUSED_RESUMES.values(), ids=REFUSED_RESUMES)
def test_a_refused_resume_changes_nothing(args, message, run, capsys):
    if not message:  # steps 4 to 6 in calls of 3 or 6
        args, message = [*args, "--train.steps-per-call", "3"], "from step 4 to --train.steps=6 is not a multiple"
    before = contents(run)
    assert message in fails(capsys, "train", "digits", "--run-dir", run, "--resume", *args)
    assert contents(run) == before


def test_a_run_without_checkpoint_or_config_is_neither_overwritten_nor_resumed(run, capsys):
    (run / "config.json").rename(run / "kept.json")
    assert "already holds a run" in fails(capsys, "train", "digits", "--run-dir", run)
    (run / "kept.json").rename(run / "config.json")
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    assert "saved no checkpoint" in fails(capsys, "train", "digits", "--run-dir", run)
    assert "saved no checkpoint to resume from" in fails(capsys, "train", "digits", "--run-dir", run, "--resume")
    assert contents(run) == before


def test_samples_of_a_run_keep_its_sampler_s_options_only_with_that_sampler():
    default = configs.Sample(sampler="ddpm", variance="beta")
    sampled = lambda *args: cli.parse_sample(default, list(args), "jaxdiff sample run").sample
    assert sampled() == default
    assert sampled("--variance", "posterior").variance == "posterior"
    assert sampled("--sampler", "ddim", "--eta", "0.5") == configs.Sample(sampler="ddim", eta=0.5)


def test_a_network_with_labels_draws_every_class(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(CONFIG)
    args = ["--net.num-classes", "10", "--train.steps", "2", "--run-dir", str(tmp_path / "run")]
    cli.main(["train", str(tmp_path / "mine.py"), *args])
    assert (tmp_path / "run" / "samples" / "step_0000002.png").exists()
    assert "cond.label" not in capsys.readouterr().err


def test_compilation_cache_is_on(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        cli.use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jaxdiff" / "compiled")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
