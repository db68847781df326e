"""The command line: what it writes, and what it says to a mistake."""

import dataclasses
import re
import shutil
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import damage, fails, tiny_config
from PIL import Image

from jaxdiff import cli
from jaxdiff import config as configs
from jaxdiff.cli import environment, flags, train
from jaxdiff.cli.flags import parse
from jaxdiff.cli.sample import SampleFlags
from jaxdiff.model import checkpoints
from jaxdiff.samplers import SAMPLERS
from jaxdiff.train import checkpoint, initial, loop, rundir, setup

CONFIG = """
from helpers import tiny_config

def get_config():
    return tiny_config()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    loop.fit(tiny_config(), run=directory)
    return directory


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "tiny")


def contents(directory: Path) -> dict:
    """Every file but the lock, which holds nothing."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


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


@pytest.mark.parametrize("command", [name for name, about in cli.COMMANDS.items() if about[1]])
def test_help_of_a_command_needs_no_argument(command, capsys):
    for args in (["--help"], ["-h"], ["--overwrite", "--help"]) if command != "train" else (["--help"],):
        with pytest.raises(SystemExit) as stop:
            cli.main([command, *args])
        out = capsys.readouterr().out
        assert stop.value.code == 0 and f"jaxdiff {command} {cli.COMMANDS[command][-1]}" in out and "options" in out


