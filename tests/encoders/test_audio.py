"""Sound for encoders: against the feature extractors of transformers, and values computed by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxconvex.encoders.preprocessing import preprocessor
from jaxconvex.encoders.preprocessing.audio import log_mel, log_mel_settings, mel_filters, resample

LENGTHS = [401, 1600, 4003, 12_345, 16_000, 31_999]
LAYERED = {"feat_extract_norm": "layer"}


def clips(lengths=LENGTHS) -> list[np.ndarray]:
    draws = np.random.default_rng(0)
    return [(0.3 * draws.normal(size=n) + 0.05).astype(np.float32) for n in lengths]


def speech(data, count: int = 12) -> list:
    folder = next((f for f in (data / "data/fsdd/recordings", data / "fsdd/recordings") if f.is_dir()), None)
    if folder is None:
        pytest.skip("needs fsdd/recordings of the Free Spoken Digit Dataset in JAXCONVEX_DATA")
    return sorted(folder.glob("*.wav"))[:: 3000 // count]


def original(name: str, **settings):
    pytest.importorskip("torch")
    return getattr(pytest.importorskip("transformers"), name)(**settings)


def saved(extractor, folder):
    extractor.save_pretrained(folder)
    return folder


# Waveforms


@pytest.mark.parametrize("settings", [{}, {"do_normalize": False}, {"padding_value": -0.5}, {"sampling_rate": 8000}])
def test_waveforms_with_a_mask_equal_transformers(settings, tmp_path):
    extractor = original("Wav2Vec2FeatureExtractor", return_attention_mask=True, **settings)
    run = preprocessor(saved(extractor, tmp_path), "wav2vec2", {})
    for options, ours in [
        ({"padding": True}, {}),
        ({"padding": "max_length", "max_length": 5000, "truncation": True}, {"length": 5000}),
    ]:
        expected = extractor(
            clips(), return_tensors="np", sampling_rate=settings.get("sampling_rate", 16_000), **options
        )
        samples, mask = run(clips(), **ours)
        assert samples.dtype == np.float32
        np.testing.assert_allclose(samples, expected["input_values"], atol=1e-5)
        np.testing.assert_array_equal(mask, expected["attention_mask"].astype(bool))


def test_waveforms_without_a_mask_equal_transformers_each_alone(tmp_path):
    """In a batch, transformers takes mean and variance over the padding, too, where there is no mask."""
    extractor = original("Wav2Vec2FeatureExtractor")
    run = preprocessor(saved(extractor, tmp_path), "hubert", LAYERED)
    samples, mask = run(clips())
    assert mask is None
    for found, clip in zip(samples, clips(), strict=True):
        expected = extractor([clip], return_tensors="np", padding=True, sampling_rate=16_000)["input_values"][0]
        np.testing.assert_allclose(found[: len(clip)], expected, atol=1e-5)
        assert not found[len(clip) :].any()
    together = [clip[:401] for clip in clips()]
    expected = extractor(together, return_tensors="np", padding=True, sampling_rate=16_000)["input_values"]
    np.testing.assert_allclose(run(together).inputs, expected, atol=1e-5)
    assert run(clips(), mask=True).mask.sum(axis=1).tolist() == LENGTHS


def test_speech_equals_transformers(data):
    soundfile = pytest.importorskip("soundfile")
    files = speech(data)
    extractor = original("Wav2Vec2FeatureExtractor", sampling_rate=8000, return_attention_mask=True)
    read = [soundfile.read(file, dtype="float32")[0] for file in files]
    expected = extractor(read, return_tensors="np", padding=True, sampling_rate=8000)["input_values"]
    run = preprocessor(None, "wavlm", LAYERED)
    samples, mask = run(files)
    assert mask.sum(axis=1).tolist() == [2 * len(clip) for clip in read]  # from 8,000 to 16,000 a second
    same_rate = run([(clip, 16_000) for clip in read]).inputs
    np.testing.assert_allclose(same_rate, expected, atol=1e-5)
    # Twice the rate, the same sound: every second sample, but for what lies near the Nyquist frequency.
    for found, other, clip in zip(samples, same_rate, read, strict=True):
        assert np.sqrt(np.mean((found[: 2 * len(clip) : 2] - other[: len(clip)]) ** 2)) < 0.02


def test_which_models_get_a_mask():
    for model_type, config, masked in [
        ("wav2vec2", {"feat_extract_norm": "group"}, False),
        ("wav2vec2", LAYERED, True),
        ("wavlm", {}, False),
        ("data2vec-audio", {}, True),
    ]:
        assert (preprocessor(None, model_type, config)(clips()).mask is not None) == masked


def test_kinds_of_clips_are_one(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    run = preprocessor(None, "wav2vec2", {})
    clip = np.round(clips()[2] * 10_000) / 32768
    steps = np.round(clip * 32768)
    expected = run([clip]).inputs
    soundfile.write(tmp_path / "one.wav", steps.astype(np.int16), 16_000)
    soundfile.write(tmp_path / "two.flac", np.stack([steps.astype(np.int16)] * 2, axis=1), 16_000)
    for item in [
        steps.astype(np.int16),
        (steps * 2**16).astype(np.int32),
        (steps * 2**16).astype(">i4"),
        (steps + 32768).astype(np.uint16),
        (clip, 16_000),
        clip.astype(np.float32),
        tmp_path / "one.wav",
        str(tmp_path / "two.flac"),
    ]:
        np.testing.assert_allclose(run([item]).inputs, expected, atol=1e-5)
    np.testing.assert_array_equal(run(np.stack([clip, clip])).inputs[1:], expected)
    np.testing.assert_array_equal(run([(clip, 8_000)]).inputs, run([clip], rate=8_000).inputs)


# Resampling


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_what_is_below_and_stops_what_is_above(rate):
    """The numbers of its docstring."""
    lower, seconds = min(rate, 16_000) / 2, 0.25

    def after(hertz: float) -> tuple[np.ndarray, np.ndarray]:
        found = resample(np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate), rate, 16_000)
        wanted = np.sin(2 * np.pi * hertz * np.arange(len(found)) / 16_000)
        inner = slice(len(found) // 4, -len(found) // 4)
        return found[inner], wanted[inner]

    for share in (0.02, 0.3, 0.5, 0.7, 0.9):
        found, wanted = after(share * lower)
        assert np.abs(found - wanted).max() < 2e-4
    found, wanted = after(0.95 * lower)
    assert np.abs(found - wanted).max() < 0.07
    if rate > 16_000:
        for share in (1.1, 1.2, 1.3):
            assert np.abs(after(share * lower)[0]).max() < 2e-4


# Log-mel


@pytest.mark.parametrize("mel", [80, 128])
@pytest.mark.parametrize("frames", [100, 201, 3000])
def test_log_mel_equals_transformers(mel, frames, tmp_path):
    extractor = original("WhisperFeatureExtractor", feature_size=mel)
    run = preprocessor(saved(extractor, tmp_path), "whisper", {"num_mel_bins": mel})
    expected = extractor(
        clips(),
        return_tensors="np",
        sampling_rate=16_000,
        max_length=frames * 160,
        return_attention_mask=True,
    )
    features, mask = run(clips(), mask=True, **({} if frames == 3000 else {"frames": frames}))
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected["input_features"].transpose(0, 2, 1), atol=1e-5)
    np.testing.assert_array_equal(mask, expected["attention_mask"].astype(bool))


def test_log_mel_of_speech_equals_transformers(data):
    """Speech has a wide range of levels: against the original in float64, since in float32 quiet frames are inexact."""
    soundfile = pytest.importorskip("soundfile")
    extractor = original("WhisperFeatureExtractor")
    read = [soundfile.read(file)[0] for file in speech(data)]
    longer = [np.repeat(clip, 2) for clip in read]
    features, mask = preprocessor(None, "whisper", {})(longer, frames=200, mask=True)
    padded = np.stack([np.pad(clip, (0, 32_000))[:32_000] for clip in longer])
    expected = extractor._np_extract_fbank_features(padded, "cpu").transpose(0, 2, 1)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    expected = extractor._torch_extract_fbank_features(padded.astype(np.float32)).transpose(0, 2, 1)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    assert mask.sum(axis=1).tolist() == [min(200, -(-len(clip) // 160)) for clip in longer]


def test_fewer_frames_are_the_first_of_many():
    """But for the last, which reflect the end, and the loudest value, which is the clip's own in both."""
    run = preprocessor(None, "whisper", {})
    many, few = run(clips()[:3]).inputs, run(clips()[:3], frames="longest").inputs
    assert few.shape == (3, 26, 80)
    np.testing.assert_allclose(few[:, :23], many[:, :23], atol=1e-6)


