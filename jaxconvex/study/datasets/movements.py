"""Labelled movements: windows of a wrist accelerometer, in g."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxconvex.study.datasets.dataset import Dataset, check_files, class_folders, folder_of, refuse

__all__ = ["read_movements", "windows"]

LAYOUTS = (
    "HMP, wrist-worn accelerometer (UCI): ACTIVITY/Accelerometer-TIME-ACTIVITY-VOLUNTEER.txt",
    "a folder a class: LABEL/*.csv, or LABEL/GROUP/*.csv, of three columns in g, and rate.txt (samples a second, else 30)",
)
HMP_RATE = 32  # samples a second


def read_movements(path: str | Path, *, seconds: float = 5.0) -> Dataset:
    """The windows of the trials in a folder, float32 (n, time, 3) in g.

    A trial is cut into windows that do not overlap, so that no two points share samples; a rest shorter than a window is
    left out, and a trial shorter than one gives one window, its last sample held.

    The layouts:

    - HMP: `ACTIVITY/Accelerometer-TIME-ACTIVITY-VOLUNTEER.txt`, integers 0 to 63 that mean -1.5 to 1.5 g, 32 a second.
      The labelings are "activity" and "volunteer", the groups the volunteers. Folders `*_MODEL` hold trials once more
      and are left out.
    - A folder a class, `LABEL/GROUP/*.csv` or `LABEL/*.csv`, three columns in g, separated by commas, with a line of
      names or not. `rate.txt` holds the number of samples a second, else it is 30. A group is a person; without groups,
      the windows of one file are one.

    Args:
        path: the folder.
        seconds: the length of a window.

    Raises:
        ValueError: none of the layouts; a file that has not three columns of numbers; a window of less than two samples.

    Source: Bruno, Mastrogiovanni, Sgorbissa, Vernazza, Zaccaria, Analysis of human behavior recognition algorithms based
        on acceleration data, 2013, with the manual of their data.
    """
    folder = folder_of(path)
    files = [file for file in sorted(folder.glob("*/Accelerometer-*.txt")) if not file.parent.name.endswith("_MODEL")]
    notes: tuple[str, ...] = ()
    if files:
        trials = [-1.5 + 3 * trial / 63 for trial in _tables(files, None, folder)]
        activities = np.array([file.parent.name for file in files])
        volunteers = np.array([file.stem.split("-")[-1] for file in files])
        cut, trial = windows(trials, HMP_RATE, seconds)
        labelings = {"activity": activities[trial], "volunteer": volunteers[trial]}
        groups, parts, rate = volunteers, None, float(HMP_RATE)
    else:
        folders = class_folders(folder, (".csv",))
        if folders is None:
            refuse(folder, LAYOUTS)
        rate = _rate(folder)
        trials = _tables(folders.paths, ",", folder)
        notes = folders.notes
        groups = np.array([str(file) for file in folders.paths]) if folders.groups is None else folders.groups
        cut, trial = windows(trials, rate, seconds)
        labelings = {"class": folders.labels[trial]}
        parts = None if folders.parts is None else folders.parts[trial]
    source = f"{len(cut)} windows of {seconds:g} s from {len(trials)} trials in the folder {folder.name}."
    notes = (*notes, *_cut_told(trials, round(rate * seconds), seconds))
    return Dataset(cut, labelings, groups[trial], parts, {"rate": rate}, source, notes)


def _cut_told(trials: list[Float[np.ndarray, "time 3"]], length: int, seconds: float) -> list[str]:
    """What of the trials is in no window, and how many had to be filled up, in a sentence; none where nothing was."""
    lengths = np.array([len(trial) for trial in trials])
    short = int(np.sum(lengths < length))
    lost = float(np.sum(np.where(lengths < length, 0, lengths % length)) / lengths.sum())
    said = [f"{short:,} of {len(lengths):,} trials are shorter than {seconds:g} s and were filled up"] if short else []
    said += [f"{100 * lost:.0f} percent of all samples are in rests shorter than a window, which were left out"] * (
        lost > 0
    )
    return [f"{'; '.join(said)}."] if said else []


def windows(
    trials: list[Float[np.ndarray, "time 3"]], rate: float, seconds: float
) -> tuple[Float[np.ndarray, "n time 3"], np.ndarray]:
    """The windows of all trials, one after the other, and the number of the trial that each is from.

    >>> cut, trial = windows([np.zeros((10, 3)), np.zeros((3, 3))], rate=2, seconds=2)
    >>> cut.shape, trial.tolist()
    ((3, 4, 3), [0, 0, 1])
    """
    length = round(rate * seconds)
    if length < 2:
        raise ValueError(f"a window must have two samples or more; {seconds} s at {rate} a second have {length}.")
    cut, numbers = [], []
    for number, trial in enumerate(trials):
        held = np.pad(trial, ((0, max(0, length - len(trial))), (0, 0)), mode="edge")
        for start in range(0, len(held) - length + 1, length):
            cut.append(held[start : start + length])
            numbers.append(number)
    return np.stack(cut).astype(np.float32), np.array(numbers)


def _tables(paths: list[Path], delimiter: str | None, folder: Path) -> list[Float[np.ndarray, "time 3"]]:
    tables, problems = [], {}
    for path in paths:
        try:
            tables.append(_table(path, delimiter))
        except ValueError as error:
            problems[path] = str(error)
    check_files(problems, folder, "mend or remove them")
    return tables


def _table(path: Path, delimiter: str | None) -> Float[np.ndarray, "time 3"]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    named = delimiter is not None and bool(lines) and not any(c.isdigit() for c in lines[0])
    try:
        table = np.array([line.split(delimiter) for line in lines[named:] if line.strip()], dtype=float)
    except ValueError as error:
        raise ValueError(f"must hold three numbers a line, x, y and z; got: {error}.") from error
    if table.ndim != 2 or table.shape[1] != 3 or not len(table) or not np.isfinite(table).all():
        raise ValueError(f"must hold three finite numbers a line, x, y and z; got shape {table.shape}.")
    return table


def _rate(folder: Path) -> float:
    file = folder / "rate.txt"
    if not file.is_file():
        return 30.0
    try:
        rate = float(file.read_text().strip())
    except ValueError:
        rate = 0.0
    if not rate > 0:
        raise ValueError(f"{file} must hold one number above 0, the samples a second.")
    return rate
