"""Images for vision encoders: colour, size, crop and scale, as a checkpoint's image processor says."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from jaxconvex.encoders.preprocessing.inputs import (
    Inputs,
    as_array,
    as_items,
    check_like,
    missing,
    refuse_others,
    whole,
)

__all__ = ["ImageSettings", "image_settings", "preprocess_images"]

HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers

# What a processor does where its file says nothing.
PLAIN: dict[str, Any] = {
    **dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), True),
    "do_center_crop": False,
    "rescale_factor": 1 / 255,
    "size": {"height": 224, "width": 224},
    "crop_size": 224,
    "image_mean": HALF,
    "image_std": HALF,
}
CROPPED: dict[str, Any] = PLAIN | {
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "image_mean": CLIP[0],
    "image_std": CLIP[1],
    "resample": BICUBIC,
    "default_to_square": False,
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": {**PLAIN, "resample": BILINEAR},
    "BeitImageProcessor": {**PLAIN, "resample": BICUBIC},
    "BitImageProcessor": CROPPED,
    "CLIPImageProcessor": CROPPED,
    "SiglipImageProcessor": {**PLAIN, "resample": BICUBIC, "default_to_square": False},
    "DINOv3ViTImageProcessor": {**PLAIN, "resample": BILINEAR, "image_mean": IMAGENET[0], "image_std": IMAGENET[1]},
}
FAMILIES = {  # whose processor each family has
    **dict.fromkeys(("beit", "data2vec-vision"), "BeitImageProcessor"),
    "vit": "ViTImageProcessor",
    "dinov2": "BitImageProcessor",
    "dinov3_vit": "DINOv3ViTImageProcessor",
    "clip_vision_model": "CLIPImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
}
DINOV2: dict[str, Any] = {"size": {"shortest_edge": 256}, "image_mean": IMAGENET[0], "image_std": IMAGENET[1]}

HARMLESS = {  # they name things, or act on segmentation maps only, or choose a library
    "image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "name_or_path", "_name_or_path",
    "_valid_processor_keys", "_processor_class", "do_convert_rgb", "do_reduce_labels", "reduce_labels", "data_format",
    "input_data_format", "return_tensors", "device", "disable_grouping", "transformers_version", "backend",
}  # fmt: skip


class ImageSettings(NamedTuple):
    """What happens to an image; `size` is (height, width), or the length of the shorter side, or None for no resizing."""

    size: tuple[int, int] | int | None
    resample: int  # Pillow's filter
    crop: tuple[int, int] | None  # the centre, after resizing
    square: float | None  # before resizing, the centre square with this share of the shorter side is cut out
    scale: float  # of a pixel value 0 to 255, before
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rounded: bool = True  # whether what is resized has 8 bits


def preprocess_images(items: Any, settings: ImageSettings, *, size: int | tuple[int, int] | None = None) -> Inputs:
    """The images as float32 (b, height, width, 3), resized, cropped and scaled as the checkpoint says; no mask.

    Args:
        items: PIL images, arrays (height, width) or (height, width, channels) with 1, 3 or 4 channels, uint8 or floats in
            [0, 1] (rounded to 255 steps), or paths of image files. Images are turned upright as their EXIF data say. All
            become RGB; transparent ones are laid on white.
        settings: bound already in the function that `encoders.load` returns.
        size: another height and width of the result, or an int for a square. A resizing to the shorter side before a
            crop keeps its proportion to the crop. By default the checkpoint's.

    Resizing is Pillow's, on 8 bits, as in the PIL image processors of transformers, with which the result agrees to 1e-6;
    for DINOv3 on floats, as its processor does.

    Raises:
        ValueError: an item is no image, cannot be read to its end, has 16 or 32 bits, or the images come out with different
            sizes.
        ImportError: Pillow is missing.

    Cost: about 2 ms for a photograph of 640 x 480 pixels on one core.

    >>> settings = image_settings({}, "vit", {"image_size": 2})
    >>> preprocess_images([np.full((5, 4, 3), 255, np.uint8)], settings).inputs.tolist()
    [[[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]]
    """
    settings = settings if size is None else _with_size(settings, size)
    mean, deviation = (np.asarray(values, np.float32) for values in (settings.mean, settings.std))
    scaled = (np.arange(256) * float(settings.scale)).astype(np.float32)
    table = (scaled[:, None] - mean) / deviation  # what each of 256 values becomes in each channel
    channel = np.arange(3)
    if isinstance(items, np.ndarray) and (items.ndim < 3 or (items.ndim == 3 and items.shape[2] in (1, 3, 4))):
        raise ValueError(
            f"items must be a list of images; an array of shape {items.shape} is a single one. Put it in a list."
        )
    pixels = [_pixels(_as_rgb(item, i), settings) for i, item in enumerate(as_items(items, "image"))]
    shapes = sorted({image.shape[:2] for image in pixels})
    if len(shapes) > 1:
        raise ValueError(
            f"the images of a batch must come out with one size; got {shapes}. This checkpoint does not crop them: pass "
            "size=(height, width), or images of one shape."
        )
    if settings.rounded:
        return Inputs(np.stack([table[image, channel] for image in pixels]), None)
    return Inputs((np.stack(pixels) * np.float32(settings.scale) - mean) / deviation, None)


def image_settings(file: dict[str, Any], model_type: str, config: dict[str, Any]) -> ImageSettings:
    """The settings of an image processor's file, or, if it is empty, the family's documented ones.

    The documented ones: ViT, BEiT, data2vec-vision and SigLIP: to the config's image_size (224), mean and standard
    deviation 0.5; CLIP: shorter side to image_size, the centre, mean and deviation of its own; DINOv2: shorter side to 256,
    centre 224, ImageNet's mean and deviation; DINOv3: to image_size, the same mean and deviation; EfficientNet-lite0: the
    centre square of 0.875 of the shorter side, bicubic to 224, (x - 127) / 128.

    Source: the image processors of transformers; for EfficientNet-lite, the constants that its authors published with it.
    """
    if model_type == "efficientnet-lite0":
        if file:
            raise ValueError(
                "a preprocessor_config.json of an EfficientNet-lite0 is not supported; remove it for the published one."
            )
        return ImageSettings((224, 224), BICUBIC, None, 0.875, 1.0, (127.0,) * 3, (128.0,) * 3)
    channels = config.get("num_channels", 3)
    if channels != 3:
        raise ValueError(
            f"images are prepared in RGB, with 3 channels; this checkpoint's config says num_channels={channels}."
        )
    size = config.get("image_size", 224)
    usual = {"dinov2": DINOV2, "clip_vision_model": {"size": size, "crop_size": size}}
    file = file or usual.get(model_type, {"size": _pair(size)})
    name = str(file.get("image_processor_type") or file.get("feature_extractor_type") or FAMILIES[model_type])
    name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if name not in PROCESSORS:
        raise ValueError(f"the image processor {name} is not supported; supported are {', '.join(PROCESSORS)}.")
    defaults = PROCESSORS[name]
    refuse_others(file, {*CROPPED, *HARMLESS}, name)
    said: dict[str, Any] = defaults | {key: value for key, value in file.items() if value is not None}
    check_like(said, defaults, name)
    if whole(said["resample"], "resample", least=0) > 5:
        raise ValueError(f"resample must be one of Pillow's filters, 0 to 5; got {said['resample']!r}.")
    normalised = said["do_normalize"]
    return ImageSettings(
        size=_size(said["size"], said.get("default_to_square", True)) if said["do_resize"] else None,
        resample=said["resample"],
        crop=_pair(said["crop_size"]) if said["do_center_crop"] else None,
        square=None,
        scale=said["rescale_factor"] if said["do_rescale"] else 1.0,
        mean=_channels(said["image_mean"]) if normalised else (0.0,) * 3,
        std=_deviations(said["image_std"]) if normalised else (1.0,) * 3,
        rounded=name != "DINOv3ViTImageProcessor",
    )


def _size(size: Any, to_square: bool) -> tuple[int, int] | int:
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return whole(size["shortest_edge"], "shortest_edge")
    if isinstance(size, int) and not to_square:
        return whole(size, "size")
    return _pair(size)


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        if set(size) != {"height", "width"}:
            raise ValueError(f"a size must name height and width, or shortest_edge; {size} is not supported.")
        size = size["height"], size["width"]
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return whole(size[0], "height"), whole(size[1], "width")
    return (whole(size, "size"),) * 2


def _channels(value: Any) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * 3
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    if len(values) != 3 or not numbers:
        raise ValueError(f"image_mean and image_std must have one number a channel of RGB; got {value!r:.80}.")
    return values


def _deviations(value: Any) -> tuple[float, ...]:
    values = _channels(value)
    if min(values) <= 0:
        raise ValueError(f"image_std must be above 0; got {value}.")
    return values


def _with_size(settings: ImageSettings, size: int | tuple[int, int]) -> ImageSettings:
    height, width = _pair(size)
    if settings.crop is None:
        return settings._replace(size=(height, width))
    growth = max(height / settings.crop[0], width / settings.crop[1])
    before = settings.size
    if isinstance(before, tuple):
        before = (round(before[0] * height / settings.crop[0]), round(before[1] * width / settings.crop[1]))
    elif before is not None:
        before = round(before * growth)
    return settings._replace(size=before, crop=(height, width))


def _as_rgb(item: Any, i: int) -> Any:
    """A PIL image in RGB."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise missing("Pillow") from error
    if isinstance(item, (str, PathLike)):
        try:
            with Image.open(item) as file:
                file.load()
                image = ImageOps.exif_transpose(file)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
            raise ValueError(f"item {i}, {item}, cannot be read as an image: {error}") from error
    elif isinstance(item, Image.Image):
        try:
            image = ImageOps.exif_transpose(item)
        except OSError as error:  # an opened file is read only now
            raise ValueError(f"item {i} cannot be read as an image: {error}") from error
    else:
        image = Image.fromarray(_as_bytes(item, i))
    if 0 in image.size:
        raise ValueError(f"item {i} must be an image with pixels; it has {image.width} x {image.height}.")
    if image.mode == "La":  # premultiplied, for which Pillow has no direct way
        image = image.convert("LA")
    if image.mode[0] in "IF":
        raise ValueError(f"item {i} is an image with mode {image.mode}; scale it to 8 bits (0 to 255) first.")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _as_bytes(item: Any, i: int) -> UInt8[np.ndarray, ...]:
    array = as_array(item, i)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if (
        array.dtype.kind not in "uf"
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)))
        or not array.size
    ):
        raise ValueError(
            f"item {i} must be a PIL image, a path, or an array (height, width) or (height, width, 1, 3 or 4 channels) "
            f"of uint8 or floats; got {type(item).__name__} with shape {array.shape} and type {array.dtype}."
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" or not (array.min() >= 0 and array.max() <= 1):  # NaN fails, too
        raise ValueError(
            f"item {i} must hold uint8, or floats in [0, 1]; got {array.dtype} from {array.min()} to "
            f"{array.max()}. Scale it first."
        )
    return np.round(array * 255).astype(np.uint8)


def _pixels(image: Any, settings: ImageSettings) -> UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"]:
    """The image resized and cropped, with values to 255."""
    size = settings.size
    if settings.square is not None:
        length = max(1, int(settings.square * min(image.size)))
        left, top = ((side - length + 1) // 2 for side in image.size)
        image = image.crop((left, top, left + length, top + length))
    if isinstance(size, int):
        short, long = sorted(image.size)
        other = int(size * long / short)
        size = (other, size) if image.width <= image.height else (size, other)
    bands = [image] if settings.rounded else [band.convert("F") for band in image.split()]
    if size is not None:
        bands = [band.resize((size[1], size[0]), resample=settings.resample) for band in bands]
    pixels = np.asarray(bands[0]) if settings.rounded else np.stack(bands, axis=-1)
    return pixels if settings.crop is None else _centre(pixels, settings.crop)


def _centre(pixels: Shaped[np.ndarray, "h w 3"], crop: tuple[int, int]) -> Shaped[np.ndarray, "a b 3"]:
    """The centre of an image, with black around it where the image is too small."""
    short = [max(target - side, 0) for target, side in zip(crop, pixels.shape, strict=False)]
    if any(short):
        pixels = np.pad(pixels, [*((n - n // 2, n // 2) for n in short), (0, 0)])
    top, left = ((side - target) // 2 for target, side in zip(crop, pixels.shape, strict=False))
    return pixels[top : top + crop[0], left : left + crop[1]]
