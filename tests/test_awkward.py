"""What people bring and do: it is right, or refused in one line, and never something else without a word."""

import dataclasses
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath
from helpers import TINY, fails, tiny_config
from PIL import Image

import jaxdiff
from jaxdiff import cli, data, errors
from jaxdiff import config as configs
from jaxdiff import model as models
from jaxdiff.cli import adapters, edit, environment, evaluate, files, sample, train
from jaxdiff.cli.flags import parse
from jaxdiff.config import Config, Data, Sample, TextualInversion
from jaxdiff.config.adaptation import NewTokens
from jaxdiff.data import derived, image_decode, paths
from jaxdiff.files import OUTPUT_MARK, make_output_dir
from jaxdiff.model import checkpoints, runs, shipped
from jaxdiff.model.interop import weights
from jaxdiff.nets.inception import load_inception
from jaxdiff.pipeline import conditions
from jaxdiff.pipeline.edit import attention, inversions, run
from jaxdiff.pipeline.labels import parse_labels
from jaxdiff.text import tokenizer
from jaxdiff.train import base_model, kept_step, setup


def picture(path, mode="RGB", alpha=255):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "RGBA":
        image.putalpha(alpha)
    image.save(path, "JPEG" if str(path).endswith((".jfif", ".jpe")) else None)
    return pixels


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40])
def test_seeds_of_more_bits_than_count_are_refused(seed, capsys):
    with pytest.raises(ValueError, match=f"`seed`={seed} must be from 0 to 4294967295"):
        jaxdiff.generate(jaxdiff.load("digits"), labels=7, seed=seed)
    assert f"--seed={seed} must be from 0 to" in fails(capsys, "sample", "digits", f"--seed={seed}")


def test_a_negative_prompt_is_not_drawn_in_place_of_the_prompt(capsys):
    asked = ["sample", "captioned", "a red seven on blue", "--guidance", 0, "--negative", "a green one"]
    assert "--guidance=0 draws without the prompt, in whole or in part" in fails(capsys, *asked)


def test_an_opaque_alpha_channel_is_no_transparency(tmp_path):
    pixels = picture(tmp_path / "opaque.png", "RGBA")
    picture(tmp_path / "clear.png", "RGBA", alpha=200)
    with Image.open(tmp_path / "opaque.png") as one, Image.open(tmp_path / "clear.png") as other:
        assert not image_decode.is_transparent(one) and image_decode.is_transparent(other)
    np.testing.assert_array_equal(adapters.picture(str(tmp_path / "opaque.png"), (8, 8, 3))[0], pixels)
    with pytest.raises(ValueError, match=r"clear.png is transparent, and a ControlNet sees colours"):
        adapters.picture(str(tmp_path / "clear.png"), (8, 8, 3))


