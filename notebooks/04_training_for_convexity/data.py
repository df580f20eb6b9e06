"""The five data sets as plain arrays: what they are read from, how they are divided, what a point is.

    fashion  Fashion-MNIST's pixels
    speech   spoken digits, the first block of Whisper's encoder, mean over the frames that hold sound
    digits   scikit-learn's handwritten digits, pixels
    text     banking77, the third block of MiniLM, mean over the tokens
    blood    cells of BCCD cut out as grey pictures, the first block of EfficientNet-lite0, mean over the positions

Cells are grey and of one brightness and contrast, since the stain alone tells their kinds: in colour the small network is
right for 95% of the cells to validate on after the first block and for 99.7% after the second, so that nothing is left to
gain.

All is made once and kept in a cache of npz files. Rows to test on are in a file of their own, which is neither made nor
opened before they are asked for. The cache is not checked against this file: empty it after a change here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache as remembered
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxconvex import encoders, extract, model_source
from jaxconvex.study.datasets import Dataset, read_dataset, take
from jaxconvex.study.splits import split, stratified_split

__all__ = ["DATA_SETS", "PICTURE", "SECONDS", "TOKENS", "Material", "Points", "grey", "read", "read_raw"]

SHARES = (0.5, 0.2, 0.3)  # to train, to validate and to test on, where the authors fixed nothing
SPEAKERS = (("george", "jackson"), ("lucas", "nicolas"), ("theo", "yweweler"))
SECONDS = 0.64  # of a recording; the longer ones are cut
TOKENS = 32  # of a text
PICTURE = 64  # pixels a side of a cell
FLOOR = 0.1  # of the median standard deviation: no feature is divided by less, so that rare pixels do not explode


class Points(NamedTuple):
    """Some points and their classes by number."""

    x: np.ndarray  # float32 [n, d], standardised with the mean and standard deviation of the train pool
    y: np.ndarray  # int32 [n]


class Material(NamedTuple):
    """A data set, divided."""

    name: str
    num_classes: int
    train: Points  # the pool, from which each seed may draw a part
    validation: Points
    test: Points | None  # None unless asked for
    classes: tuple[str, ...]  # in the order of the numbers


class Recipe(NamedTuple):
    """How a data set is read, divided in three and turned into vectors."""

    load: Callable[[Path], Dataset]  # from the folder of all data
    divide: Callable[[Dataset], Any]  # the rows to train, to validate and to test on
    vectors: Callable[[Dataset, Path], np.ndarray]  # from some rows and the folder of all models


def read(name: str, data: str | Path, models: str | Path, cache: str | Path, *, with_test: bool = False) -> Material:
    """Returns a data set with its rows to train and to validate on, and those to test on if they are asked for.

    Args:
        name: one of DATA_SETS.
        data, models: the folders that hold the data sets and the checkpoints, each in a folder of its own.
        cache: a folder, made if it is not there.
        with_test: whether to make, or open, the file of the test rows.

    Raises:
        ValueError: for another name.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(RECIPES)}.")
    make = partial(_make, name, Path(data), Path(models))
    found = _cached(Path(cache) / f"{name}.npz", partial(make, parts=("train", "validation")))
    if with_test:
        found |= _cached(Path(cache) / f"{name}-test.npz", partial(make, parts=("test",)))
    mean = found["train_x"].mean(axis=0)
    deviations = found["train_x"].std(axis=0)
    scale = np.maximum(deviations, FLOOR * np.median(deviations))  # some pixels are almost always black
    parts = {
        part: Points(((found[f"{part}_x"] - mean) / scale).astype(np.float32), found[f"{part}_y"])
        for part in ("train", "validation", "test")
        if f"{part}_x" in found
    }
    classes = tuple(found["classes"].tolist())
    return Material(name, len(classes), parts["train"], parts["validation"], parts.get("test"), classes)


def read_raw(name: str, data: Path, parts: tuple[str, ...]) -> tuple[np.ndarray, dict[str, tuple[Dataset, np.ndarray]]]:
    """Returns the names of the classes and, of each part that is asked for, its points as they are and their classes.

    A part is "train", "validation" or "test"; its rows are those of `read`, in the same order.
    """
    recipe = RECIPES[name]
    dataset = recipe.load(data)
    rows = dict(zip(("train", "validation", "test"), recipe.divide(dataset), strict=True))
    labels = next(iter(dataset.labelings.values()))
    classes = np.unique(labels[rows["train"]])
    found = {
        part: (take(dataset, rows[part]), np.searchsorted(classes, labels[rows[part]]).astype(np.int32))
        for part in parts
    }
    return classes, found