TRAIN_MISTAKES = {
    "unknown config": (["digitz"], "did you mean 'digits'?"),
    "unknown field": (["digits", "--train.step", "3"], "did you mean --train.steps"),
    "a base for nothing": (
        ["digits", "--base", "captioned"],
        "--base is the model of an adaptation: add --adapt and one of lora",
    ),
    "unknown flag": (["digits", "--resum"], "did you mean --resume?"),
    "wrong type": (
        ["digits", "--train.steps", "many"],
        "--train.steps: 'many' is not a whole number",
    ),
    "missing value": (["digits", "--train.steps"], "Missing value for argument '--train.steps'"),
    "wrong choice": (["digits", "--diffusion.schedule", "cosinus"], "did you mean 'cosine'?"),
    "channels and groups": (["digits", "--net.channels", "30", "60"], "channels=30 cannot be divided into groups=16"),
    "image and depth": (["digits", "--net.channels", "64", "64", "64"], "must be multiples of 8"),
    "output channels": (
        ["digits", "--net.out-channels", "3"],
        "--net.out-channels=3 must be 1 for images of 1 channels",
    ),
    "more steps than levels": (["digits", "--sample.steps", "2000"], "--sample.steps=2000 must be from 1 to 1000"),
    "unknown spacing": (["digits", "--sample.spacing", "trail"], "did you mean 'trailing'?"),
    "unknown sampler": (["digits", "--sample.sampler", "dppm"], "did you mean 'ddpm'?"),
    "unknown data": (["digits", "--data.source", "digit"], "did you mean 'digits'?"),
    "unknown split": (["digits", "--data.source", "digits:valid"], "unknown split of digits 'valid'"),
    "image shape": (["digits", "--data.image-shape", "32", "32", "1"], "the images of digits are 28x28x1"),
    "batch and devices": (["digits", "--train.batch-size", "12"], "does not divide by the 8 devices: 16 would do"),
    "empty batch": (["digits", "--train.batch-size", "0"], "--train.batch-size=0 must be at least 1"),
    "accumulation": (
        ["digits", "--train.accumulate", "3"],
        "--train.accumulate=3 does not divide the 4 examples of each",
    ),
    "no part": (["digits", "--train.accumulate", "0"], "--train.accumulate=0 must be at least 1"),
    "steps before the first": (["digits", "--train.steps", "-1"], "--train.steps=-1 must be at least 1"),
    "no interval": (["digits", "--train.save-every", "0"], "--train.save-every=0 must be at least 1"),
    "no interval of numbers": (["digits", "--train.log-every", "0"], "--train.log-every=0 must be at least 1"),
    "an interval before the first": (
        ["digits", "--train.sample-every=-1"],
        "--train.sample-every=-1 must be at least 0",
    ),
    "no levels": (["digits", "--diffusion.num-levels", "0"], "--diffusion.num-levels=0 must be at least 1"),
    "no channels": (["digits", "--net.channels"], "channels=() must be one number or more, each at least 1"),
    "a layer without channels": (["digits", "--net.channels", "0"], "channels=(0,) must be one number or more"),
    "an epsilon that is no number": (["digits", "--net.eps", "nan"], "eps=nan must be a finite number above 0"),
    "an epsilon of a transformer": (
        ["digits", "--net", "dit", "--net.eps", "nan"],
        "eps=nan must be above 0 and finite",
    ),
    "noise that is no number": (
        ["digits", "--diffusion.offset-noise", "nan"],
        "--diffusion.offset-noise=nan must be at least 0 and finite",
    ),
    "a weight that is no number": (
        ["captioned_vae", "--reconstruction.kl-weight", "nan"],
        "--reconstruction.kl-weight=nan must be at least 0 and finite",
    ),
    "no checkpoint to fall back on": (["digits", "--train.keep", "1"], "--train.keep=1 must be at least 2"),
    "negative seed": (["digits", "--train.seed", "-1"], "--train.seed=-1 must be from 0 to 4294967295"),
    "a learning rate that is no number": (["digits", "--optim.learning-rate", "nan"], "--optim.learning-rate=nan and"),
    "moments for ever": (["digits", "--optim.b1", "1"], "--optim.b1=1.0 must be at least 0 and below 1"),
    "no learning": (
        ["digits", "--optim.learning-rate", "0"],
        "--optim.learning-rate=0.0 and --optim.clip=1.0 must be above",
    ),
    "unknown moments": (["digits", "--optim.moment-dtype", "float16"], "invalid choice 'float16'"),
    "cuDNN without a GPU": (
        ["digits", "--net.attention-kernel", "cudnn", "--net.dtype", "bfloat16"],
        "attention_kernel='cudnn' runs on GPUs only and this is a CPU",
    ),
    "cuDNN in float32": (["digits", "--net.attention-kernel", "cudnn"], "needs dtype='bfloat16', not 'float32'"),
    "negative profile": (["digits", "--profile", "-5"], "--profile=-5 must be a number of steps"),
    "an old name of a data set": (["digits", "--data.source", "cifar10"], "did you mean 'tfds:cifar10'?"),
    "a data set that is not prepared": (["digits", "--data.source", "tfds:cifar10"], "run 'tfds build cifar10"),
    "a data set that is not known": (["digits", "--data.source", "tfds:cifarr10"], "did you mean 'cifar10'"),
    "a malformed data set": (["digits", "--data.source", "tfds:"], "must be tfds:NAME[:SPLIT]"),
    "no folder": (["digits", "--data.source", "folder:nowhere"], "the folder nowhere is not there"),
    "a folder without a name": (["digits", "--data.source", "folder:"], "must be folder:PATH"),
    "more classes than labels": (["digits", "--net.num-classes", "9"], "--net.num-classes 10"),
    "channels that no image has": (
        ["digits", "--data.image-shape", "28", "28", "2", "--net.out-channels", "2"],
        "must be height, width and 1 (grey) or 3 (colour) channels",
    ),
    "one host's flags in part": (
        ["digits", "--coordinator", "localhost:1"],
        "--num-processes, --process-id must be given",
    ),
    "a process too many": (
        ["digits", "--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"],
        "--process-id=2 must lie in 0..1",
    ),
    "a coordinator without port": (
        ["digits", "--coordinator", "localhost", "--num-processes", "2", "--process-id", "0"],
        "--coordinator=localhost must be host:port",
    ),
    "no groups": (
        ["digits", "--net.groups", "0"],
        "groups=0 and head_dim=32 must be at least 1",
    ),
    "variance of no objective": (["digits", "--net.out-channels", "2"], "and the objective 'denoising'"),
    "objective without variance": (["digits", "--diffusion.objective", "hybrid"], "--net.out-channels=1 must be 2 for"),
    "a weighting of the bound": (
        ["digits", "--diffusion.objective", "bound", "--diffusion.weighting", "p2"],
        "are not for the objective 'bound'",
    ),
    "noise below nothing": (["digits", "--diffusion.offset-noise", "-1"], "must be at least 0"),
    "eps from pure noise": (
        ["digits", "--diffusion.zero-snr", "--diffusion.predict", "eps"],
        "--diffusion.predict='eps' cannot start from zero signal-to-noise: use 'v', 'flow' or 'x0'",
    ),
    "no weight where sampling starts": (
        ["digits", "--diffusion.zero-snr", "--diffusion.weighting", "min_snr"],
        "--diffusion.weighting=min_snr gives no weight to a last level without signal",
    ),
    "a variance of noise that is not plain": (
        ["digits", "--diffusion.objective", "hybrid", "--net.out-channels", "2", "--diffusion.offset-noise", "0.1"],
        "are not for the objective 'hybrid'",
    ),
    "inputs of any size": (
        ["digits", "--diffusion.schedule", "edm", "--diffusion.predict", "x0"],
        "add EDM's preconditioning by --diffusion.sigma-data",
    ),
    "a preconditioned network of another kind": (
        ["digits", "--diffusion.sigma-data", "0.5"],
        "--diffusion.predict=v is not what a preconditioned network returns: choose x0",
    ),
    "a weighting for other data": (
        ["digits", "--diffusion.weighting", "edm", "--diffusion.sigma-data", "1", "--diffusion.predict", "x0"],
        "--diffusion.weighting=edm is for the data's standard deviation 0.5",
    ),
    "data of no size": (["digits", "--diffusion.sigma-data", "-1"], "--diffusion.sigma-data=-1.0 must be above 0"),
    "the logarithm of pure noise": (
        ["digits", "--diffusion.schedule", "rectified_flow", "--diffusion.time", "log_ratio"],
        "the network time 'log_ratio' is infinite",
    ),
    "a classifier of what explodes": (
        ["digits_classifier", "--diffusion.schedule", "variance_exploding"],
        "gives a classifier inputs of any size",
    ),
    "a preconditioned classifier": (
        ["digits_classifier", "--diffusion.sigma-data", "0.5"],
        "--diffusion.sigma-data is for denoising",
    ),
    "no shift": (["digits", "--diffusion.shift", "0"], "--diffusion.shift=0.0 must be a finite number above 0"),
    "vectors from nowhere": (["digits", "--net.vector-dim", "4"], "--net.vector-dim=4 must be 0"),
    "augmentation without end": (["digits", "--data.augment", "90"], "--data.augment=90.0 must lie in [0, 3]"),
    "dropped labels that are not there": (
        ["digits", "--diffusion.cond-dropout", "0.1"],
        "--diffusion.cond-dropout=0.1 drops labels",
    ),
    "every label dropped": (
        ["digits_conditional", "--diffusion.cond-dropout", "1"],
        "--diffusion.cond-dropout=1.0 must lie in [0, 1)",
    ),
    "option of another sampler": (
        ["digits", "--sample.eta", "0.5"],
        "--sample.eta is an option of --sample.sampler ddim: choose that, or leave it out",
    ),
    "steps per call": (["digits", "--train.steps-per-call", "7"], "must be a multiple of --train.steps-per-call=7"),
    "warm-up": (["digits", "--optim.warmup", "100000"], "must be shorter than --train.steps"),
    "no config": ([], "jaxdiff train needs a config"),
}


