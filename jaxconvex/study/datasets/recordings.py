"""Labelled recordings of sound: the Free Spoken Digit Dataset, or a folder a class."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxconvex.study.datasets.dataset import Dataset, check_files, class_folders, folder_of, ignored_told, refuse

__all__ = ["read_recordings"]

SPOKEN_DIGIT = re.compile(r"(\d+)_(.+)_(\d+)\.wav")
# What soundfile reads, as far as its library was built with it: extension -> format.
FORMATS = {
    ".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG", ".mp3": "MP3", ".aif": "AIFF",
    ".aiff": "AIFF", ".au": "AU", ".caf": "CAF", ".w64": "W64",
}  # fmt: skip
LAYOUTS = (
    "the Free Spoken Digit Dataset: DIGIT_SPEAKER_INDEX.wav",
    "a folder a class: LABEL/*.wav (or flac, ogg, opus, mp3, aiff, au, caf, w64), or LABEL/GROUP/*.wav, below train/ and "
    "test/ or not",
)


def read_recordings(path: str | Path) -> Dataset:
    """The recordings in a folder as float32 in [-1, 1], one channel each, the mean of several.

    The layouts:

    - The Free Spoken Digit Dataset, `DIGIT_SPEAKER_INDEX.wav`: the labelings "digit" and "speaker", the groups the
      speakers.
    - A folder a class, `LABEL/*.wav` or `LABEL/GROUP/*.wav` (or flac, ogg, opus, mp3, aiff, au, caf, w64, as soundfile
      can), below `train/` and `test/` or not; a group is a speaker, or whatever recordings have in common.

    `options["rate"]` is the number of samples a second, which all must share.

    Raises:
        ValueError: none of the layouts; recordings that are empty, cannot be read or have another rate than most, by name.
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
        others = [file for file in sorted(folder.iterdir()) if file.is_file() and not SPOKEN_DIGIT.fullmatch(file.name)]
        return Dataset(recordings, labelings, speakers, None, {"rate": rate}, source, ignored_told(others))
    known = _soundfile().available_formats()
    files = class_folders(folder, tuple(suffix for suffix, kind in FORMATS.items() if kind in known))
    if files is None:
        refuse(folder, LAYOUTS)
    recordings, rate = _read_all(files.paths)
    source = f"{len(recordings)} recordings of {len(set(files.labels))} classes from the folder {folder.name}."
    return Dataset(recordings, {"class": files.labels}, files.groups, files.parts, {"rate": rate}, source, files.notes)


def _read_all(paths: list[Path]) -> tuple[list[Float[np.ndarray, " samples"]], int]:
    soundfile = _soundfile()
    recordings, rates = {}, {}
    problems: dict[Path, str] = {}
    for path in paths:
        try:
            samples, rates[path] = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            problems[path] = f"can not be read as sound: {error.error_string}"
            continue
        if not len(samples):
            problems[path] = "holds no samples"
        recordings[path] = samples.mean(axis=1)
    counts = Counter(rates.values())
    common = max(counts, key=lambda rate: counts[rate], default=0)
    for path, rate in rates.items():
        if rate != common and path not in problems:
            problems[path] = f"has {rate} samples a second, {counts[common]} others have {common}"
    check_files(problems, paths[0].parents[1], "remove, replace or resample them")
    return list(recordings.values()), common


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError('recordings are read with soundfile: pip install "jaxconvex[encoders]"') from error
    return soundfile
