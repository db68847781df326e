"""Classes by their descriptions, and how well images go with texts, by the CLIP that ships."""

import numpy as np
import pytest

from jaxdiff import data
from jaxdiff import model as models
from jaxdiff.data.sources import captioned
from jaxdiff.eval import zero_shot


@pytest.fixture(scope="module")
def clip():
    return models.load("captioned_clip")


@pytest.fixture(scope="module")
def examples():
    source = data.load("captioned:unseen")
    return [source[i] for i in range(160)]


def test_descriptions_are_averaged_and_normalised(clip):
    texts = [["a red 7", "a red seven"], ["a blue 2"]]
    classes = zero_shot.embed_classes(clip, texts)
    one, two, three = zero_shot.embed_texts(clip, ["a red 7", "a red seven", "a blue 2"], 8)
    mean = (one + two) / 2
    np.testing.assert_allclose(classes, [mean / np.linalg.norm(mean), three], atol=1e-5)


def test_images_score_higher_with_their_own_captions(clip, examples):
    found = zero_shot.embed_images(clip, np.stack([example["image"] for example in examples]))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    rng = np.random.default_rng(0)
    right = zero_shot.embed_texts(clip, [example["caption"] for example in examples])
    wrong = [captioned.hard_negative(example, rng) for example in examples]
    wrong = zero_shot.embed_texts(clip, wrong)
    assert (zero_shot.clip_score(found, right) > zero_shot.clip_score(found, wrong)).mean() > 0.9
