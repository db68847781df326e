"""`jaxdiff edit`, on tiny models whose weights are random."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from helpers import fails, tiny_config
from PIL import Image
from tiny import tiny_latent, write_ends

from jaxdiff import cli
from jaxdiff import model as models
from jaxdiff.cli.edit import EditFlags, output_paths
from jaxdiff.model import loading
from jaxdiff.model.params import param_shapes
from jaxdiff.pipeline import ControlInput
from jaxdiff.pipeline.edit import EDIT_METHODS, inverted
from jaxdiff.pipeline.edit.base import known_latents
from jaxdiff.pipeline.edit.inversions import Inversion, control_checksum

pytestmark = pytest.mark.usefixtures("one_device")

SOURCE, TARGET = "a red seven on a blue background", "a green seven on a blue background"
ORIGIN = models.Origin("tiny", 0, "EMA", "noise")


def random_model(config, seed=0, size=0.2, **submodels):
    """A model whose every weight is random."""
    values = np.random.default_rng(seed)
    shapes = param_shapes(config)
    params = jax.tree.map(lambda leaf: size * values.standard_normal(leaf.shape).astype(np.float32), shapes)
    return models.Model(config=config, params=params, origin=ORIGIN, submodels=submodels)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of models and images."""
    folder, rng = tmp_path_factory.mktemp("editing"), np.random.default_rng(0)
    ends = [models.load(str(path)) for path in write_ends(folder)]
    parts = dict(zip(("codec", "text_encoder"), ends))
    pixels = tiny_config()
    pixels = dataclasses.replace(pixels, net=dataclasses.replace(pixels.net, num_classes=3, vector_dim=2))
    longer = dataclasses.replace(pixels, diffusion=dataclasses.replace(pixels.diffusion, schedule="cosine"))
    bare = tiny_config()
    made = {
        "painter": random_model(tiny_latent("vae.safetensors", "clip.safetensors"), size=1.5, **parts),
        "pixels": random_model(pixels),
    }
    made |= {"other": random_model(pixels, 1), "cosine": random_model(longer), "bare": random_model(bare)}
    for name, model in made.items():
        models.write(folder / f"{name}.safetensors", model, "float32")
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "photo.png")
    Image.fromarray(rng.integers(0, 256, (32, 32, 4), np.uint8)).save(folder / "clear.png")
    Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(folder / "digit.png")
    for name, side in (("mask", 28), ("photo_mask", 32)):
        half = np.zeros([side, side], np.uint8)
        half[:, side // 2 :] = 255
        Image.fromarray(half).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def run(place, monkeypatch, tmp_path, capsys):
    """Runs `jaxdiff edit MODEL ...` in the folder of models; gives the files that it says it wrote."""
    monkeypatch.chdir(place)

    def edit(model, *args):
        cli.main(
            ["edit", f"{model}.safetensors", *map(str, args), "--out", str(tmp_path / "edited.png"), "--overwrite"]
        )
        said = dict(line.split() for line in capsys.readouterr().out.splitlines())
        assert set(said) >= {"edited", "sheet"}
        return {what: np.asarray(Image.open(path)) for what, path in said.items() if path.endswith(".png")}

    return edit


PAINTED = ("--source", SOURCE, "--prompt", TARGET, "--steps", 3)


@pytest.mark.parametrize("method", ["null-text", "negative-prompt", "direct"])
def test_a_photograph_is_edited_and_its_inversion_kept(run, tmp_path, method):
    """The kept one gives the same bits, and another prompt needs no photograph."""
    kept = tmp_path / "kept.safetensors"
    found = run("painter", "--image", "photo.png", "--method", method, *PAINTED, "--save-inversion", kept)
    assert found["edited"].shape == (32, 32, 3) and found["sheet"].shape[1] == 4 * 132 + 4
    panel = found["edited"].repeat(4, 0).repeat(4, 1)  # the third of the first row, below its title
    column = found["sheet"][:, 4 + 2 * 132 :][:, :128]
    assert any(np.array_equal(column[top : top + 128], panel) for top in range(60))
    again = run("painter", "--method", method, "--prompt", TARGET, "--from-inversion", kept)
    np.testing.assert_array_equal(again["edited"], found["edited"])
    other = run("painter", "--method", method, "--prompt", "a small red seven", "--from-inversion", kept)
    assert (other["edited"] != found["edited"]).any()


def test_other_models_are_refused_an_inversion(run, refused, tmp_path):
    kept = tmp_path / "kept.safetensors"
    run("painter", "--image", "photo.png", *PAINTED, "--save-inversion", kept)
    again = ("--prompt", TARGET, "--from-inversion", kept)
    assert "is an inversion by another model (tiny_latent)" in refused("pixels", "--prompt", 1, *again[2:])
    assert "--source is not for --from-inversion" in refused("painter", *again, "--source", SOURCE)
    assert "--steps is not for --from-inversion" in refused("painter", *again, "--steps", 5)
    kept.write_bytes(kept.read_bytes()[:-10])
    assert "is not an inversion" in refused("painter", *again)
    assert "is not an inversion" in refused("painter", *again[:3], "painter.safetensors")


def test_an_inversion_is_gone_on_with(run, refused, tmp_path):
    """Guidance is that of the file; another looks for its nulls, which can be kept in turn."""
    kept, more = tmp_path / "kept.safetensors", tmp_path / "more.safetensors"
    photo = ("--image", "photo.png", *PAINTED)
    run("painter", *photo, "--method", "direct", "--save-inversion", kept)
    found = run("painter", *photo, "--guidance", 3, "--early", 5)["edited"]
    again = ("--prompt", TARGET, "--from-inversion", kept, "--save-inversion", more)
    np.testing.assert_array_equal(run("painter", *again, "--guidance", 3, "--early", 5)["edited"], found)
    again = ("--prompt", TARGET, "--from-inversion", more)
    np.testing.assert_array_equal(run("painter", *again)["edited"], found)
    assert "--inversion-rounds is not for --from-inversion" in refused("painter", *again, "--inversion-rounds", 2)
    other = run("painter", *again, "--guidance", 3)["edited"]
    np.testing.assert_array_equal(run("painter", *photo, "--guidance", 3)["edited"], other)
    assert (other != found).any()


def test_options_that_are_not_given_are_those_of_the_inversion():
    made = Inversion(
        None, None, None, "", None, {"inner_steps": 3, "learning_rate": 0.5, "guidance": 2.0, "early": 2.0}
    )
    null_text = functools.partial(EDIT_METHODS["null-text"], inversion_rounds=3)
    given = EDIT_METHODS["null-text"]
    assert given().completed(made) == null_text(inner_steps=3, learning_rate=0.5)
    assert given(inner_steps=7).completed(made) == null_text(inner_steps=7, learning_rate=0.5)
    assert given(inversion_rounds=3).completed(None) == null_text(inner_steps=10, learning_rate=0.01)


def test_an_inversion_is_kept_before_the_way_back(run, monkeypatch, tmp_path):
    """So that a way back that ends with an error has not lost it."""
    monkeypatch.setattr(inverted, "sample_pair", lambda *args: (_ for _ in ()).throw(ValueError("no way back")))
    kept = tmp_path / "kept.safetensors"
    with pytest.raises(SystemExit):
        run("painter", "--image", "photo.png", "--method", "direct", *PAINTED, "--save-inversion", kept)
    assert kept.exists()


def test_an_inversion_is_of_its_control_pictures():
    one, other = (ControlInput((np.full([1, 8, 8, 3], value, np.uint8),)) for value in (0, 255))
    sums = {control_checksum(given) for given in (None, one, other, one._replace(scales=(0.5,)))}
    assert len(sums) == 4 and control_checksum(None) == "" and control_checksum(one) == control_checksum(one)


def test_each_flag_does_something(run):
    """Beside the same without it; --early of null-text is tested above."""
    photo, drawn = ("--image", "photo.png", *PAINTED), ("--method", "p2p", *PAINTED)
    hole = ("--image", "digit.png", "--mask", "mask.png", "--method", "inpaint", "--prompt", 1, "--steps", 3)
    cases = {
        ("painter", photo): [("--guidance", 4), ("--inner-steps", 3), ("--learning-rate", 0.1), ("--inversion-rounds", 0)],
        ("painter", drawn): [
            ("--seed", 1), ("--guidance", 4), ("--early", 1), ("--cross-attention", 1), ("--cross-attention", 0.5, 1),
            ("--self-attention", 0), ("--self-attention", 0.4, 1), ("--alignment", "refine"),
            ("--word-window", "green=1"), ("--word-window", "green=0.4:1"), ("--reweight", "green=3"),
            ("--source-share", "green=0.2"), ("--blend", "seven"), ("--eta", 1), ("--sampler", "ddpm"),
        ],
        ("pixels", hole): [("--seed", 1), ("--guidance", 4), ("--rounds", 1), ("--eta", 1)],
        ("pixels", (*hole[:2], *hole[4:], "--method", "sdedit")): [
            ("--early", 9), ("--strength", 0.4), ("--sampler", "ddpm"),
        ],
    }  # fmt: skip
    for (model, args), flags in cases.items():
        plain = run(model, *args)["edited"]
        for flag in flags:
            assert (run(model, *args, *flag)["edited"] != plain).any(), flag


def test_what_nothing_is_said_of(run, place):
    """A model that draws neither texts nor labels, and those that need not be told."""
    digit = np.asarray(Image.open(place / "digit.png"))
    for model in ("bare", "pixels"):
        args = ("--image", "digit.png", "--steps", 3)
        masked = ("sdedit", "--mask", "mask.png"), ("inpaint", "--mask", "mask.png")
        for how in (("sdedit",), *masked, ("ddib", "--to", "other.safetensors")):
            found = run(model, *args, "--method", *how)["edited"]
            assert (found != digit).any()
            if "--mask" in how:
                np.testing.assert_array_equal(found[:, :14], digit[:, :14])
    told = run("pixels", *args, "--method", "sdedit", "--prompt", 1)["edited"]
    assert (told != run("pixels", *args, "--method", "sdedit")["edited"]).any()


def test_strength_0_keeps_the_image_and_more_does_not(run, place):
    digit, args = (
        np.asarray(Image.open(place / "digit.png")),
        ("--method", "sdedit", "--image", "digit.png", "--steps", 3),
    )
    np.testing.assert_array_equal(run("pixels", *args, "--prompt", 1, "--strength", 0)["edited"], digit)
    assert (run("pixels", *args, "--prompt", 1, "--strength", 1)["edited"] != digit).any()


@pytest.mark.parametrize("model, image, mask, prompt", [
    ("pixels", "digit", "mask", 1), ("painter", "photo", "photo_mask", TARGET)
])  # fmt: skip
def test_what_the_mask_keeps_is_kept_exactly(run, place, model, image, mask, prompt):
    args = ("--method", "inpaint", "--image", f"{image}.png", "--mask", f"{mask}.png", "--steps", 3, "--rounds", 2)
    before, after = np.array(Image.open(place / f"{image}.png")), run(model, *args, "--prompt", prompt)["edited"]
    half = before.shape[1] // 2
    np.testing.assert_array_equal(after[:, :half], before[:, :half])
    assert (after[:, half:] != before[:, half:]).any()
    before[:, :half] = 255 - before[:, :half]
    Image.fromarray(before).save(place / "other.png")
    other = run(model, "--method", "inpaint", "--image", "other.png", *args[4:], "--prompt", prompt)["edited"]
    assert (other[:, half:] != after[:, half:]).any()  # what is drawn goes with what is kept


def test_labels_lead_from_one_model_to_another(run):
    args = ("--image", "digit.png", "--source", 0, "--steps", 4, "--prompt", 1)
    found = run("pixels", "--method", "ddib", *args, "--to", "other.safetensors")
    assert (run("pixels", "--method", "ddib", *args)["edited"] != found["edited"]).any()
    assert run("pixels", "--method", "null-text", *args)["sheet"].shape[0] < 200  # one row: there are no words


def test_latents_are_kept_where_all_of_their_pixels_are():
    known = np.ones([4, 4, 1], bool)
    known[0, 0] = False
    assert known_latents(known, (2, 2, 6))[..., 0].tolist() == [[False, True], [True, True]]


LOADED = functools.cache(loading.load)  # of models that no test changes


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """Runs `jaxdiff edit MODEL ...`, which must fail; gives its one line."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(loading, "load", LOADED)
    return lambda model, *args: fails(capsys, "edit", f"{model}.safetensors", *args)


PHOTO = ("--image", "photo.png", "--steps", 2)
MISTAKES = {
    "as many words": (
        ("painter", *PHOTO, "--source", SOURCE, "--prompt", "a seven", "--alignment", "replace"),
        "as many",
    ),
    "no word in common": (("painter", *PHOTO, "--source", "red", "--prompt", "a blue one"), "no word in common"),
    "word to weigh": (("painter", *PHOTO, *PAINTED[:4], "--reweight", "purple=2"), "does not contain 'purple'"),
    "weight": (
        ("painter", *PHOTO, *PAINTED[:4], "--reweight", "green"),
        "--reweight green must be followed by = and a number",
    ),
    "window": (
        ("painter", *PHOTO, *PAINTED[:4], "--word-window", "green=0.1:0.2:0.3"),
        "--word-window green takes the share of the way",
    ),
    "windows": (("painter", *PHOTO, *PAINTED[:4], "--self-attention", 0.8, 0.2), "in this order"),
    "weight that is none": (("painter", *PHOTO, *PAINTED[:4], "--reweight", "green=nan"), "and a number"),
    "share of a word": (
        ("painter", *PHOTO, *PAINTED[:4], "--source-share", "green=2"),
        "of 'green' must lie in",
    ),
    "guidance that is none": (("painter", *PHOTO, *PAINTED[:4], "--guidance", "nan"), "must be at least 0 and finite"),
    "rate": (("painter", *PHOTO, *PAINTED[:4], "--learning-rate", "-1"), "--learning-rate=-1.0 must be finite and at"),
    "nothing to look for": (
        ("painter", *PHOTO, *PAINTED[:4], "--guidance", 1),
        "at --guidance=1 null-text inversion has nothing",
    ),
    "mask of less than a latent": (
        ("painter", *PHOTO, "--method", "inpaint", "--mask", "line.png"),
        "keeps no whole latent",
    ),
    "no prompt": (("painter", *PHOTO, "--source", SOURCE), "needs --prompt"),
    "bridge to itself": (("bare", "--image", "digit.png", "--method", "ddib"), "needs --to or --prompt"),
    "guidance to nothing": (
        ("pixels", "--image", "digit.png", "--method", "sdedit", "--guidance", 3),
        "--guidance needs --prompt",
    ),
    "word to blend": (("painter", *PHOTO, *PAINTED[:4], "--blend", "purple"), "--blend purple is in neither"),
    "share": (("painter", *PHOTO, *PAINTED[:4], "--cross-attention", 2), "in [0, 1] of the way"),
    "size": (("painter", "--image", "digit.png", *PAINTED), "28x28"),
    "alpha": (("painter", "--image", "clear.png", *PAINTED), "save it without alpha"),
    "no image": (("painter", "--image", "painter.safetensors", *PAINTED), "cannot be read"),
    "missing image": (("painter", *PAINTED), "needs --image"),
    "image that is not there": (("painter", "--image", "gone.png", *PAINTED), "gone.png"),
    "other method's flag": (
        ("painter", *PHOTO, *PAINTED[:4], "--strength", 0.5),
        "--strength is an option of --method sdedit",
    ),
    "image to p2p": (("painter", *PHOTO, *PAINTED[:4], "--method", "p2p"), "--image is not for --method p2p"),
    "empty prompt": (("painter", *PHOTO, "--source", SOURCE, "--prompt", " "), "must say something"),
    "long prompt": (("painter", *PHOTO, "--source", SOURCE, "--prompt", "red " * 40), "is too long"),
    "p2p of labels": (("pixels", "--source", 0, "--prompt", 1, "--method", "p2p"), "needs a model with a text encoder"),
    "label": (("pixels", "--image", "digit.png", "--source", 0, "--prompt", "seven"), "must be one of 0..2"),
    "words of labels": (
        ("pixels", "--image", "digit.png", "--source", 0, "--prompt", 1, "--blend", "a"),
        "--blend needs a model with a text encoder",
    ),
    "neither": (("bare", "--image", "digit.png", "--source", 0, "--prompt", 1), "takes neither texts nor labels"),
    "schedules": (
        (
            "pixels",
            "--image",
            "digit.png",
            "--source",
            0,
            "--prompt",
            1,
            "--method",
            "ddib",
            "--to",
            "cosine.safetensors",
        ),
        "must have one noise schedule",
    ),
    "mask of another size": (
        ("pixels", "--image", "digit.png", "--prompt", 1, "--method", "inpaint", "--mask", "photo_mask.png"),
        "32x32",
    ),
    "mask of nothing": (
        ("pixels", "--image", "digit.png", "--prompt", 1, "--method", "inpaint", "--mask", "black.png"),
        "must be bright where",
    ),
    "strength": (
        ("pixels", "--image", "digit.png", "--prompt", 1, "--method", "sdedit", "--strength", 2),
        "must lie in [0, 1]",
    ),
    "steps": (("painter", "--image", "photo.png", *PAINTED[:4], "--steps", 0), "--steps=0 must be at least 1"),
    "classifier": (("vae", *PHOTO, *PAINTED[:4]), "is not a denoiser"),
}


@pytest.mark.parametrize("args, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(args, message, place, refused):
    Image.fromarray(np.zeros([28, 28], np.uint8)).save(place / "black.png")
    line = np.full([32, 32], 255, np.uint8)
    line[:, 5] = 0
    Image.fromarray(line).save(place / "line.png")
    assert message in refused(*args)


def test_nothing_is_overwritten(place, refused):
    (place / "there.png").write_bytes(b"mine")
    assert "is there already" in refused("painter", *PHOTO, *PAINTED[:4], "--out", "there.png")
    assert (place / "there.png").read_bytes() == b"mine"
    (place / "kept.safetensors").write_bytes(b"mine")
    assert "is there already" in refused("painter", *PHOTO, *PAINTED[:4], "--save-inversion", "kept.safetensors")
    assert (place / "kept.safetensors").read_bytes() == b"mine"
    (place / "edits").mkdir(exist_ok=True)
    (place / "edits" / "photo_sdedit_sheet.png").write_bytes(b"mine")
    paths = output_paths(EditFlags(method=EDIT_METHODS.choice("sdedit"), image=place / "photo.png"))
    assert {what: path.name for what, path in paths.items()} == {
        "edited": "photo_sdedit_2.png", "sheet": "photo_sdedit_2_sheet.png"
    }  # fmt: skip


def test_every_argument_of_a_method_is_a_flag():
    names = {field.name for field in dataclasses.fields(EditFlags)} | {"inversion"}
    for method in EDIT_METHODS.values():
        assert {*method.needs, *method.takes} <= names
        assert not {field.name for field in dataclasses.fields(method)} & names
