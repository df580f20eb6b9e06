"""Labelled pictures: MNIST's idx files, a folder a class, or the boxes of Pascal VOC."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import UInt8

from jaxconvex.study.datasets.dataset import Dataset, check_files, class_folders, folder_of, refuse

__all__ = ["read_pictures"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
LAYOUTS = (
    "MNIST: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, each "
    "with .gz or without",
    "Pascal VOC: Annotations/*.xml and JPEGImages/; every box is a point",
    "a folder a class: LABEL/*.png (or jpg, bmp, gif, tif, webp), or LABEL/GROUP/*.png, below train/ and test/ or not",
)
GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
REMEDY = "remove or replace them, or scale them to 0..255"
MARGIN = 0.1  # of a box's longer side, around it


def read_pictures(path: str | Path) -> Dataset:
    """The pictures in a folder as uint8, (height, width) where they are grey and (height, width, 3) in colour.

    The layouts:

    - MNIST's idx files. The parts are the authors'. Labels are digits, or the ten garments of Fashion-MNIST if the
      folder's name has "fashion" in it.
    - Pascal VOC: every box is a point, cut out as a square with a margin of 0.1 of its longer side. The square is moved
      into the picture where it sticks out, and is as high and as wide as the picture where it is larger. The label is the
      box's name, the group the picture. Boxes without area, or outside the picture, are left out and counted.
    - A folder a class, `LABEL/*.png` or `LABEL/GROUP/*.png`, below `train/` and `test/` or not.

    Raises:
        ValueError: none of the layouts; a file that is damaged, or of more than 8 bits.
        ImportError: Pillow is missing.

    Source: LeCun, Cortes, Burges, The MNIST database (the format); Xiao, Rasul, Vollgraf, Fashion-MNIST, 2017 (the
        names); Everingham et al., The Pascal Visual Object Classes Challenge, 2010 (the layout).
    """
    folder = folder_of(path)
    if _idx_file(folder, "train-images-idx3-ubyte") or _idx_file(folder, "t10k-images-idx3-ubyte"):
        return _read_idx(folder)
    if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        return _read_boxes(folder)
    files = class_folders(folder, SUFFIXES)
    if files is None:
        refuse(folder, LAYOUTS)
    problems: dict[Path, str] = {}
    pictures = [_read_picture(path, problems) for path in files.paths]
    check_files(problems, folder, REMEDY)
    source = f"{len(pictures)} pictures of {len(set(files.labels))} classes from the folder {folder.name}."
    return Dataset(pictures, {"class": files.labels}, files.groups, files.parts, {}, source, files.notes)


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _read_idx(folder: Path) -> Dataset:
    pictures, labels, parts = [], [], []
    for part, prefix in (("train", "train"), ("test", "t10k")):
        files = [_idx_file(folder, f"{prefix}-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
        if None in files:
            raise ValueError(f"{folder} lacks idx files of the part {prefix}. MNIST has four: {LAYOUTS[0]}.")
        images, numbers = (_idx_array(file) for file in files if file is not None)
        if len(images) != len(numbers):
            raise ValueError(f"{files[0]} has {len(images)} pictures, but {files[1]} has {len(numbers)} labels.")
        pictures.append(images)
        labels.append(numbers)
        parts += [part] * len(images)
    fashion = "fashion" in folder.resolve().name.lower()
    names = np.array(GARMENTS if fashion else [str(i) for i in range(256)])
    numbers = np.concatenate(labels)
    if numbers.max() >= len(names):
        raise ValueError(f"the labels of Fashion-MNIST are 0 to 9; {folder} has {numbers.max()}. Rename the folder.")
    source = f"{len(numbers)} pictures of {len(set(numbers.tolist()))} classes from the idx files in {folder.name}."
    return Dataset(np.concatenate(pictures), {"class": names[numbers]}, None, np.array(parts), {}, source)


def _idx_array(path: Path) -> UInt8[np.ndarray, ...]:
    """The array of bytes in an idx file: two zeros, the type 8, the number of axes, their lengths, the values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} can not be unpacked ({error}). Download it again.") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} must be an idx file of bytes, beginning with 0, 0, 8. Download it again.")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    if len(content) - start != np.prod(shape, dtype=int):
        raise ValueError(f"{path} must have {shape} values; it has {len(content) - start}. Download it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_boxes(folder: Path) -> Dataset:
    pictures, labels, groups, left_out = [], [], [], 0
    problems: dict[Path, str] = {}
    files = {path.stem: path for path in sorted((folder / "JPEGImages").iterdir())}
    annotations = sorted((folder / "Annotations").glob("*.xml"))
    for annotation in annotations:
        if annotation.stem not in files:
            raise ValueError(f"{annotation} has no picture {annotation.stem}.jpg in {folder / 'JPEGImages'}.")
        picture = _read_picture(files[annotation.stem], problems)
        if annotation.stem in {path.stem for path in problems}:
            continue
        for name, box in _boxes(annotation):
            cut = _cut(picture, box)
            if cut is None:
                left_out += 1
                continue
            pictures.append(cut)
            labels.append(name)
            groups.append(annotation.stem)
    check_files(problems, folder, REMEDY)
    if not pictures:
        raise ValueError(f"{folder} has the layout of Pascal VOC, but no box in {len(annotations)} annotations.")
    source = (
        f"{len(pictures)} boxes of {len(set(labels))} classes from {len(annotations)} pictures in {folder.name}; "
        f"{left_out} empty boxes were left out."
    )
    return Dataset(pictures, {"class": np.array(labels)}, np.array(groups), None, {}, source)


def _boxes(path: Path) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """The name of each box with its left, upper, right and lower edge in pixels."""
    content = path.read_text(
        encoding="utf-8-sig", errors="replace"
    )  # as text, so that no encoding hides a document type
    if "<!DOCTYPE" in content:  # its entities could expand without bound
        raise ValueError(f"{path} has a document type; annotations of Pascal VOC have none. Remove it.")
    try:
        root = ElementTree.fromstring(content)
        for item in root.iter("object"):
            box = item.find("bndbox")
            edges = [float(box.findtext(edge)) for edge in ("xmin", "ymin", "xmax", "ymax")]  # type: ignore
            yield item.findtext("name", "").strip(), (edges[0], edges[1], edges[2], edges[3])
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold objects with a name and a bndbox in XML; got: {error}.") from error


def _cut(picture: Any, box: tuple[float, float, float, float]) -> UInt8[np.ndarray, "h w ..."] | None:
    """The square around a box, copied so that the picture can be let go; None where they do not meet."""
    height, width = picture.shape[:2]
    left, upper, right, lower = box
    if not (max(left, 0) < min(right, width) and max(upper, 0) < min(lower, height)):
        return None
    left, upper, right, lower = max(left, 0), max(upper, 0), min(right, width), min(lower, height)
    side = max(1, round(max(right - left, lower - upper) * (1 + 2 * MARGIN)))

    def span(low: float, high: float, length: int) -> slice:
        start = round((low + high - side) / 2)
        start = max(0, min(start, length - side))
        return slice(start, min(start + side, length))

    return picture[span(upper, lower, height), span(left, right, width)].copy()


def _read_picture(path: Path, problems: dict[Path, str]) -> UInt8[np.ndarray, "h w ..."]:
    """The picture; one without pixels where it cannot be taken, after noting why."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('pictures are read with Pillow: pip install "jaxconvex[encoders]"') from error
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode[0] not in "IF":
                return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
        problems[path] = f"has more than 8 bits (mode {picture.mode})"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for damaged files
        problems[path] = "can not be read as a picture to its end"
    return np.zeros((0, 0), np.uint8)
