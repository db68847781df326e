"""Configs as JSON: every choice comes back as it was, and mistakes are answered in one line."""

import dataclasses
import json
import math
import typing

import pytest

from jaxdiff import config as configs
from jaxdiff.cli.choices import places
from jaxdiff.config import Config, NewTokens, Prior
from jaxdiff.nets.clip_config import CLIPConfig, TextConfig, VisionConfig

PLACES = {place.flag.removeprefix("--"): place.value.registry for place in places(Config())}
EVERY = [(where, kind) for where, registry in PLACES.items() for kind in registry]
every = pytest.mark.parametrize("where, kind", EVERY, ids=[f"{where}-{kind}" for where, kind in EVERY])


def with_choice(where, choice):
    """The default config with a choice at a place such as "sample.sampler"."""
    section, _, field = where.rpartition(".")
    if not section:
        return dataclasses.replace(Config(), **{field: choice})
    return dataclasses.replace(
        Config(), **{section: dataclasses.replace(getattr(Config(), section), **{field: choice})}
    )


def back(config):
    return configs.from_json(configs.to_json(config))


def test_choices_stand_where_they_are_expected():
    assert set(PLACES) >= {"data.source", "net", "diffusion.schedule", "diffusion.weighting", "diffusion.levels", "adapt",
                           "sample.sampler", "sample.spacing"}  # fmt: skip
    assert all(registry for registry in PLACES.values())


@every
def test_a_choice_comes_back(where, kind):
    config = with_choice(where, PLACES[where][kind]())
    assert back(config) == config


@every
def test_a_choice_by_name_alone(where, kind):
    """As people write it: "sampler": "heun"."""
    config, values = with_choice(where, PLACES[where][kind]()), configs.to_values(Config())
    section, _, field = where.rpartition(".")
    (values[section] if section else values)[field] = kind
    assert configs.from_json(json.dumps(values)) == config


def other(value, hint):
    """Another value of an option."""
    if typing.get_origin(hint) is typing.Literal:
        return next(each for each in typing.get_args(hint) if each != value)
    if isinstance(value, NewTokens):
        return NewTokens(("<star>",), ("seven",))
    if isinstance(value, Prior):
        return Prior(("a dog",), "folder:dogs", 3, 0.5)
    if value is None:
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return "edges" if str in kinds else 3
    if value == math.inf:
        return 1.0
    return {bool: lambda: not value, str: lambda: f"{value}x", tuple: lambda: (*value, *value) or ("a dog",)}.get(
        type(value), lambda: value + 1
    )()


OPTIONS = [
    (where, kind, field.name)
    for where, kind in EVERY
    if where != "net"
    for field in dataclasses.fields(PLACES[where][kind])
]


@pytest.mark.parametrize("where, kind, option", OPTIONS, ids=["-".join(option) for option in OPTIONS])
def test_an_option_comes_back(where, kind, option):
    cls = PLACES[where][kind]
    changed = other(getattr(cls(), option), typing.get_type_hints(cls)[option])
    config = with_choice(where, cls(**{option: changed}))
    assert config != with_choice(where, cls())
    assert back(config) == config


def test_networks_with_other_networks_in_them_come_back():
    net = CLIPConfig(TextConfig(width=64, heads=4), VisionConfig(width=64, heads=4, stem=(32, 64), patch=4), 16)
    assert back(dataclasses.replace(Config(), net=net)).net == net


def one_line(values, message):
    with pytest.raises(ValueError, match=message) as error:
        configs.from_json(json.dumps(values))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", PLACES)
def test_unknown_kinds_and_options(where):
    values, (section, _, field) = configs.to_values(Config()), where.rpartition(".")
    inner = values[section] if section else values
    for wrong in ("nonsense", {"kind": "nonsense"}):
        inner[field] = wrong
        one_line(values, rf"^config\.{where}: unknown .* 'nonsense'.* \(one of ")
    for wrong in ({"eta": 1}, 3, None, ["heun"], {"kind": 3}):
        inner[field] = wrong
        one_line(values, rf'^config\.{where} must name its "kind", one of ')
    inner[field] = {"kind": next(iter(PLACES[where])), "nonsense": 1}
    one_line(values, rf"^unknown field of config\.{where}: 'nonsense'")


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("trian", {}, "unknown field of config: 'trian': did you mean 'train'"),
        ("train", 3, "config.train must hold fields, not 3"),
        ("train.stepz", 3, "unknown field of config.train: 'stepz': did you mean 'steps'"),
        ("train.steps", "3", "config.train.steps='3' must be of type int"),
        ("train.steps", True, "config.train.steps=True must be of type int"),
        ("diffusion.predict", "noise", "config.diffusion.predict='noise' must be of type Literal"),
        (
            "sample.sampler",
            {"kind": "heun", "churn": "much"},
            "config.sample.sampler.churn='much' must be of type float",
        ),
        (
            "adapt",
            {"kind": "lora", "new": {"token": []}},
            "unknown field of config.adapt.new: 'token': did you mean 'tok",
        ),
        ("adapt", {"kind": "none", "base": "digits"}, "unknown field of config.adapt: 'base': there is none"),
        (
            "adapt",
            {"kind": "controlnet", "condition": "edgse"},
            "config.adapt: unknown .* 'edgse': did you mean 'edges'",
        ),
        ("net", {"kind": "unet", "groups": 0}, "config.net: "),
        ("net", {"kind": "clip", "text": {"kind": "unet"}}, "config.net.text.* must be of type TextConfig"),
    ],
)
def test_wrong_fields_and_values(path, value, message):
    values, (section, _, field) = configs.to_values(Config()), path.rpartition(".")
    (values[section] if section else values)[field] = value
    one_line(values, f"^{message}")


@pytest.mark.parametrize("text", ["[]", "3", '"digits"', "null", '{"net": []}'])
def test_json_that_is_no_config(text):
    with pytest.raises(ValueError, match=r"^config(\.net)? must ") as error:
        configs.from_json(text)
    assert "\n" not in str(error.value)
