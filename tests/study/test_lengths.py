"""How long inputs are made, and what is said of those that are cut or scaled."""

from __future__ import annotations

import numpy as np
import pytest

from jaxconvex.encoders.preprocessing import preprocessor
from jaxconvex.study.datasets import Dataset
from jaxconvex.study.lengths import fitted


def made(inputs, **options):
    return Dataset(inputs, {"class": np.arange(len(inputs)) % 2}, None, None, options, "Made up.")


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
def test_recordings_are_as_long_as_most_of_the_training_part(family):
    preprocess = preprocessor(None, family, {})
    train = made([np.ones(80 * (i + 1)) for i in range(100)], rate=8000)  # 0.01 to 1 s
    long = made([np.ones(16_000)] * 3, rate=8000)
    options, (said,) = fitted({}, preprocess, {}, train, [train, long])
    seconds = 0.96  # the quantile is 0.9505
    assert options == ({"length": 15_360} if family == "wav2vec2" else {"frames": 96, "mask": True})
    lost = sum(max(len(clip) / 8000 - seconds, 0) for clip in (*train.inputs, *long.inputs))
    share = lost / (sum(len(clip) for clip in (*train.inputs, *long.inputs)) / 8000)
    assert "0.96 s, the 95 percent quantile of the training part: 7 of 103 (6.8 percent)" in said
    assert f"{100 * share:.1f} percent of all sound" in said
    asked, (said,) = fitted({"seconds": 5}, preprocess, {}, train, [train])
    assert said == "Recordings are cut or filled up to 5 s: none is longer."
    assert 5 * (16_000 if family == "wav2vec2" else 100) in asked.values()


def test_pictures_that_are_scaled_are_counted():
    preprocess = preprocessor(None, "vit", {"image_size": 8})
    data = made([np.zeros((8, 8), np.uint8), np.zeros((20, 10), np.uint8), np.zeros((4, 30, 3), np.uint8)])
    options, (said,) = fitted({"size": 64}, preprocess, {"model_type": "vit", "image_size": 8}, data, [data])
    assert options == {}  # its positions are for 8 x 8
    assert said == "2 of 3 pictures were scaled or cropped to 8x8 pixels (from 4x8 to 20x30)."
    own, said = fitted({}, preprocess, {"model_type": "vit"}, made(data.inputs[:1]), [made(data.inputs[:1])])
    assert (own, said) == ({}, [])