def test_silence_and_a_tone():
    run = preprocessor(None, "whisper", {})
    assert run([np.zeros(3200)]).mask is None  # as the original
    features, mask = run([np.zeros(3200)], mask=True)
    assert features.shape == (1, 3000, 80) and (features == -1.5).all() and mask.sum() == 20
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    features, _ = run([tone], frames=100)
    middle = features[0, 50]
    # The bin at 1,000 Hz holds (amplitude / 2 * sum of the window)^2 times its weight; two neighbours hold a quarter each.
    filters = mel_filters(80, 400, 16_000)
    power = (0.5 / 2 * 200) ** 2 * (filters[25] + filters[24] / 4 + filters[26] / 4)
    np.testing.assert_allclose(middle[power > 0], (np.log10(power[power > 0]) + 4) / 4, atol=1e-5)
    assert middle.argmax() in np.flatnonzero(power) and (middle >= features.max() - 2 - 1e-6).all()


def test_filters_have_area_one_and_meet():
    filters = mel_filters(80, 20_000, 16_000)  # fine enough to integrate
    np.testing.assert_allclose(filters.sum(axis=0) * 16_000 / 20_000, 1, atol=1e-3)
    peaks = filters.argmax(axis=0) * 16_000 / 20_000
    assert np.allclose(np.diff(peaks[:20]), np.diff(peaks)[0], atol=1.7)  # linear below 1,000 Hz
    ratios = peaks[40:][1:] / peaks[40:][:-1]
    np.testing.assert_allclose(ratios, ratios.mean(), rtol=2e-3)  # logarithmic above


