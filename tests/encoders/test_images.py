"""Images for encoders: against the PIL image processors of transformers, and values computed by hand."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from jaxconvex.encoders.preprocessing import preprocessor

Image = pytest.importorskip("PIL.Image", reason="pillow of the extra jaxconvex[encoders]")

SHAPES = [(37, 53), (91, 40), (17, 17), (300, 211), (5, 260)]


def pictures(mode: str = "RGB", shapes=SHAPES) -> list:
    draws = np.random.default_rng(0)
    found = []
    for height, width in shapes:
        small = Image.fromarray(draws.integers(0, 256, (7, 5, 4), dtype=np.uint8), "RGBA")
        found.append(small.resize((width, height), resample=3).convert(mode))
    return found


def original(family: str, **settings):
    """An image processor of transformers on Pillow: its own vision library may be missing or broken here."""
    pytest.importorskip("torch")
    utils = pytest.importorskip("transformers.utils")
    with pytest.MonkeyPatch.context() as patch:
        for module in (utils, utils.import_utils):
            patch.setattr(module, "is_torchvision_available", lambda: False)
        module = importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    name = {"vit": "ViT", "clip": "CLIP"}.get(family, family.capitalize())
    return getattr(module, f"{name}ImageProcessorPil")(**settings)


def saved(processor, folder):
    processor.save_pretrained(folder)
    return folder


CASES = {
    "vit": ("vit", "vit", {}),
    "vit, another size": (
        "vit",
        "vit",
        {"size": {"height": 30, "width": 44}, "resample": 1, "image_mean": [0.1, 0.2, 0.3]},
    ),
    "vit, no resizing before a crop": ("vit", "vit", {"do_resize": False, "do_center_crop": True, "crop_size": 31}),
    "vit, nothing scaled": ("vit", "vit", {"do_rescale": False, "do_normalize": False, "size": 24}),
    "beit": ("beit", "beit", {}),
    "data2vec": ("data2vec-vision", "beit", {"do_center_crop": True, "size": 40, "crop_size": 32, "resample": 2}),
    "dinov2": (
        "dinov2",
        "bit",
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 50}, "image_std": [0.2, 0.3, 0.4]},
    ),
    "dinov2, old spelling": ("dinov2", "bit", {"size": 33, "crop_size": 34}),
    "clip": ("clip_vision_model", "clip", {"size": {"shortest_edge": 40}, "crop_size": 36}),
    "siglip": ("siglip_vision_model", "siglip", {"size": {"height": 30, "width": 30}}),
}


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "CMYK", "1"])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_transformers(case, mode, tmp_path):
    model_type, family, settings = CASES[case]
    processor = original(family, **settings)
    preprocess = preprocessor(saved(processor, tmp_path), model_type, {})
    for picture in pictures(mode):
        expected = processor([picture], do_convert_rgb=True, return_tensors="np")["pixel_values"]
        found = preprocess([picture])
        assert found.inputs.dtype == np.float32 and found.mask is None
        np.testing.assert_allclose(found.inputs, np.moveaxis(expected, 1, -1), atol=1e-6)


def test_the_documented_defaults_are_those_of_transformers():
    vit, beit = original("vit", size=32), original("beit", size=32)
    dinov2 = original(
        "bit",
        size={"shortest_edge": 256},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    config = {"image_size": 32}
    clip = original("clip", size={"shortest_edge": 32}, crop_size=32)
    siglip = original("siglip", size={"height": 32, "width": 32})
    cases = [("vit", vit), ("beit", beit), ("data2vec-vision", beit), ("dinov2", dinov2)]
    for model_type, processor in [*cases, ("clip_vision_model", clip), ("siglip_vision_model", siglip)]:
        expected = processor(pictures(), return_tensors="np")["pixel_values"]
        found = preprocessor(None, model_type, config)(pictures()).inputs
        np.testing.assert_allclose(found, np.moveaxis(expected, 1, -1), atol=1e-6)


def test_dinov3_resizes_floats():
    """As its processor in transformers: scaled, resized by torch with antialiasing, normalised."""
    torch = pytest.importorskip("torch")
    mean, deviation = (np.array(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for picture in pictures():
        pixels = torch.tensor(np.asarray(picture).transpose(2, 0, 1)[None] / np.float32(255))
        resized = torch.nn.functional.interpolate(pixels, (32, 24), mode="bilinear", antialias=True)[0].numpy()
        found = preprocessor(None, "dinov3_vit", {"image_size": [32, 24]})([picture]).inputs[0]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, ((resized - mean) / deviation).transpose(1, 2, 0), atol=1e-5)


def test_arrays_and_files_are_as_their_pictures(tmp_path):
    preprocess = preprocessor(None, "vit", {"image_size": 20})
    picture = pictures()[0]
    array = np.asarray(picture)
    picture.save(tmp_path / "picture.png")
    expected = preprocess([picture]).inputs[0]
    for item in (
        array,
        array / 255,
        (array / 255).astype(np.float32),
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
    ):
        np.testing.assert_array_equal(preprocess([item]).inputs[0], expected)
    np.testing.assert_array_equal(preprocess([np.full((8, 8), 0.999)]).inputs, 1)  # the nearest of 255 steps
    grey = np.asarray(pictures("L")[0])
    np.testing.assert_array_equal(preprocess([grey[..., None]]).inputs, preprocess([np.stack([grey] * 3, -1)]).inputs)
    batch = np.stack([array, array[::-1]])
    np.testing.assert_array_equal(preprocess(batch).inputs, preprocess(list(batch)).inputs)


def test_a_file_is_turned_upright(tmp_path):
    picture = pictures()[0]
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save(tmp_path / "turned.png", exif=exif)
    preprocess = preprocessor(None, "vit", {"image_size": 20})
    expected = preprocess([picture.transpose(Image.Transpose.ROTATE_270)]).inputs
    np.testing.assert_array_equal(preprocess([tmp_path / "turned.png"]).inputs, expected)


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert (preprocessor(None, "vit", {"image_size": 4})([clear]).inputs == 1).all()


def test_efficientnet_by_hand():
    """The centre 0.875 of the shorter side, then bicubic, then (x - 127) / 128."""
    preprocess = preprocessor(None, "efficientnet-lite0", {})
    wide = np.zeros((256, 400, 3), np.uint8)
    wide[16:240, 88:312] = np.random.default_rng(0).integers(0, 256, (224, 224, 3))
    np.testing.assert_allclose(preprocess([wide]).inputs[0], (wide[16:240, 88:312] - 127.0) / 128, atol=1e-6)
    picture = pictures()[3]
    expected = np.asarray(picture.crop((14, 58, 14 + 184, 58 + 184)).resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(preprocess([picture]).inputs[0], (expected - 127.0) / 128, atol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "shape"), [("vit", (48, 32)), ("dinov2", (56, 56)), ("efficientnet-lite0", (64, 64))]
)
def test_another_size(model_type, shape):
    preprocess = preprocessor(None, model_type, {})
    assert preprocess(pictures(), size=shape).inputs.shape == (5, *shape, 3)
    side = shape[1]
    assert preprocess(pictures(), size=side).inputs.shape == (5, side, side, 3)


def test_another_size_keeps_what_is_seen():
    """The crop covers the same part of the picture."""
    edge = np.zeros((256, 256, 3), np.uint8)
    edge[:, 64:] = 255
    run = preprocessor(None, "dinov2", {})
    assert [np.sum(run([edge], size=size).inputs[0, 5, :, 0] > 0) for size in (None, 112)] == [176, 88]


WRONG = {
    "one image": (lambda run: run(pictures()[0]), "Put a single one in a list"),
    "one array": (lambda run: run(np.zeros((8, 8, 3), np.uint8)), "Put it in a list"),
    "no image": (lambda run: run([]), "at least one image"),
    "a path": (lambda run: run("picture.png"), "Put a single one in a list"),
    "channels first": (lambda run: run([np.zeros((3, 8, 8), np.uint8)]), "item 0 must be a PIL image"),
    "text": (lambda run: run([pictures()[0], b"jpeg"]), "item 1 must be a PIL image"),
    "16 bits": (lambda run: run([np.zeros((8, 8), np.uint16)]), "must hold uint8"),
    "floats": (lambda run: run([np.full((8, 8, 3), 2.0)]), r"floats in \[0, 1\]"),
    "nan": (lambda run: run([np.full((8, 8, 3), np.nan)]), r"floats in \[0, 1\]"),
    "mode": (lambda run: run([Image.new("I;16", (4, 4))]), "mode I;16"),
    "no pixels": (lambda run: run([Image.new("RGB", (0, 4))]), "it has 0 x 4"),
    "a mask": (
        lambda run: run([np.ma.masked_array(np.zeros((8, 8), np.uint8), mask=True)]),
        "item 0 is a masked array",
    ),
    "size": (lambda run: run(pictures(), size=0), "size must be a whole number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_items_are_told(case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(preprocessor(None, "vit", {"image_size": 8}))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"do_pad": True}, "do_pad=True"),
        ({"do_flip_channel_order": True, "crop_pct": 0.9}, "do_flip_channel_order=True, crop_pct=0.9"),
        ({"feature_extractor_type": "DonutFeatureExtractor"}, "DonutImageProcessor is not supported"),
        ({"size": {"longest_edge": 5}}, "height and width"),
        ({"image_mean": [0.5]}, "one number a channel"),
        ({"image_mean": [0.5, "a", 0.5]}, "one number a channel"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std must be above 0"),
        ({"do_resize": "yes"}, "do_resize like True; got 'yes'"),
        ({"rescale_factor": None, "resample": 9}, "resample must be one of Pillow's filters"),
        ({"size": {"height": 8}}, "must name height and width"),
    ],
)
def test_settings_that_are_not_known_are_refused(file, message, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(file))
    with pytest.raises(ValueError, match=message):
        preprocessor(tmp_path, "vit", {})


def test_broken_files_are_told(tmp_path):
    run = preprocessor(None, "vit", {"image_size": 8})
    for name in ("a.png", "a.jpg", "a.gif"):
        pictures()[0].convert("RGB").save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for length in (0, 20, len(whole) // 2):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=f"item 0, .*{name}, cannot be read as an image"):
                run([tmp_path / name])
        opened = Image.open(tmp_path / name)
        with pytest.raises(ValueError, match="item 0 cannot be read as an image"):
            run([opened])
    with pytest.raises(ValueError, match=r"item 1, .*absent\.png, cannot be read"):
        run([pictures()[0], tmp_path / "absent.png"])


def test_an_opened_image_is_turned_as_its_file_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    run = preprocessor(None, "vit", {"image_size": 8})
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = run([np.rot90(pixels, -1)]).inputs
    for item in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        np.testing.assert_array_equal(run([item]).inputs, turned)
    premultiplied = Image.fromarray(pixels[..., 0]).convert("LA").convert("La")
    np.testing.assert_array_equal(run([premultiplied]).inputs, run([pixels[..., 0]]).inputs)


def test_files_of_old(tmp_path):
    old = {
        "feature_extractor_type": "ViTFeatureExtractor",
        "do_normalize": True,
        "size": 12,
        "do_pad": False,
        "resample": 2,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    run = preprocessor(tmp_path, "vit", {"image_size": 99})
    expected = preprocessor(None, "vit", {"image_size": 12})(pictures()).inputs
    np.testing.assert_array_equal(run(pictures()).inputs, expected)
    nested = tmp_path / "nested"
    nested.mkdir()
    (nested / "processor_config.json").write_text(json.dumps({"image_processor": old}))
    np.testing.assert_array_equal(preprocessor(nested, "vit", {})(pictures()).inputs, expected)


def test_images_of_two_sizes_make_no_batch(tmp_path):
    file = {"image_processor_type": "BitImageProcessor", "do_center_crop": False, "size": {"shortest_edge": 9}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(file))
    run = preprocessor(tmp_path, "dinov2", {})
    assert run(pictures()[:1]).inputs.shape == (1, 9, 12, 3)
    with pytest.raises(ValueError, match="one size"):
        run(pictures())
    assert run(pictures(), size=(9, 11)).inputs.shape == (5, 9, 11, 3)