def turned(path):
    """A picture of 4 x 8 pixels that a viewer shows upright, as 8 x 4; gives what is seen."""
    pixels = np.random.default_rng(0).integers(0, 255, (8, 4, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(np.rot90(pixels)).save(path, exif=exif)
    return pixels


def test_a_picture_that_is_turned_is_taken_whole(tmp_path, monkeypatch, caplog):
    pixels, path = turned(tmp_path / "turned.png"), str(tmp_path / "turned.png")
    prompt = sample.image_prompt(sample.SampleFlags(image_prompt=path))
    np.testing.assert_array_equal(prompt.pictures[0], pixels)
    monkeypatch.setattr(logging.getLogger("jaxdiff"), "propagate", True)
    np.testing.assert_array_equal(adapters.picture(path, (8, 4, 3))[0], pixels)
    assert not caplog.text
    adapters.picture(path, (4, 8, 3))
    assert "turned.png is 8x4 and was cropped and resized to 4x8" in caplog.text


def test_a_pipe_in_place_of_a_picture_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.png")
    path = str(tmp_path / "p.png")
    for read in (
        lambda: edit.read_image(path, (8, 8, 3)),
        lambda: adapters.picture(path, (8, 8, 3)),
        lambda: sample.image_prompt(sample.SampleFlags(image_prompt=path)),
        lambda: inversions.load(path, None),
    ):
        with pytest.raises((OSError, ValueError), match="it is a pipe, a socket or a device: save it as a file first"):
            read()


PIPES = {  # file that is a pipe, and what reads it
    "weights": ("m.safetensors", lambda root: jaxdiff.load(f"{root}/m.safetensors")),
    "the config of weights": ("m.safetensors", lambda root: models.load_config(f"{root}/m.safetensors")),
    "a model of no ending": ("m", lambda root: jaxdiff.load(f"{root}/m")),
    "an adapter": ("m.safetensors", lambda root: models.load_adapter(f"{root}/m.safetensors")),
    "an adapter of a base": (
        "m.safetensors",
        lambda root: jaxdiff.with_adapters(jaxdiff.load("captioned"), f"{root}/m.safetensors"),
    ),
    "an IP-Adapter": (
        "m.safetensors",
        lambda root: models.with_ip_adapter(jaxdiff.load("captioned"), f"{root}/m.safetensors", str(root)),
    ),
    "the config of a run": ("config.json", lambda root: jaxdiff.load(str(root))),
    "the index of a pipeline": ("model_index.json", lambda root: jaxdiff.load(str(root))),
    "weights of Flax": ("m.msgpack", lambda root: weights.opened([root / "m.msgpack"]).__enter__()),
    "weights of Inception": ("i.safetensors", lambda root: load_inception(root / "i.safetensors")),
    "a tokenizer": ("tokenizer.json", lambda root: tokenizer.load(root)),
    "the tokenizer of a run": ("tokenizer.json", lambda root: runs.frozen_models(root)),
    "a checkpoint": ("checkpoints/2/rest/_METADATA", lambda root: checkpoints.restore_raw(root / "checkpoints", {})),
    "a compiled step": ("step.bin", lambda root: kept_step.check(root / "step.bin")),
    "a config": ("mine.py", lambda root: configs.load(f"{root}/mine.py")),
    "code to import": ("mine.py", lambda root: cli.import_module(f"{root}/mine.py")),
}


@pytest.mark.parametrize("name, read", PIPES.values(), ids=PIPES)
def test_a_pipe_in_place_of_weights_or_a_config_is_refused_and_not_waited_for(name, read, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises((OSError, ValueError), match="it is a pipe, a socket or a device: save it as a file first"):
        read(epath.Path(tmp_path))


def test_jpegs_by_their_other_endings_are_read(tmp_path):
    for name in ("a.jfif", "b.JPE", "c.jpeg"):
        picture(tmp_path / name.lower())
        shutil.move(tmp_path / name.lower(), tmp_path / name)
    assert len(data.load(f"folder:{tmp_path}", (8, 8, 3))) == 3


def test_a_new_word_behind_the_cut_is_refused_by_what_is_read(tmp_path):
    words = tokenizer.with_new_tokens(tokenizer.train(["a red seven"], 600, 6), ["<star>"])
    for name, caption in (("near", "a <star>"), ("far", "a red seven a red <star>")):
        (tmp_path / name).mkdir()
        picture(tmp_path / name / "0.png")
        (tmp_path / name / "0.txt").write_text(caption)
        config = Config(
            data=Data(f"folder:{tmp_path / name}", (8, 8, 3)),
            adapt=TextualInversion(base="captioned", new=NewTokens(("<star>",))),
        )
        source = data.load(config.data.source, config.data.image_shape)
        if name == "near":
            assert base_model.prompts(config, source, words) == [caption]
        else:
            with pytest.raises(ValueError, match="'<star>' stands behind the 4 tokens that are read of each caption"):
                base_model.prompts(config, source, words)


def test_an_argument_that_is_no_text_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", "captioned", "a \udcff seven"])
    assert stop.value.code == 2 and "is not UTF-8" in capsys.readouterr().err


def jaxdiff_in_a_shell(command, **environment):
    """Runs a line of bash in which $JAXDIFF is the command."""
    environment = os.environ | {"JAXDIFF": f"{sys.executable} -m jaxdiff"} | environment
    return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, errors="replace")


@pytest.mark.parametrize("command", ["train --help", "pretrained", "--help"])
def test_output_that_nobody_reads_ends_without_a_word(command):
    done = jaxdiff_in_a_shell(f"$JAXDIFF {command} | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("command", ["train --help", "pretrained"])
def test_output_that_cannot_be_written_is_named(command):
    done = jaxdiff_in_a_shell(f"$JAXDIFF {command} > /dev/full")
    assert (done.returncode, done.stderr) == (2, "jaxdiff: error: standard output: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_output_that_is_closed_is_as_one_that_nobody_reads(closed, tmp_path):
    done = jaxdiff_in_a_shell(f"$JAXDIFF pretrained {closed}; echo $?; $JAXDIFF pretraine {closed}; echo $?")
    assert [line for line in done.stdout.splitlines() if line.isdecimal()] == ["0", "2"]
    said = ["jaxdiff: error: unknown command 'pretraine': did you mean 'pretrained'?"]
    assert [line.partition(" (")[0] for line in done.stderr.splitlines()] == ([] if "2" in closed else said)


def test_a_bar_is_drawn_into_an_error_output_that_is_closed(tmp_path):
    command = f"$JAXDIFF sample digits --num=1 --steps=1 --out={tmp_path}/a.png >&- 2>&-"
    assert jaxdiff_in_a_shell(command).returncode == 0 and (tmp_path / "a.png").stat().st_size


def test_letters_that_the_terminal_lacks_are_escaped():
    done = jaxdiff_in_a_shell("$JAXDIFF sample --help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "--individual" in done.stdout and not done.stderr


def test_an_argument_that_the_locale_lacks_is_not_called_other_than_utf_8():
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = jaxdiff_in_a_shell("$JAXDIFF sample digits --out=\N{LATIN SMALL LETTER E WITH ACUTE}.png", **plain)
    assert done.returncode == 2 and "is not of the locale's encoding ascii: set PYTHONUTF8=1" in done.stderr


def test_a_changed_bit_of_an_inversion_is_noticed(tmp_path):
    path, model = tmp_path / "i.safetensors", jaxdiff.load("digits")
    image, trajectory = np.zeros([28, 28, 1], np.uint8), np.zeros([2, 1, 28, 28, 1], np.float32)
    inversions.save(path, inversions.Inversion(image, trajectory, np.arange(2), "7"), model)
    content = bytearray(path.read_bytes())
    assert inversions.load(path, model).source == "7"
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"i.safetensors is damaged \(the checksum of .* is not what was written\)"):
        inversions.load(path, model)


def test_an_adapter_is_given_once_by_whatever_name(tmp_path):
    model, star = jaxdiff.load("captioned"), shipped.ADAPTERS / "star.safetensors"
    with pytest.raises(ValueError, match=r"star.safetensors is the adapter star, too: give it once"):
        jaxdiff.with_adapters(model, {"star": 1.0, str(star): 0.5})
    shutil.copy(star, tmp_path / "copy.safetensors")  # the same token
    said = r"copy.safetensors: '<star>' is a token already: give its adapter once, or choose another, such as <star2>"
    with pytest.raises(ValueError, match=said):
        jaxdiff.with_adapters(model, ["star", str(tmp_path / "copy.safetensors")])


def test_without_a_home_nothing_is_kept_and_all_else_works(monkeypatch, caplog):
    updates = {}
    config = SimpleNamespace(jax_compilation_cache_dir=None, update=updates.__setitem__)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setattr(jax, "config", config)
    monkeypatch.setattr(logging.getLogger("jaxdiff"), "propagate", True)
    with caplog.at_level(logging.WARNING, "jaxdiff"):
        environment.prepare_jax()
    assert updates["jax_enable_compilation_cache"] is False and "there is no home directory" in caplog.text


def test_a_directory_that_cannot_be_written_to_is_noticed_before_anything_is_drawn(tmp_path, monkeypatch):
    def read_only(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", read_only)
    with pytest.raises(
        PermissionError, match=r"cannot be written to \(Read-only file system\): choose another directory"
    ):
        files.writable(files.epath.Path(tmp_path / "out.png"), None, False)
    assert str(files.located("gs://bucket/a.png", "out")) == "gs://bucket/a.png"


def outputs(path, **flags):
    return sample.output_paths(sample.SampleFlags(out=str(path), overwrite=True, **flags), files.epath.Path("samples"))


def test_names_that_are_too_long_are_noticed_before_anything_is_drawn(tmp_path):
    assert outputs(tmp_path / ("n" * 238 + ".png"))  # 255 bytes with the ending of a file that is being written
    for name in ("n" * 239 + ".png", "\N{SNOWMAN}" * 80 + ".png", "n" * 300 + ".png"):
        with pytest.raises(ValueError, match=r"is too long for this disk: choose a shorter one"):
            outputs(tmp_path / name)


def test_names_by_default_are_cut(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = sample.SampleFlags(sample=Sample(labels="a/b," * 100))
    name = sample.output_paths(flags, files.epath.Path("samples"))["grid"].name
    assert "_label" + "a-b," * 10 + "_seed0.png" in name
    flags = edit.EditFlags(image="n" * 240 + ".png", prompt="a red seven " * 50)
    assert len(edit.output_paths(flags)["sheet"].name) < 160


def test_a_directory_of_images_is_written_to_again(tmp_path):
    path, directory = tmp_path / "v1.0.png", tmp_path / "v1.0"
    assert outputs(path, individual=True)["individual"] == files.epath.Path(directory)
    directory.mkdir()
    assert outputs(path, individual=True)["individual"] == files.epath.Path(directory)
    with pytest.raises(FileExistsError, match=r"v1.0 is there already: add --overwrite"):
        sample.output_paths(sample.SampleFlags(out=str(path), individual=True), files.epath.Path("samples"))
    directory.rmdir()
    directory.touch()
    with pytest.raises(NotADirectoryError, match=r"v1.0 is a file, and is to be a directory: choose another name"):
        outputs(path, individual=True)


def test_what_is_read_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("k_sheet.png", "mask.png", "edges.png"):
        picture(tmp_path / name)
    Path("link.png").symlink_to("k_sheet.png")
    for given in (
        {"image": "k_sheet.png"},
        {"image": "link.png"},
        {"mask": "./k_sheet.png"},
        {"control": ("k_sheet.png",)},
    ):
        with pytest.raises(
            ValueError, match=r"k_sheet.png is to be read, and would be overwritten: choose another name"
        ):
            edit.output_paths(edit.EditFlags(**given, out="k.png", overwrite=True))
    for given in ({"image_prompt": str(tmp_path / "mask.png")}, {"control": ("edges.png", "mask.png")}):
        with pytest.raises(ValueError, match=r"mask.png is to be read, and would be overwritten: choose another name"):
            outputs("mask.png", **given)


@pytest.mark.parametrize(
    "args",
    [
        ["convert", "m.safetensors", "m.safetensors"],
        ["convert", "link.safetensors", "m.safetensors", "--dtype=float32"],
        ["convert", "star.safetensors", "out.safetensors", "--base", "out.safetensors"],
        ["convert", "folder", "folder/unet/model.safetensors"],
        ["fuse", "star.safetensors", "heart", "--out", "star"],
        ["fuse", "star", "heart", "--base=m.safetensors", "-o=m.safetensors"],
        ["export", "run", "--out=run/base.safetensors"],
        ["export", "./m.safetensors", "--out=m.safetensors"],
        ["eval", "run", "--out=run/config.json"],
        ["edit", "m.safetensors", "--prompt=7", "--image=a.png", "--save-inversion=m.safetensors"],
        ["edit", "captioned", "--prompt=7", "--from-inversion=m.safetensors", "--save-inversion=./m.safetensors"],
        ["edit", "captioned", "--prompt=7", "--lora=star.safetensors:0.5", "--save-inversion=star.safetensors"],
        ["plan", "mine.py", "--save=mine.py"],
    ],
    ids=lambda args: " ".join(args),
)
def test_what_is_read_is_not_written_over_by_other_commands(args, tmp_path, monkeypatch, capsys):
    """The command itself where it is cheap to come so far; else its check of the paths."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(shipped.WEIGHTS / "digits.safetensors", "m.safetensors")
    shutil.copy(shipped.ADAPTERS / "star.safetensors", "star.safetensors")
    Path("link.safetensors").symlink_to("m.safetensors")
    Path("folder/unet").mkdir(parents=True)
    Path("run").mkdir()
    Path("run/config.json").write_text(configs.to_json(tiny_config()))
    Path("mine.py").write_text("from jaxdiff import config\n\ndef get_config():\n    return config.Config()\n")
    for name in ("out.safetensors", "folder/unet/model.safetensors", "run/base.safetensors"):
        Path(name).touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    command, name, *rest = args
    if command == "edit":
        with pytest.raises(ValueError, match="is to be read, and would be overwritten: choose another name"):
            edit.output_paths(parse(edit.EditFlags(), [*rest, "--out=b.png", "--overwrite"], "edit"), name)
    elif command == "eval":
        with pytest.raises(ValueError, match="is to be read, and would be overwritten: choose another name"):
            flags = parse(evaluate.EvalFlags(), [*rest, "--overwrite"], "eval")
            evaluate.report_path(flags, evaluate.Measure(), epath.Path("eval"), name)
    else:
        assert "is to be read, and would be overwritten: choose another name" in fails(capsys, *args, "--overwrite")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert after == before


def test_an_export_into_the_run_may_be_made_again(tmp_path):
    (tmp_path / "config.json").touch()
    files.check_no_input([epath.Path(tmp_path / "digits.safetensors")], [str(tmp_path)])


@pytest.mark.parametrize("name", [".", "..", "../other", "a/../..", "a/..", "/tmp/a"])
def test_a_run_s_name_does_not_lead_out_of_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert f"--name={name} is no directory below runs" in fails(capsys, "train", "digits", "--name", name)
    assert not any(tmp_path.iterdir())
    assert train.where(["--name", "sweep/a"], "tiny") == ("runs/sweep/a", False)


@pytest.mark.parametrize("address, package", [("gs://bucket/run", "'jaxdiff[gcs]'"), ("s3://bucket/run", "s3fs")])
def test_a_bucket_says_what_to_install(address, package, monkeypatch, capsys):
    name = "gcsfs" if address.startswith("gs") else "s3fs"
    monkeypatch.setitem(sys.modules, name, None)
    said = fails(capsys, "sample", address)
    assert said.endswith(
        f"nstall {name} to access {'Google Storage' if name == 'gcsfs' else 'S3'}: pip install {package}"
    )


def test_a_file_in_the_place_of_the_directory_of_output_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("samples", "edits", "eval"):
        Path(name).touch()
    said = "cannot be made \\(it is a file\\): name the file to write by --out"
    with pytest.raises(OSError, match=said):
        sample.output_paths(sample.SampleFlags(), files.epath.Path("samples"))
    with pytest.raises(OSError, match=said):
        edit.output_paths(edit.EditFlags())
    with pytest.raises(OSError, match=said):
        evaluate.report_path(evaluate.EvalFlags(), evaluate.Measure(), files.epath.Path("eval"))


@pytest.mark.parametrize("columns", ["1", "5"])
def test_a_narrow_terminal_has_help(columns):
    """It took for ever: in a process of its own, which can be ended."""
    code = "from jaxdiff.cli.edit import EditFlags, parse; parse(EditFlags(), ['--help'], 'jaxdiff edit x')"
    environment = os.environ | {"COLUMNS": columns}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--early" in done.stdout


def folders(root, *names):
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(root / name / "0.png")
    return data.load(f"folder:{root}", (8, 8, 3))


def test_folders_that_are_numbers_are_in_their_order(tmp_path):
    source = folders(tmp_path, "0", "10", "2", "1")
    assert source.classes == ("0", "1", "2", "10")
    assert [source[i]["label"] for i in range(4)] == [0, 1, 3, 2]  # of the files 0, 1, 10, 2
    assert folders(tmp_path / "more", "a", "10", "2").classes == ("10", "2", "a")


def test_labels_are_matched_by_the_names_that_a_model_has_learned(tmp_path):
    """A folder without the first class has the labels of the others; one with an unknown class is refused."""
    learned = ("blue", "green", "red")
    some = derived.as_learned(folders(tmp_path / "some", "green", "red"), learned, True)
    assert some.classes == learned and [some[i]["label"] for i in range(2)] == [1, 2]
    with pytest.raises(ValueError, match="the class 'pink' is none of those that were learned: blue, green, red"):
        derived.as_learned(folders(tmp_path / "other", "green", "pink"), learned, True)
    old = derived.as_learned(folders(tmp_path / "numbers", "2", "10"), (), True)  # of a run that kept no names
    assert old.classes == ("10", "2") and [old[i]["label"] for i in range(2)] == [0, 1]


def test_a_run_takes_the_names_of_its_source_and_keeps_them(tmp_path):
    source = folders(tmp_path, "blue", "red")
    config = Config(data=Data(f"folder:{tmp_path}", (8, 8, 3)), net=dataclasses.replace(TINY, num_classes=2))
    config, same = setup.with_names(config, source, None)
    assert config.data.classes == ("blue", "red") and same is source
    fewer = folders(tmp_path / "later", "red")
    again, source = setup.with_names(dataclasses.replace(config, data=Data()), fewer, config)
    assert again.data.classes == ("blue", "red") and source[0]["label"] == 1


def test_labels_are_asked_for_by_name(capsys):
    assert parse_labels("red, 0-1,blue", 2, ("blue", "red")) == [1, 0, 1, 0]
    assert parse_labels("10", 3, ("0", "1", "10")) == [2]
    with pytest.raises(ValueError, match=r"`labels` pink must be numbers and ranges.*; the names are blue, red"):
        parse_labels("pink", 2, ("blue", "red"))


def training(tmp_path, source, run, resume=False, steps=2):
    config = tiny_config(batch_size=8, sample_every=0, steps=steps)
    config = dataclasses.replace(config, data=Data(f"folder:{source}", (8, 8, 1)))
    return jaxdiff.fit(config, run=tmp_path / run, resume=resume)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of four photographs, beside the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def test_a_run_goes_on_where_its_photographs_have_moved_and_only_with_the_same(photos, tmp_path):
    training(tmp_path, "photos", "run")
    shutil.move(photos, tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"photos is not there: if it has moved, .* give `data.source`"):
        training(tmp_path, "photos", "run", resume=True, steps=4)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "moved", other)
    Image.new("RGB", (80, 80), "blue").save(other / "2.png")  # of the same name, and another size
    with pytest.raises(ValueError, match="folder:other holds other examples than when the run began"):
        training(tmp_path, "other", "run", resume=True, steps=4)
    assert int(training(tmp_path, tmp_path / "moved", "run", resume=True, steps=4).step) == 4


def test_what_jaxdiff_writes_into_a_folder_of_data_is_no_data(photos, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(photos)
    training(photos, ".", "runs/one")
    make_output_dir("samples")
    Image.new("RGB", (8, 8)).save("samples/a.png")
    shutil.copytree("runs/one", "an old run")
    (photos / "an old run" / OUTPUT_MARK).unlink(missing_ok=True)  # of before it was marked
    Image.new("RGB", (8, 8)).save("an old run/a.png")
    monkeypatch.setattr(logging.getLogger("jaxdiff"), "propagate", True)
    with caplog.at_level(logging.INFO, "jaxdiff"):
        assert len(data.load("folder:.", (8, 8, 1))) == 4
    assert "left out of . what jaxdiff has written there: an old run, runs/one, samples" in caplog.text
    assert len(data.load("folder:samples", (8, 8, 1))) == 1  # which is asked for itself
    assert int(training(photos, ".", "runs/one", resume=True, steps=4).step) == 4


def test_images_are_read_whatever_their_format_and_others_are_named_once(tmp_path, caplog, monkeypatch):
    for name, kind in [("a.bmp", "BMP"), ("b.GIF", "GIF"), ("c.tiff", "TIFF"), ("d.avif", "AVIF"), ("e.png", "JPEG")]:
        Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / name, kind)
    (tmp_path / "f.heic").touch()
    (tmp_path / "g.dng").touch()
    monkeypatch.setattr(logging.getLogger("jaxdiff"), "propagate", True)
    source = data.load(f"folder:{tmp_path}", (8, 8, 3))
    assert [abs(int(one["image"][0, 0, 0]) - 200) < 8 for one in source] == [True] * 5
    assert caplog.text.count("2 files in") == 1 and "such as f.heic" in caplog.text


def test_as_many_images_as_labels_are_asked_for(capsys):
    assert "--num=2 images are too few for 3 --labels" in fails(capsys, "sample", "digits", "--label=1,2,3", "--num=2")


def test_a_word_is_given_once_whatever_its_case():
    assert attention._pairs(["Red=2", "seven=0.5"], "reweight") == [("red", "2"), ("seven", "0.5")]
    with pytest.raises(ValueError, match="`reweight` red is given twice"):
        attention._pairs(["Red=2", "red=3"], "reweight")


@pytest.mark.parametrize(
    "platforms, why", [("cuda", "there is no backend cuda"), ("cpuu", "Unable to initialize backend")]
)
def test_a_platform_that_is_not_there_is_one_line(platforms, why):
    command = [sys.executable, "-m", "jaxdiff", "sample", "digits", "--num=1", "--steps=1", "--out=/nowhere/a.png"]
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": platforms}, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"jax cannot start ({why}" in done.stderr and "see JAX_PLATFORMS" in done.stderr


def test_printed_commands_are_quoted_for_the_shell(tmp_path, capsys):
    run = str(tmp_path / "my run")
    train.report(train.TrainFlags(tiny_config()), run)
    said = capsys.readouterr().out
    assert f"tensorboard --logdir '{run}'" in said and f"jaxdiff sample '{run}'" in said


def test_prepared_data_without_a_home_says_what_to_set(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and an entry in passwd
    with pytest.raises(FileNotFoundError, match="set the environment variable TFDS_DATA_DIR"):
        paths.data_dir()


def test_a_token_that_no_adapter_has_brought_is_named(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("jaxdiff"), "propagate", True)
    base = jaxdiff.load("captioned")
    jaxdiff.condition(jaxdiff.with_adapters(base, "star"), "a <star>")
    assert not caplog.text
    jaxdiff.condition(base, "a <star>")
    assert "<star> is no token of captioned_latent: the adapter that brings it is missing" in caplog.text


def test_weights_of_controls_are_finite():
    model = jaxdiff.with_adapters(jaxdiff.load("captioned"), controlnet="edges")
    control = conditions.ControlInput((np.zeros([1, *model.image_shape], np.uint8),), (float("nan"),))
    with pytest.raises(ValueError, match="`control_scale`=nan must be a finite number"):
        jaxdiff.generate(model, "a red seven", control=control)


def test_data_of_training_is_no_measure_of_a_model(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("jaxdiff"), "propagate", True)
    jaxdiff.evaluate(jaxdiff.load("digits_classifier"), num=8, batch_size=8, source="digits")
    assert "digits_classifier was trained on digits: its numbers on these examples say little" in caplog.text


@pytest.mark.parametrize(
    "args, message",
    [
        (["sample", "captioned", "--num=1", "a red seven"], "'a red seven' belongs to no flag: prompts stand right"),
        (
            ["sample", "captioned", "-a red seven"],
            "'-a red seven' begins as flags do: give such a text behind an equals",
        ),
        (["sample", "captioned", "--negative", "-a dark one"], "'-a dark one' begins as flags do"),
        (
            ["sample", "digits", "--num=3000", "--out=c.png", "--animation=c.webp"],
            "--animation of 18004x604 pixels is too large for a .webp, which has at most 16383 a side",
        ),
        (
            ["sample", "digits", "--steps=5", "--spacing=consistency", "--spacing.end=900"],
            "--spacing.end=900 must be from 0 to 199, below the lowest of 5 levels",
        ),
        (
            ["sample", "digits", "--steps=5", "--spacing=consistency", "--spacing.end=-5"],
            "--spacing.end=-5 must be from 0 to 199",
        ),
        (
            ["sample", "digits", "--steps=1", "--spacing.end=1000"],
            "down to --spacing.end=1000 repeat a level: use a lower",
        ),
        (["sample", "digits", "--steps=5", "--spacing.end=-1"], "--spacing.end=-1 leads outside of the levels 0..1000"),
        (
            ["sample", "digits", "--steps=1", "--spacing.end=900"],
            "the spacing trailing ends at level 900, where images are noisy: set its --spacing.end to 0 or 1",
        ),
        (
            ["eval", "digits", "--metrics=fid", "--sample.steps=1", "--sample.spacing.end=900"],
            "images are noisy: set its --sample.spacing.end to 0 or 1",
        ),
        (["sample", "digits", "--size", "28"], "--size does not take ['28']"),
        (["sample", "s3://bucket/run"], "s3fs"),
        (["sample", "captioned", "a seven", "--lora", "a.png"], "a.png is no adapter: give a .safetensors file"),
        (["sample", "a.png"], "a.png is no model: give a .safetensors file"),
        (["sample", "digits", "--out", "b.png"], "b.png is a directory: choose another name"),
        (["sample", "digits", "--out=~/nowhere/a.png"], "there is no directory {home}/nowhere: make it first"),
        (["eval", "digits", "--metrics="], "unknown metric ''"),
        (
            ["eval", "digits", "--source=captioned"],
            "the images of captioned are 32x32x3, and the model's 28x28x1: give a --source of that",
        ),
        (["sample", "captioned", "a seven", "--lora="], "each of --lora must be a name or a path, not ''"),
        (
            ["convert", "star", "st.bin"],
            "st.bin must end in .safetensors: a LoRA or new token is written as such a file",
        ),
        (["convert", "star", "st"], "st must end in .safetensors"),
        (["plan", "digits", "--price=-1"], "--price=-1.0 must be at least 0 and finite"),
        (["plan", "digits", "--price=nan"], "--price=nan must be at least 0 and finite"),
        (["plan", "digits", "--sweep=train.batch_size=8,a"], "--sweep=train.batch_size=8,a: 'a' is not a whole number"),
        (["plan", "digits", "--sweep=optim.b2=a"], "--sweep=optim.b2=a: 'a' is not a number"),
        (
            ["train", "captioned_few_steps", "--base", "digits"],
            "--adapt.base digits takes no texts, and --sample.prompts are some",
        ),
        (
            ["train", "captioned_lora", "--base=digits", "--sample.prompts"],
            "the network of --adapt.base digits takes the amounts of --data.augment, with which it was trained",
        ),
        (["eval", "digits", "--seed=-1"], "--seed=-1 must be from 0 to"),
        (["fuse", "star", "heart", "-o=c.safetensors", "--seed=-1"], "--seed=-1 must be from 0 to"),
        (["train", "folder", "--data.source=folder:nowhere"], "the folder nowhere is not there"),
        (["train", "folder", "--data.source=b.png"], "did you mean 'folder:b.png'?"),
    ],
)
def test_what_cannot_be_is_one_line(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").mkdir()
    assert message.format(home=Path.home()) in fails(capsys, *args)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.png", "b.png", "samples"}


def test_numbers_are_names_where_all_names_are():
    names = tuple(str(i) for i in range(1, 11))
    assert parse_labels("1-3", 10, names) == parse_labels("1,2,3", 10, names) == [0, 1, 2]
    for wrong in ("0", "9-11", "3-1"):
        with pytest.raises(ValueError, match="must be of 1, 2, 3"):
            parse_labels(wrong, 10, names)
    digits = jaxdiff.load("digits")
    named = digits.replace(
        config=dataclasses.replace(digits.config, data=dataclasses.replace(digits.config.data, classes=names))
    )
    assert run.as_label(named, "10") == "9" and run.as_label(digits, "7") == "7"
    with pytest.raises(ValueError, match="has no class '0'"):
        run.as_label(named, "0")


def test_images_of_unknown_range_are_refused(tmp_path):
    for pixels in (np.full([8, 8], 0.5, np.float32), np.full([8, 8], 70_000, np.int32)):
        Image.fromarray(pixels).save(tmp_path / "a.tiff")
        with pytest.raises(ValueError, match="save it with 8 or 16 bits"):
            image_decode.read_image(files.located(str(tmp_path / "a.tiff"), "image"), (8, 8, 1))


@pytest.mark.parametrize(
    "name, known, near",
    [
        ("DDIM", ["unipc", "ddim"], "ddim"),
        ("--batch_size", ["--batch-size", "--seed"], "--batch-size"),
        ("FID", ["fid", "kid", "precision_recall"], "fid"),
        ("--fid", ["pretrained", "train"], None),
        ("star", ["captioned", "digits_classifier"], None),
        ("", ["a"], None),
    ],
)
def test_only_what_is_near_is_proposed(name, known, near):
    assert errors.nearest(name, known) == near


@pytest.mark.parametrize(
    "args, message",
    [
        (["eval", "digits", "--metrics=FID"], "unknown metric 'FID': did you mean 'fid'?"),
        (["sample", "digits", "--sampler=DDIM"], "unknown sampler 'DDIM': did you mean 'ddim'?"),
        (["sample", "star"], "star is an adapter: give the model captioned, and star as --lora"),
        (["sample", "edges"], "edges is an adapter: give the model captioned, and edges as --controlnet"),
        (["sample", "captioned", "a seven", "--lora=digits"], "digits is a model, and no adapter"),
        (["data", "in.png"], "unknown source 'in.png': did you mean 'folder:.'?"),
        (["data", "a/b.TAR"], "did you mean 'shards:a/b.TAR'?"),
        (["data", "photos.zip"], "photos.zip is packed: unpack it first, and give folder:PATH"),
        (["data", "zzzzz"], "unknown source 'zzzzz' (one of"),
        (["--fid"], "--fid stands in front of the command"),
        (["FID"], "unknown command 'FID' (one of"),
        (["train", "digits", "--steps=3"], "unknown flag --steps: did you mean --sample.steps or --train.steps?"),
        (["eval", "digits", "--features=a"], "unknown flag --features ("),
        (["sample", "digits", "--STEPS=3"], "unknown flag --STEPS: did you mean --steps?"),
    ],
)
def test_unknown_names_are_answered_by_what_is_near(args, message, capsys):
    assert message in fails(capsys, *args)


@pytest.mark.parametrize("flag", ["--version", "-V", "version"])
def test_the_version_is_printed(flag, capsys):
    cli.main([flag])
    assert capsys.readouterr().out == f"jaxdiff {jaxdiff.__version__}\n"