def test_long_clips_are_cut():
    settings = log_mel_settings({"chunk_length": 1}, {})
    assert settings.frames == 100
    clip = clips([20_000])[0].astype(np.float64)
    np.testing.assert_array_equal(log_mel(clip, settings, 100), log_mel(clip[:16_000], settings, 100))


# Mistakes


WRONG = {
    "one clip": (lambda run: run(np.zeros(500)), "item 0 must be a clip"),
    "one pair": (lambda run: run((np.zeros(500), 8000)), "Put it in a list"),
    "one path": (lambda run: run("clip.wav"), "Put a single one in a list"),
    "none": (lambda run: run([]), "at least one clip"),
    "empty": (lambda run: run([np.zeros(5), np.zeros(0)]), "item 1 must be a clip"),
    "stereo": (lambda run: run([np.zeros((500, 2))]), "Average channels"),
    "text": (lambda run: run([np.array(["a"])]), "item 0 must be a clip"),
    "nan": (lambda run: run([np.full(500, np.nan)]), "finite"),
    "steps": (lambda run: run([np.full(500, 2000.0)]), "divide by 32768"),
    "rate": (lambda run: run([np.zeros(500)], rate=0.5), "rate must be a whole number"),
    "rate of nan": (lambda run: run([(np.zeros(500), np.nan)]), "rate must be a whole number"),
    "24 bits in 32": (lambda run: run([np.array([-(2**23), 9, 2**23 - 1], np.int32)]), "clip / 2\\*\\*23 for 24 bits"),
    "16 bits in 64": (lambda run: run([[3, -20_000, 9]]), r"up to 20000 in int64.*np.asarray\(clip, np.int16\)"),
    "steps of 8 bits": (lambda run: run([np.array([3.0, -90.0, 9.0])]), "divide by 32768"),
    "a mask": (lambda run: run([np.ma.masked_array(np.zeros(500), mask=True)]), "item 0 is a masked array"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("model_type", ["wav2vec2", "whisper"])
def test_wrong_items_are_told(case, model_type):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(preprocessor(None, model_type, {}))


def test_broken_files_are_told(tmp_path):
    """Cut anywhere, even by one byte: never a shorter clip without a word. A stream's unknown length is none."""
    soundfile = pytest.importorskip("soundfile")
    run, clip = preprocessor(None, "wav2vec2", {}), clips([3000])[0] / 10
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, clip, 16_000, subtype="PCM_16")
        whole = (tmp_path / name).read_bytes()
        expected = run([tmp_path / name]).inputs
        for length in (0, 30, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"item 1, .*{name}, (cannot be read|ends before)"):
                run([clip, tmp_path / name])
        if name == "a.wav":
            at = whole.index(b"data") + 4
            (tmp_path / name).write_bytes(whole[:at] + b"\xff" * 4 + whole[at + 4 :])
            np.testing.assert_array_equal(run([tmp_path / name]).inputs, expected)
    for path in (tmp_path / "absent.wav", tmp_path):
        with pytest.raises(ValueError, match=r"item 0, .*cannot be read as sound"):
            run([path])


def test_wrong_lengths_are_told():
    with pytest.raises(ValueError, match="length must be a whole number"):
        preprocessor(None, "hubert", {})(clips(), length=0)
    for frames, message in [(3001, "at most 3000"), (1, "frames must be a whole number"), ("all", "frames must be")]:
        with pytest.raises(ValueError, match=message):
            preprocessor(None, "whisper", {})(clips(), frames=frames)


@pytest.mark.parametrize(
    ("model_type", "file", "message"),
    [
        ("wav2vec2", {"padding_side": "left"}, "on the right"),
        ("hubert", {"dither": 0.1}, "dither=0.1"),
        ("whisper", {"dither": 0.1}, "dither=0.1"),
        ("whisper", {"padding_value": 1.0}, "silence"),
        ("whisper", {"feature_size": 128}, "num_mel_bins=80"),
        ("wavlm", {"sampling_rate": "16k"}, "sampling_rate must be a whole number"),
        ("wavlm", {"do_normalize": "no"}, "do_normalize like True; got 'no'"),
        ("hubert", {"padding_value": float("nan")}, "padding_value like 0.0; got nan"),
        ("hubert", {"feature_size": 80}, "one number a sample; feature_size=80"),
        ("hubert", {"feature_extractor_type": "ASTFeatureExtractor"}, "ASTFeatureExtractor is not supported"),
        ("whisper", {"n_fft": 10**9}, "n_fft=1000000000 must be below"),
        ("whisper", {"hop_length": 0}, "hop_length must be a whole number"),
    ],
)
def test_settings_that_are_not_known_are_refused(model_type, file, message, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(file))
    with pytest.raises(ValueError, match=message):
        preprocessor(tmp_path, model_type, {"num_mel_bins": 80})
