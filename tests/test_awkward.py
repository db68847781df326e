"""What people bring and do: it is right, or refused in one line, and never something else without a word."""

import dataclasses
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import TINY, fails
from PIL import Image

import jaxdiff
from jaxdiff import cli, data
from jaxdiff.cli import adapters, files
from jaxdiff.config import Config, Data, TextualInversion
from jaxdiff.config.adaptation import NewTokens
from jaxdiff.data import derived, image_decode
from jaxdiff.pipeline import conditions
from jaxdiff.text import tokenizer
from jaxdiff.train import base_model, setup


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
    assert "--guidance=0 draws without the prompt" in fails(capsys, *asked)


def test_an_opaque_alpha_channel_is_no_transparency(tmp_path):
    pixels = picture(tmp_path / "opaque.png", "RGBA")
    picture(tmp_path / "clear.png", "RGBA", alpha=200)
    with Image.open(tmp_path / "opaque.png") as one, Image.open(tmp_path / "clear.png") as other:
        assert not image_decode.is_transparent(one) and image_decode.is_transparent(other)
    np.testing.assert_array_equal(adapters.picture(str(tmp_path / "opaque.png"), (8, 8, 3))[0], pixels)
    with pytest.raises(ValueError, match=r"clear.png is transparent, and a ControlNet sees colours"):
        adapters.picture(str(tmp_path / "clear.png"), (8, 8, 3))


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


def test_without_a_home_nothing_is_kept_and_all_else_works(monkeypatch, caplog):
    updates = {}
    config = SimpleNamespace(jax_compilation_cache_dir=None, update=updates.__setitem__)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setattr(jax, "config", config)
    monkeypatch.setattr(logging.getLogger("jaxdiff"), "propagate", True)
    with caplog.at_level(logging.WARNING, "jaxdiff"):
        cli.prepare_jax()
    assert "jax_compilation_cache_dir" not in updates and "there is no home directory" in caplog.text


def test_a_directory_that_cannot_be_written_to_is_noticed_before_anything_is_drawn(tmp_path, monkeypatch):
    def read_only(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", read_only)
    with pytest.raises(PermissionError, match="cannot be written to .Read-only file system.: choose another directory"):
        files.writable(files.epath.Path(tmp_path / "out.png"), None, False)


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
    assert conditions.parse_labels("red, 0-1,blue", 2, ("blue", "red")) == [1, 0, 1, 0]
    assert conditions.parse_labels("10", 3, ("0", "1", "10")) == [2]
    with pytest.raises(ValueError, match=r"`labels` pink must be numbers and ranges.*; the names are blue, red"):
        conditions.parse_labels("pink", 2, ("blue", "red"))