@pytest.mark.parametrize("args, message", TRAIN_MISTAKES.values(), ids=TRAIN_MISTAKES)
def test_mistakes_in_training(args, message, tmp_path, capsys, monkeypatch):
    if "tfds:" in " ".join(args):
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))  # where nothing is prepared
    assert message in fails(capsys, "train", *args, *(["--run-dir", tmp_path / "run"] if args else []))
    assert not (tmp_path / "run").exists()


SAMPLE_MISTAKES = {
    "unknown sampler": (["--sampler", "dpm"], "did you mean 'ddpm'?"),
    "unknown spacing": (["--spacing", "leadin"], "did you mean 'leading'?"),
    "more steps than levels": (["--steps", "51"], "--steps=51 must be from 1 to 50"),
    "unknown flag": (["--step", "5"], "did you mean --steps?"),
    "wrong type": (["--eta", "big"], "--eta"),
    "eta out of range": (["--eta", "1.5"], "--eta=1.5 must lie in [0, 1]"),
    "batch and devices": (["--batch-size", "12"], "does not divide by the 8 devices"),
    "no images": (["--num", "0"], "must be at least 1"),
    "option of another sampler": (["--sampler", "ddpm", "--eta", "0.5"], "--eta is an option of --sampler ddim"),
    "variance not learned": (["--sampler", "ddpm", "--variance", "learned"], "needs a network that predicts one"),
    "order of another sampler": (["--sampler", "heun", "--order", "3"], "--order is an option of --sampler unipc"),
    "order that there is not": (["--sampler", "unipc", "--order", "4"], "--order=4 must be 1, 2 or 3"),
    "no steps by sigma": (["--spacing", "karras", "--steps", "0"], "--steps=0 must be at least 1"),
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


def test_the_directory_of_a_run_is_that_of_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.where([], "tiny") == ("runs/tiny", False)
    assert train.where(["--name", "foo"], "tiny") == train.where(["--name=foo"], "tiny") == ("runs/foo", False)
    assert train.where(["--name", "foo", "--run-dir", "here"], "tiny") == ("here", False)
    assert "--name is empty" in fails(capsys, "train", "digits", "--name", "")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "args, flag",
    [
        (["train", "digits", "--run-dir", ""], "--run-dir"),
        (["sample", "digits", "--out", ""], "--out"),
        (["sample", "digits", "--animation="], "--animation"),
        (["export", "digits", "--out="], "--out"),
        (["eval", "digits", "--out="], "--out"),
        (["edit", "captioned", "--image=", "--prompt", "a red seven", "--method", "sdedit"], "--image"),
        (["convert", "digits", ""], "OUT"),
    ],
)
def test_an_empty_path_is_not_taken_for_none(args, flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert f"error: {flag} is empty (''): give a path, or leave it out" in fails(capsys, *args)


def test_a_negative_prompt_without_a_text_encoder_is_named(capsys):
    assert "--negative is for models with a text encoder" in fails(capsys, "sample", "digits", "--negative", "x")


@pytest.mark.parametrize("tolerance", ["inf", "nan", "0", "1e30"])
def test_a_tolerance_that_allows_everything_is_refused(tolerance, capsys):
    said = fails(capsys, "eval", "digits", "--metrics", "nll_ode", "--num", "1", "--tolerance", tolerance)
    assert f"--tolerance={float(tolerance)} must be above 0 and below 1" in said


def test_other_mistakes(run, tmp_path, capsys):
    assert "did you mean 'sample'?" in fails(capsys, "sampel", run)
    assert "holds no run" in fails(capsys, "sample", tmp_path / "nothing")
    assert "holds no run" in fails(capsys, "train", "digits", "--run-dir", tmp_path / "nothing", "--resume")
    shutil.rmtree(run / "checkpoints")
    assert "there is no checkpoint" in fails(capsys, "sample", run)
    (run / "config.json").write_text((run / "config.json").read_text().replace('"sample"', '"sampel"'))
    said = fails(capsys, "sample", run)
    assert "did you mean 'sample'?" in said and str(run / "config.json") in said


BAD_CONFIGS = {
    "nothing": ("", "must define get_config()"),
    "unknown field": ("config.Config(train=config.Train(stps=3))", "unknown field of Train in"),
    "unknown field of a choice": ("config.Config(adapt=config.LoRA(where='attention'))", "unknown field of LoRA in"),
    "unknown field, nearest": ("config.Config(train=config.Train(stps=3))", "did you mean 'steps'?"),
    "wrong type": ("config.Config(train=config.Train(steps='many'))", "mine.train.steps='many' must be of type int"),
    "wrong choice": (
        "config.Config(diffusion=config.Diffusion('cosinus'))",
        "unknown schedule 'cosinus': did you mean 'cosine'?",
    ),
    "no dataclass": ("config.Config(train=3)", "mine.train must hold fields, not 3"),
    "arithmetic": ("1 / 0", "mine.py, line 4: ZeroDivisionError: division by zero"),
    "no JSON": ("config.Config(train=config.Train(steps={1}))", "mine.py: TypeError: Object of type set is not JSON"),
    "bool for int": ("config.Config(train=config.Train(steps=True))", "mine.train.steps=True must be of type int"),
}


@pytest.mark.parametrize("code, message", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_mistakes_in_a_config_file(code, message, tmp_path, capsys):
    text = f"from jaxdiff import config\n\ndef get_config():\n    return {code}\n" if code else ""
    (tmp_path / "mine.py").write_text(text)
    assert message in fails(capsys, "train", tmp_path / "mine.py", "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_get_config_of_another_form_is_refused(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("get_config = 5")
    assert "mine.py must define get_config()" in fails(capsys, "train", path)
    path.write_text("def get_config(a):\n    pass")
    assert "mine.py: TypeError: get_config() missing 1 required positional" in fails(capsys, "train", path)


BROKEN_MODULES = {
    "syntax": (b"def get_config(:", "line 1", "SyntaxError: invalid syntax"),
    "no text": (b"a\0b", "", "SyntaxError: source code string cannot contain null bytes"),
    "an unknown name": (b"x = 1\ny = nothing", "line 2", "NameError: name 'nothing' is not defined"),
    "a missing module": (b"import nothing_else", "line 1", "ModuleNotFoundError: No module named 'nothing_else'"),
    "its own end": (b"import sys\nsys.exit(0)", "line 2", "SystemExit: 0"),
}


@pytest.mark.parametrize("code, line, message", BROKEN_MODULES.values(), ids=BROKEN_MODULES)
def test_code_that_fails_is_one_line_with_its_place(code, line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / f"failing_{len(code)}.py"
    path.write_bytes(code)
    place = f", {line}" * bool(line)
    assert f"error: {path}{place}: {message}" in fails(capsys, "train", path)
    assert f"error: --import {path}{place}: {message}" in fails(capsys, "--import", path, "pretrained")
    place = f" ({path}, {line})" * bool(line)
    assert f"error: --import {path.stem}{place}: {message}" in fails(capsys, "--import", path.stem, "pretrained")
    assert path.stem not in sys.modules


REFUSED_RESUMES = {
    "other network": (["--net.channels", "16"], "--resume cannot change net"),
    "other data": (["--data.source", "digits:judge"], "--resume cannot change --data.source.split from"),
    "other channels, by name": (["--net.channels", "16"], "--resume cannot change net.channels from (8,) to (16,)"),
    "an option of a choice": (["--diffusion.schedule", "cosine"], "cannot change diffusion.schedule from linear to"),
    "other batch": (["--train.batch-size", "8"], "--resume cannot change train.batch_size from 16 to 8"),
    "other seed": (["--train.seed", "1"], "--resume cannot change train.seed from 0 to 1"),
    "other optimizer": (["--optim.method", "muon"], "--resume cannot change optim.method from adamw to muon"),
    "other moments": (["--optim.moment-dtype", "bfloat16"], "--resume cannot change optim.moment_dtype"),
    "other images": (["--data.flip"], "--resume cannot change data"),
    "other process": (["--diffusion.predict", "v"], "--resume cannot change diffusion"),
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


def test_a_run_whose_checkpoints_are_all_corrupt_is_not_started_afresh(run, capsys):
    for step in (2, 4):
        damage(run, step)
    before = contents(run)
    for flag in ("--resume", "--auto-resume"):
        assert "none of the checkpoints" in fails(
            capsys, "train", "digits", "--run-dir", run, flag, "--train.steps", "6"
        )
    assert contents(run) == before


def test_a_checkpoint_of_another_network_names_the_first_array_that_differs(run, capsys):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"channels": [\n      8\n    ]', '"channels": [\n      16\n    ]'))
    before = contents(run)
    said = fails(capsys, "train", "digits", "--run-dir", run, "--resume", "--train.steps", "6")
    assert (
        "step 4" in said
        and "is of another network or optimizer: ema/conv_in/bias is float32[8] there and float32[16]" in said
    )
    assert "ema/conv_in/bias is float32[8] there" in fails(capsys, "sample", run)
    assert contents(run) == before


def test_a_config_that_is_no_json_is_named(run, capsys):
    (run / "config.json").write_text((run / "config.json").read_text()[:100])
    before = contents(run)
    assert "config.json is not JSON" in fails(capsys, "train", "digits", "--run-dir", run, "--resume")
    assert "config.json is not JSON" in fails(capsys, "sample", run)
    assert contents(run) == before


def test_a_file_in_the_place_of_a_run_is_left_alone(tmp_path, capsys):
    (tmp_path / "run").write_text("mine")
    assert "is a file: choose another directory" in fails(capsys, "train", "digits", "--run-dir", tmp_path / "run")
    assert "cannot be made" in fails(capsys, "train", "digits", "--run-dir", tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_that_another_process_is_training_is_left_alone(run, capsys):
    before = contents(run)
    with rundir.locked(run):
        said = fails(capsys, "train", "digits", "--run-dir", run, "--resume", "--train.steps", "6")
    assert "another process is training in" in said and contents(run) == before


@pytest.fixture
def photos(tmp_path):
    """Four pictures of two kinds, one of them broken."""
    rng = np.random.default_rng(0)
    for kind, name in (("cats", "a.png"), ("cats", "b.jpg"), ("dogs", "c.webp"), ("dogs", "d.png")):
        (tmp_path / "photos" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(tmp_path / "photos" / kind / name)
    broken = tmp_path / "photos" / "dogs" / "d.png"
    broken.write_bytes(broken.read_bytes()[:200])
    return tmp_path / "photos"


SMALL = ["--data.image-shape", "28", "28", "3", "--net.out-channels", "3"]


def test_a_broken_picture_is_named_and_stops_the_run_which_can_go_on(photos, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(CONFIG)
    command = [
        "train",
        tmp_path / "mine.py",
        "--data.source",
        f"folder:{photos}",
        *SMALL,
        "--run-dir",
        tmp_path / "run",
    ]
    said = fails(capsys, *command)
    assert "dogs/d.png cannot be read" in said and "by --data.source.skip-broken" in said
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [0]
    Image.new("RGB", (30, 30)).save(photos / "dogs" / "d.png")  # repaired
    cli.main([*map(str, command), "--resume"])
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == [4, 2]


def test_broken_pictures_are_left_out_and_counted_on_request(photos, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(CONFIG)
    args = ["--data.source", f"folder:{photos}", *SMALL, "--data.source.skip-broken", "--net.num-classes", "2"]
    cli.main(["train", str(tmp_path / "mine.py"), *args, "--run-dir", str(tmp_path / "run")])
    assert re.search(r"left out 1 of the 4 images .*d\.png", capsys.readouterr().err)
    shutil.copy(
        photos / "cats" / "a.png", photos / "cats" / "z.png"
    )  # it does not take other pictures for the same ones
    before = contents(tmp_path / "run")
    said = fails(capsys, "train", "digits", "--run-dir", tmp_path / "run", "--resume", "--train.steps", "6")
    assert "had 3 examples when the run began, and now has 4" in said and contents(tmp_path / "run") == before


def test_mistakes_with_folders(photos, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(CONFIG)
    (tmp_path / "empty").mkdir()
    train = ["train", tmp_path / "mine.py", *SMALL, "--run-dir", tmp_path / "run", "--data.source"]
    assert "there is no image in" in fails(capsys, *train, f"folder:{tmp_path / 'empty'}")
    (photos / "cats" / "a.png").rename(photos / "a.png")
    assert "in none of them, such as a.png" in fails(capsys, *train, f"folder:{photos}", "--net.num-classes", "2")
    assert "is a file, not a folder" in fails(capsys, *train, f"folder:{photos / 'a.png'}")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_with_3_and_keeps_what_is_good(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(CONFIG)
    run = tmp_path / "run"
    command = ["train", tmp_path / "mine.py", "--run-dir", run, "--train.steps", "8", "--optim.learning-rate", "1e38"]
    said = fails(capsys, *command, code=3)
    assert re.search(r"is (nan|inf) at step \d", said) and "lower --optim.learning-rate" in said
    kept = checkpoint.restore(run / "checkpoints", initial.state_shapes(tiny_config()))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(kept.tree))
    cli.main(["train", "digits", "--run-dir", str(run), "--resume", "--optim.learning-rate", "0.001"])
    assert checkpoints.steps(run / "checkpoints")[0] == 8


def test_a_full_disk_is_said_and_keeps_what_was_there(run, monkeypatch, capsys):
    before = contents(run / "checkpoints")
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    said = fails(capsys, "train", "digits", "--run-dir", run, "--resume", "--train.steps", "6")
    assert (
        "no space is left for" in said and "the checkpoint of step 4 is kept" in said and "go on with --resume" in said
    )
    assert contents(run / "checkpoints") == before


def test_auto_resume_starts_a_run_goes_on_with_it_and_leaves_it_when_it_is_complete(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(CONFIG)
    command = ["train", str(tmp_path / "mine.py"), "--run-dir", str(tmp_path / "run"), "--auto-resume"]
    for steps in (2, 4):
        cli.main([*command, "--train.steps", str(steps)])
        assert checkpoints.steps(tmp_path / "run" / "checkpoints")[0] == steps
    before = contents(tmp_path / "run")
    cli.main(command)
    assert "is complete: it has made its 4 steps" in capsys.readouterr().out and contents(tmp_path / "run") == before


def test_what_cudnn_attention_trained_is_sampled_without_it(run, capsys):
    """Its parameters are those of any other attention."""
    path = run / "config.json"
    config = configs.read_run(run)
    net = dataclasses.replace(config.net, dtype="bfloat16", attention_kernel="cudnn")
    path.write_text(configs.to_json(dataclasses.replace(config, net=net)))
    cli.main(["sample", str(run), "--out", str(run / "drawn.png")])
    said = capsys.readouterr().err
    assert "attention is 'plain' here, and was 'cudnn' in training" in said and (run / "drawn.png").exists()


def test_a_resume_reads_the_config_of_the_directory_that_it_goes_on_in(run, tmp_path, monkeypatch):
    """However the flag is written: another run under the default name has nothing to say."""
    monkeypatch.chdir(tmp_path)
    other = dataclasses.replace(tiny_config(), name="other", optim=configs.Optim(learning_rate=9.0))
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "config.json").write_text(configs.to_json(other))
    cli.main(["train", "digits", f"--run_dir={run}", "--resume", "--train.steps", "6"])
    assert configs.read_run(run).optim == tiny_config().optim


def test_out_of_memory_is_not_taken_for_a_full_disk(run, monkeypatch, capsys):
    def compiled(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte")

    monkeypatch.setattr(setup, "compiled", compiled)
    said = fails(capsys, "train", "digits", "--run-dir", run, "--resume", "--train.steps", "6")
    assert "out of memory: try --train.accumulate" in said


def test_says_how_to_go_on_after_a_signal(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(CONFIG)
    monkeypatch.setattr(
        setup, "compiled", lambda *args, make=setup.compiled: (signal.raise_signal(signal.SIGTERM), make(*args))[1]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", str(tmp_path / "mine.py"), "--run-dir", str(tmp_path / "run")])
    assert stop.value.code == 128 + signal.SIGTERM
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "stopped after step 2 of 4" in said and f"mine.py --run-dir {tmp_path / 'run'} --resume" in said


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
    default = configs.Sample(sampler=SAMPLERS["ddpm"](variance="beta"))
    sampled = lambda *args: parse(SampleFlags(sample=default), list(args), "jaxdiff sample run").sample
    assert sampled() == sampled("--sampler", "ddpm") == default
    assert sampled("--variance", "posterior").sampler.variance == "posterior"
    assert sampled("--sampler", "ddim", "--eta", "0.5") == configs.Sample(sampler=SAMPLERS["ddim"](eta=0.5))


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
        environment.prepare_jax()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jaxdiff" / "compiled")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


BOX = """╭─ Value error ────────────╮
│ Error parsing --seed: x  │
│ is odd.                  │
│ ──────────────────────── │
│ For help, see --help     │
╰──────────────────────────╯
"""


@pytest.mark.parametrize(
    "box, line",
    [
        (BOX, "Error parsing --seed: x is odd"),
        ("\n Value error\n ------\n  --seed is\n  odd.\n ------\n help\n", "--seed is odd"),
        ("error: --seed is\n  odd.\n", "error: --seed is odd"),  # no box: all words
        ("Value error\n--------\nodd\n", "Value error odd"),
        ("", ""),
    ],
)
def test_a_box_is_said_in_one_line(box, line):
    assert flags.complaint(box) == line


@pytest.mark.parametrize(
    "flag, meant", [("\u2014num", "--num"), ("\u2013-steps", "--steps"), ("\u2212\u2212num", "--num")]
)
def test_a_dash_of_a_word_processor_is_no_prompt(capsys, flag, meant):
    message = fails(capsys, "sample", "captioned", "a red seven", flag, "1")
    assert f"{flag!r} begins with a dash that is not '-': type {meant}" in message
