"""Labelled data of the study's domains, read from a folder in the form in which its authors publish it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jaxconvex._internal.checks import one_of
from jaxconvex.study.datasets.dataset import Dataset, take
from jaxconvex.study.datasets.movements import read_movements
from jaxconvex.study.datasets.pictures import read_pictures
from jaxconvex.study.datasets.recordings import read_recordings
from jaxconvex.study.datasets.texts import read_texts

__all__ = ["Dataset", "read_dataset", "read_movements", "read_pictures", "read_recordings", "read_texts", "take"]

READERS: dict[str, Callable[[Path], Dataset]] = {
    "images": read_pictures,
    "speech": read_recordings,
    "text": read_texts,
    "activity": read_movements,
    "medical": read_pictures,
}


def read_dataset(modality: str, path: str | Path) -> Dataset:
    """The labelled points in a folder, whose layout is recognised by what is in it.

    Args:
        modality: "images" or "medical" (pictures), "speech" (recordings), "text", or "activity" (movements).
        path: a folder in one of the layouts that `read_pictures`, `read_recordings`, `read_texts` and `read_movements`
            name; for "text" a csv file, too.

    Raises:
        ValueError: another modality, no such folder, or a folder in none of the layouts: the message names them all.

    Cost: everything is read into memory.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "train.csv").write_text("text,category\\nhello,greeting\\nbye,farewell\\n")
        ...     dataset = read_dataset("text", folder)
        >>> dataset.inputs, dataset.labelings["category"].tolist()
        (['hello', 'bye'], ['greeting', 'farewell'])
    """
    return READERS[one_of(modality, tuple(READERS), "modality")](Path(path))
