"""The entry to preprocessing: which function a family gets; and windows of acceleration."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from jaxconvex.encoders.preprocessing import Inputs, preprocessor
from jaxconvex.encoders.preprocessing.signals import preprocess_signals, window_owners

FAMILIES = {
    "vit": ([np.zeros((5, 5), np.uint8)], (1, 224, 224, 3)),
    "dinov2": ([np.zeros((5, 5), np.uint8)], (1, 224, 224, 3)),
    "efficientnet-lite0": ([np.zeros((5, 5), np.uint8)], (1, 224, 224, 3)),
    "data2vec-audio": ([np.ones(700)], (1, 700)),
    "whisper": ([np.ones(700)], (1, 3000, 80)),
    "resnet1d": ([np.ones((500, 3))], (1, 300, 3)),
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_has_its_function(model_type):
    items, shape = FAMILIES[model_type]
    if shape[-1] == 3 and len(shape) == 4:
        pytest.importorskip("PIL")
    run = preprocessor(None, model_type, {})
    found = run(items)
    assert isinstance(found, Inputs) and found.inputs.shape == shape and found.inputs.dtype == np.float32
    assert run.__doc__.startswith("The ") or run.__doc__.startswith("Windows")
    assert "settings" in repr(run).lower()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(run))(items).inputs, found.inputs)


def test_an_unknown_family_has_none(tmp_path):
    assert preprocessor(tmp_path, "gpt2", {}) is None
    assert preprocessor(None, "t5", {}) is None


def test_a_broken_file_is_told(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="must hold a JSON object; got list"):
        preprocessor(tmp_path, "vit", {})


@pytest.mark.parametrize(
    ("model_type", "items", "library"),
    [("vit", [np.zeros((5, 5), np.uint8)], "PIL"), ("hubert", ["clip.wav"], "soundfile")],
)
def test_a_missing_library_names_the_extra(model_type, items, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r'pip install "jaxconvex\[encoders\]"'):
        preprocessor(None, model_type, {})(items)


def test_a_missing_tokenizer_library_names_the_extra(monkeypatch, tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r'pip install "jaxconvex\[encoders\]"'):
        preprocessor(tmp_path, "bert", {})


# Acceleration


def walk(samples: int, rate: float = 30) -> np.ndarray:
    t = np.arange(samples) / rate
    return np.stack([0.2 * np.sin(6 * t), 0.1 * np.cos(4 * t), 1 + 0.1 * np.sin(9 * t)], axis=1)


def test_windows_follow_each_other():
    recording = walk(950)
    windows = preprocess_signals([recording, walk(300)]).inputs
    assert windows.dtype == np.float32
    expected = [recording[:300], recording[300:600], recording[600:900], walk(300)]
    np.testing.assert_array_equal(windows, np.stack(expected).astype(np.float32))
    assert window_owners([recording, walk(300)]).tolist() == [0, 0, 0, 1]


def test_windows_overlap():
    recording = walk(950, 32)
    windows = preprocess_signals([recording, walk(3)], rate=32, stride=5).inputs
    owners = window_owners([recording, walk(3)], rate=32, stride=5)
    assert owners.tolist() == [0, 0, 0, 0, 1] and len(windows) == 5
    np.testing.assert_array_equal(windows[1], preprocess_signals([recording[160:480]], rate=32).inputs[0])


@pytest.mark.parametrize("rate", [20, 32, 50, 100])
def test_other_rates_keep_the_movement(rate):
    windows = preprocess_signals([walk(10 * rate, rate)], rate=rate).inputs
    assert windows.shape == (1, 300, 3)
    t = np.linspace(0, (10 * rate - 1) / rate, 300)  # the ends are kept
    expected = np.stack([0.2 * np.sin(6 * t), 0.1 * np.cos(4 * t), 1 + 0.1 * np.sin(9 * t)], axis=1)
    np.testing.assert_allclose(
        windows[0], expected, atol=0.1 * (9 / rate) ** 2 / 8 * 1.2 + 1e-6
    )  # of linear interpolation
    np.testing.assert_allclose(windows[0, [0, -1]], walk(10 * rate, rate)[[0, -1]], atol=1e-6)


def test_a_short_recording_is_held_at_its_end():
    windows = preprocess_signals([walk(50)]).inputs
    np.testing.assert_allclose(windows[0, :50], walk(50), atol=1e-6)
    np.testing.assert_allclose(windows[0, 50:], np.broadcast_to(walk(50)[-1], (250, 3)), atol=1e-6)


@pytest.mark.parametrize(("seconds", "samples"), [(5, 150), (30, 900)])
def test_other_windows(seconds, samples):
    run = preprocessor(None, "resnet1d", {"epoch_len": seconds})
    assert run(walk(2000)[None]).inputs.shape == (2000 // samples, samples, 3)


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (walk(300), {}, "Put a single recording in a list"),
        ([walk(300)[:, :2]], {}, "three axes"),
        ([walk(0)], {}, "three axes"),
        ([], {}, "at least one recording"),
        ([walk(300), walk(300) * np.nan], {}, "item 1 must be finite"),
        ([walk(300) * 9.81], {}, "divide by 9.81"),
        ([walk(300)], {"rate": 0}, "rate must be a number above 0"),
        ([walk(300)], {"stride": "all"}, "stride must be a number above 0"),
    ],
)
def test_wrong_recordings_are_told(items, options, message):
    with pytest.raises(ValueError, match=message):
        preprocess_signals(items, **options)


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from jaxconvex.encoders.preprocessing import audio, images, preprocessor, signals, text; "
        "print({'torch', 'transformers', 'tokenizers', 'PIL', 'soundfile', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr[-2000:]
