"""Labelled recordings of sound: the Free Spoken Digit Dataset, or a folder a class."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxconvex.study.datasets.dataset import Dataset, class_folders, folder_of, refuse

__all__ = ["read_recordings"]

SPOKEN_DIGIT = re.compile(r"(\d+)_(.+)_(\d+)\.wav")
LAYOUTS = (
    "the Free Spoken Digit Dataset: DIGIT_SPEAKER_INDEX.wav",
    "a folder a class: LABEL/*.wav (or flac), or LABEL/GROUP/*.wav, below train/ and test/ or not",
)


def read_recordings(path: str | Path) -> Dataset:
    """Returns the recordings in a folder as float32 in [-1, 1], one channel each, the mean of several.

    The layouts:

    - The Free Spoken Digit Dataset, `DIGIT_SPEAKER_INDEX.wav`: the labelings "digit" and "speaker", the groups the
      speakers.
    - A folder a class, `LABEL/*.wav` or `LABEL/GROUP/*.wav` (or flac), below `train/` and `test/` or not; a group is a
      speaker, or whatever recordings have in common.

    `options["rate"]` is the number of samples a second, which all must share.

    Raises:
        ValueError: none of the layouts; an empty recording, or one of another rate, by name.
        ImportError: soundfile is missing.

    Source: Jackson et al., Free Spoken Digit Dataset, 2018 (the names of the files).
    """
    folder = folder_of(path)
    names = [(file, match) for file in sorted(folder.iterdir()) if (match := SPOKEN_DIGIT.fullmatch(file.name))]
    if names:
        digits, speakers = (np.array([match[i] for _, match in names]) for i in (1, 2))
        recordings, rate = _read_all([file for file, _ in names])
        source = f"{len(names)} spoken digits of {len(set(speakers))} speakers from the folder {folder.name}."
        labelings = {"digit": digits, "speaker": speakers}
        return Dataset(recordings, labelings, speakers, None, {"rate": rate}, source)
    files = class_folders(folder, (".wav", ".flac"))
    if files is None:
        refuse(folder, LAYOUTS)
    recordings, rate = _read_all(files.paths)
    source = f"{len(recordings)} recordings of {len(set(files.labels))} classes from the folder {folder.name}."
    return Dataset(recordings, {"class": files.labels}, files.groups, files.parts, {"rate": rate}, source)


def _read_all(paths: list[Path]) -> tuple[list[Float[np.ndarray, " samples"]], int]:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError('recordings are read with soundfile: pip install "jaxconvex[encoders]"') from error
    recordings, common = [], 0
    for path in paths:
        try:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} can not be read as sound: {error}. Remove or replace it.") from error
        common = common or rate
        if rate != common:
            raise ValueError(
                f"all recordings must have one rate; {path} has {rate} samples a second, {paths[0]} has {common}. "
                "Resample it first."
            )
        if not len(samples):
            raise ValueError(f"{path} holds no samples. Remove it.")
        recordings.append(samples.mean(axis=1))
    return recordings, common
