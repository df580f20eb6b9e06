"""What every reader of data returns, and what all of them share: folders named after classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

__all__ = ["ClassFolders", "Dataset", "check_files", "class_folders", "folder_of", "ignored_told", "refuse", "take"]

MOST_NAMED = 5  # files of a kind in a message
PLURALS = {"has": "have", "holds": "hold"}


class Dataset(NamedTuple):
    """Labelled points, and what is known of them."""

    # pictures: uint8 (h, w) or (h, w, 3), an array or a list; recordings: float32 (samples,); texts: str; movements:
    # float32 (time, 3) in g
    inputs: Sequence[Any] | np.ndarray
    labelings: dict[str, np.ndarray]  # name -> the label of each point; networks are trained for the first
    groups: np.ndarray | None  # the speaker, volunteer or image of origin of each; a group stays in one part
    parts: np.ndarray | None  # "train" or "test" where the authors fixed it
    options: dict[str, Any]  # what preprocessing must know: {"rate": 8000}
    source: str  # one sentence: what was read
    notes: tuple[str, ...] = ()  # what was found and ignored, left out or cut, in sentences


class ClassFolders(NamedTuple):
    """Files below folders named after classes, with what their paths say."""

    paths: list[Path]
    labels: np.ndarray
    groups: np.ndarray | None
    parts: np.ndarray | None
    notes: tuple[str, ...] = ()


def take(dataset: Dataset, rows: Any) -> Dataset:
    """The data set of the given rows, in their order.

    Args:
        dataset: any.
        rows: what selects rows of an array: numbers of points, one bool a point, or a slice.

    Example:
        >>> dataset = Dataset(["a", "b", "c"], {"label": np.array([0, 1, 0])}, None, None, {}, "Three letters.")
        >>> take(dataset, [2, 1]).inputs
        ['c', 'b']
    """
    rows = np.arange(len(dataset.inputs))[rows]
    inputs = dataset.inputs
    return dataset._replace(
        inputs=inputs[rows] if isinstance(inputs, np.ndarray) else [inputs[row] for row in rows],
        labelings={name: labels[rows] for name, labels in dataset.labelings.items()},
        groups=None if dataset.groups is None else dataset.groups[rows],
        parts=None if dataset.parts is None else dataset.parts[rows],
    )


def folder_of(path: str | Path) -> Path:
    """The path, if it is that of a folder. Raises ValueError otherwise."""
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"the data must lie in a folder; there is none at {folder}. Check the path.")
    return folder


def class_folders(folder: Path, suffixes: tuple[str, ...]) -> ClassFolders | None:
    """The files of the given suffixes in LABEL/* or LABEL/GROUP/*, both below train/ and test/ or not; None if none.

    Raises:
        ValueError: if some files have a folder for their group and others have not.
    """
    divided = (folder / "train").is_dir() and (folder / "test").is_dir()
    files, ignored = [], []
    for part in ("train", "test") if divided else ("",):
        for path in sorted((folder / part).rglob("*")):
            names = path.relative_to(folder / part).parts
            hidden = any(name.startswith(".") for name in names)
            if hidden or not path.is_file():
                continue
            if len(names) in (2, 3) and path.suffix.lower() in suffixes:
                files.append((path, names[0], names[1] if len(names) == 3 else None, part))
            else:
                ignored.append(path)
    if not files:
        return None
    paths, labels, groups, parts = zip(*files, strict=True)
    grouped = [group is not None for group in groups]
    if any(grouped) and not all(grouped):
        raise ValueError(
            f"the files of {folder} must lie either all in LABEL/ or all in LABEL/GROUP/; {paths[grouped.index(True)]} "
            f"has a group and {paths[grouped.index(False)]} has none. Move them to one depth."
        )
    return ClassFolders(
        list(paths),
        np.array(labels),
        np.array(groups) if all(grouped) else None,
        np.array(parts) if divided else None,
        ignored_told(ignored),
    )


def ignored_told(paths: Sequence[Path]) -> tuple[str, ...]:
    """A sentence that lists files that were not read, by extension; none without such files.

    >>> ignored_told([Path("a.txt"), Path("b.TXT"), Path("rate")])
    ('Not read: 3 files (2 .txt, 1 without extension).',)
    """
    counts = Counter(path.suffix.lower() or "without extension" for path in paths)
    listed = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
    return (f"Not read: {len(paths)} file{'s' * (len(paths) > 1)} ({listed}).",) if paths else ()


def check_files(problems: dict[Path, str], folder: Path, remedy: str) -> None:
    """Raise ValueError that lists all files with problems, those of one kind together; nothing where there are none.

    A problem is what stands after the file's name in a sentence: "holds no samples".
    """
    if not problems:
        return
    kinds: dict[str, list[Path]] = {}
    for path, problem in problems.items():
        kinds.setdefault(problem, []).append(path)
    lines = []
    for problem, paths in kinds.items():
        more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
        verb, rest = problem.split(" ", 1)
        verb = PLURALS.get(verb, verb) if len(paths) > 1 else verb
        lines.append(f"  - {', '.join(map(str, paths[:MOST_NAMED]))}{more} {verb} {rest}")
    number = f"{len(problems)} files" if len(problems) > 1 else "a file"
    raise ValueError(f"{number} in {folder} can not be taken; {remedy}:\n" + "\n".join(lines))


def refuse(folder: Path, layouts: Sequence[str]) -> NoReturn:
    """Raise ValueError with the layouts that are known, and what the folder holds instead."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    held = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
    below = " ".join(ignored_told([path for path in folder.rglob("*") if path.is_file()]))
    raise ValueError(
        f"{folder} must have one of these layouts:\n"
        + "\n".join(f"  - {layout}" for layout in layouts)
        + f"\nIt holds {held}. {below} Perhaps the data lie in a folder below it, or above."
    )