def _make(name: str, data: Path, models: Path, *, parts: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The vectors and labels of these parts, and the names of the classes."""
    classes, raw = read_raw(name, data, parts)
    made = {"classes": classes}
    for part, (dataset, y) in raw.items():
        made[f"{part}_x"] = RECIPES[name].vectors(dataset, models).astype(np.float32)
        made[f"{part}_y"] = y
    return made


def _cached(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in the file, which is made if it is not there; a kill leaves no half of a file."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(unfinished, **make())
        unfinished.replace(path)
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


# How they are divided -------------------------------------------------------------------------------------------------


def _key() -> jax.Array:
    return jax.random.key(6)  # the one division of each data set that all seeds share


def _divide_fashion(dataset: Dataset) -> Any:
    """300 pictures of a class to train on, 100 to validate on; the authors' test part stays whole."""
    return split(dataset, _key(), fractions=SHARES, most=(3000, 1000, None), balanced=True)[:3]


def _divide_speech(dataset: Dataset) -> Any:
    """By speaker, in alphabetical order."""
    return [np.flatnonzero(np.isin(dataset.groups, names)) for names in SPEAKERS]


def _divide_digits(dataset: Dataset) -> Any:
    return stratified_split(dataset.labelings["digit"], _key(), fractions=SHARES)


def _divide_text(dataset: Dataset) -> Any:
    """Of the authors' train part 15 texts of a class to validate on, then up to 40 to train on; their test part whole."""
    labels, parts = dataset.labelings["category"], dataset.parts
    generator = np.random.default_rng(6)
    train, validation = [], []
    for name in np.unique(labels):
        rows = generator.permutation(np.flatnonzero((labels == name) & (parts == "train")))
        validation.append(rows[:15])
        train.append(rows[15:55])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation)), np.flatnonzero(parts == "test")


def _divide_blood(dataset: Dataset) -> Any:
    """By picture of origin; of each part as many cells of a kind as there are of its rarest."""
    return split(dataset, _key(), fractions=SHARES, balanced=True)[:3]


# What a point is ------------------------------------------------------------------------------------------------------


def _pixels(dataset: Dataset, models: Path) -> np.ndarray:
    return np.asarray(dataset.inputs, np.float32).reshape(len(dataset.inputs), -1) / 255


def _values(dataset: Dataset, models: Path) -> np.ndarray:
    return np.asarray(dataset.inputs, np.float32)


def _states(
    dataset: Dataset, models: Path, *, model: str, family: str | None = None, block: int, **options: Any
) -> np.ndarray:
    """The states after a block of a pretrained encoder, counted from zero, mean over what is valid."""
    encoder, preprocess = _encoder(models / model, family, block + 1)
    inputs = tuple(part for part in preprocess(dataset.inputs, **dataset.options, **options) if part is not None)
    layer = f"blocks/{block}"
    source = model_source(encoder, inputs, layers=layer, rest=False)
    found = extract(
        source.model,
        inputs,
        layers=[layer],
        pool="mean",
        mask=source.mask,
        batch_size=64,
        outputs=False,
        progress=False,
    )
    return found[layer]


def _grey_states(dataset: Dataset, models: Path, **options: Any) -> np.ndarray:
    """As `_states`, of the pictures without their stain."""
    return _states(dataset._replace(inputs=[grey(picture) for picture in dataset.inputs]), models, **options)


def grey(picture: np.ndarray) -> np.ndarray:
    """The picture in grey, uint8 [h, w], of mean 128 and standard deviation 48 before it is clipped."""
    grey = picture.mean(axis=-1)
    return np.clip(128 + 48 * (grey - grey.mean()) / max(grey.std(), 1e-6), 0, 255).astype(np.uint8)


@remembered
def _encoder(folder: Path, family: str | None, depth: int) -> tuple[Any, Callable[..., Any]]:
    """The first blocks of an encoder, and what prepares its inputs."""
    encoder, preprocess = encoders.load(folder, family)
    if preprocess is None:
        raise ValueError(f"nothing in {folder} tells how to prepare inputs; add the files of its preprocessing.")
    return encoder.truncate(depth), preprocess


def _handwritten(data: Path) -> Dataset:
    """The digits that come with scikit-learn, 8 by 8 pixels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return Dataset(x, {"digit": y.astype(str)}, None, None, {}, "1,797 digits of scikit-learn.")


def _folder(modality: str, name: str, data: Path) -> Dataset:
    return read_dataset(modality, data / name)


RECIPES = {
    "fashion": Recipe(partial(_folder, "images", "fashion_mnist"), _divide_fashion, _pixels),
    "speech": Recipe(
        partial(_folder, "speech", "fsdd/recordings"),
        _divide_speech,
        partial(_states, model="whisper-tiny-encoder", block=0, frames=round(100 * SECONDS), mask=True),
    ),
    "digits": Recipe(_handwritten, _divide_digits, _values),
    "text": Recipe(
        partial(_folder, "text", "banking77"),
        _divide_text,
        partial(_states, model="all-minilm-l6-v2", block=2, length=TOKENS, max_length=TOKENS),
    ),
    "blood": Recipe(
        partial(_folder, "medical", "bccd/BCCD"),
        _divide_blood,
        partial(_grey_states, model="efficientnet-lite0", family="efficientnet-lite0", block=0, size=PICTURE),
    ),
}
DATA_SETS = tuple(RECIPES)
