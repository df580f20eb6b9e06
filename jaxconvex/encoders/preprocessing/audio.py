"""Sound for speech encoders: one channel at the checkpoint's rate, as a normalised waveform or a log-mel spectrogram."""

from __future__ import annotations

import re
from functools import cache
from math import gcd
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxconvex.encoders.preprocessing.inputs import (
    Inputs,
    as_array,
    as_items,
    check_like,
    missing,
    refuse_others,
    whole,
)

__all__ = [
    "LogMelSettings",
    "WaveformSettings",
    "log_mel_settings",
    "preprocess_log_mel",
    "preprocess_waveforms",
    "resample",
    "waveform_settings",
]

HARMLESS = {  # they name things, follow from the others, or choose the container of the result
    "feature_extractor_type", "processor_class", "_processor_class", "auto_map", "name_or_path", "_name_or_path",
    "return_tensors", "transformers_version", "mel_filters", "n_samples", "nb_max_frames", "feature_size",
}  # fmt: skip


FASTEST = 1_000_000  # samples a second
# What libsndfile notes where a file has less data than it says. Who writes to a pipe says the most that the field holds.
DECLARED = re.compile(r"^\s*(?:data|SSND|riff|Data Size)\s*: (\d+) \(should be \d+\)", re.MULTILINE)
STREAMED = 0x7FFF0000


class WaveformSettings(NamedTuple):
    """What happens to a waveform."""

    rate: int  # samples a second
    normalise: bool  # to mean 0 and variance 1
    padding: float
    mask: bool  # whether the model is told which samples are padding


class LogMelSettings(NamedTuple):
    """What happens to a waveform on its way to a log-mel spectrogram."""

    rate: int
    mel: int  # bins
    window: int  # samples
    hop: int  # samples between frames
    frames: int  # of the longest input
    mask: bool  # whether the model is told which frames are padding


def preprocess_waveforms(
    items: Any,
    settings: WaveformSettings,
    *,
    rate: float | None = None,
    length: int | None = None,
    mask: bool | None = None,
) -> Inputs:
    """The clips as float32 samples (b, t), of mean 0 and variance 1 where the checkpoint says so, and a bool mask (b, t).

    A clip x becomes (x - mean x) / sqrt(var x + 1e-7), over its own samples only; then it is padded on the right.

    Args:
        items: a list of clips: arrays of one axis, pairs (array, samples a second), or paths of wav or flac files (several
            channels are averaged). Arrays hold floats in [-1, 1], or integers of 8, 16 or 32 bits, which are divided by
            the range of their type. An int32 array that needs 24 bits only, an int64 array and a list of ints do not tell
            their depth, and are refused: `np.asarray(clip, np.int16)`, or `clip / 2**23` for 24 bits.
        settings: bound already in the function that `encoders.load` returns.
        rate: samples a second of the clips that do not say their own; by default they are taken to have the checkpoint's.
            Clips with another rate are resampled (see `resample`).
        length: pads or cuts all to this many samples, so that a compiled function sees one shape. By default the longest.
        mask: whether to return a mask, True on samples and False on padding. By default as the checkpoint says: those with
            group normalisation (wav2vec2-base, HuBERT-base) were trained without one, so that padding is seen as silence.
            Then the hidden states of a clip change a little with the length it is padded to; batches of one length avoid it.

    Equal to the Wav2Vec2FeatureExtractor of transformers, but where it pads and returns no mask: there the mean and the
    variance are taken over the padding, too, so that a clip changes with its batch; here, as in training, it does not.

    Raises:
        ValueError: an item is no clip, is empty, has several channels, is not finite, or does not tell its depth; a file
            cannot be read, or ends before the length that it tells.
        ImportError: soundfile, for paths, is missing.

    >>> settings = waveform_settings({}, "wav2vec2", {"feat_extract_norm": "layer"})
    >>> samples, mask = preprocess_waveforms([np.array([1.0, -1.0]), np.array([1.0, -1.0, 1.0, -1.0])], settings)
    >>> samples.round(3).tolist(), mask.tolist()
    ([[1.0, -1.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0]], [[True, True, False, False], [True, True, True, True]])

    Source: Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", 2020.
    """
    clips = _clips(items, rate, settings.rate)
    width = max(map(len, clips)) if length is None else whole(length, "length")
    samples = np.full((len(clips), width), settings.padding, np.float32)
    valid = np.zeros(samples.shape, bool)
    for row, clip in enumerate(clips):
        clip = clip[:width]
        if settings.normalise:
            clip = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
        samples[row, : len(clip)] = clip
        valid[row, : len(clip)] = True
    return Inputs(samples, valid if (settings.mask if mask is None else mask) else None)


def preprocess_log_mel(
    items: Any,
    settings: LogMelSettings,
    *,
    rate: float | None = None,
    frames: int | str | None = None,
    mask: bool | None = None,
) -> Inputs:
    """The log-mel spectrograms (b, frames, mel), float32, as Whisper takes them; with `mask`, which frames hold sound.

    With P the power in the mel bins of each frame and L = log10 max(P, 1e-10), the result is (max(L, max L - 8) + 4) / 4.
    The frames are of 25 ms, one each 10 ms, centred (the ends reflected), under a periodic Hann window; the mel bins are
    Slaney's, from 0 to 8,000 Hz.

    Args:
        items, settings, rate: as in `preprocess_waveforms`.
        frames: pads with silence, or cuts, to this many frames; "longest": those of the longest clip. By default 3000, that
            is 30 s, which is what Whisper was trained on; longer clips are cut. With fewer, only the silence is left out.
        mask: whether to return a mask (b, frames). By default as the checkpoint says, which is no: Whisper was trained to
            hear the silence too. With it, attention and means leave the padding out, so that a mean over tokens is one
            over sound.

    Equal to the WhisperFeatureExtractor of transformers on NumPy, with time before mel; where torch is installed, that one
    computes in float32, and differs from both by up to 2e-5 on speech.

    Raises:
        ValueError: as `preprocess_waveforms`; frames is above the checkpoint's.

    Cost: about 20 ms for 30 s of sound on one core, 0.6 ms for half a second in 3000 frames, 0.2 ms in its own 50.

    >>> preprocess_log_mel([np.zeros(800)], log_mel_settings({}, {}), frames=5).inputs[0, 0, :3].tolist()
    [-1.5, -1.5, -1.5]

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022.
    """
    clips = _clips(items, rate, settings.rate)
    if frames is None:
        frames = settings.frames
    elif frames == "longest":
        frames = min(max(-(-len(clip) // settings.hop) for clip in clips), settings.frames)
    elif whole(frames, "frames", least=2) > settings.frames:
        raise ValueError(f"frames must be at most {settings.frames}, the positions of this checkpoint; got {frames}.")
    frames = max(int(frames), 2)  # the ends are reflected: that takes two hops
    mel = np.stack([log_mel(clip, settings, frames) for clip in clips])
    if not (settings.mask if mask is None else mask):
        return Inputs(mel, None)
    counts = np.array([-(-len(clip) // settings.hop) for clip in clips])
    return Inputs(mel, np.arange(frames) < counts[:, None])


def log_mel(clip: Float[np.ndarray, " n"], settings: LogMelSettings, frames: int) -> Float[np.ndarray, "frames mel"]:
    """Whisper's spectrogram of one clip, padded with silence or cut to a number of frames."""
    window, hop, half = settings.window, settings.hop, settings.window // 2
    samples = np.zeros(frames * hop)
    clip = clip[: len(samples)]
    samples[: len(clip)] = clip
    samples = np.pad(samples, half, mode="reflect")
    heard = min(frames, -(-(len(clip) + half) // hop))  # frames from here on are silent
    cuts = np.lib.stride_tricks.sliding_window_view(samples, window)[: heard * hop : hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    power = np.abs(np.fft.rfft(cuts * hann)) ** 2
    logs = np.full((frames, settings.mel), -10.0)
    logs[:heard] = np.log10(np.maximum(power @ mel_filters(settings.mel, window, settings.rate), 1e-10))
    return ((np.maximum(logs, logs.max() - 8) + 4) / 4).astype(np.float32)


@cache
def mel_filters(mel: int, window: int, rate: int) -> Float[np.ndarray, "f mel"]:
    """Slaney's triangular filters, each of area 1, with corners equally spaced in mel from 0 to 8,000 Hz.

    Slaney's mel is linear up to 1,000 Hz (15 mel) and logarithmic above, 27 mel to a factor of 6.4.
    """
    top = 15 + 27 * np.log(8) / np.log(6.4)
    corners = np.linspace(0, top, mel + 2)
    corners = np.where(corners < 15, corners * 200 / 3, 1000 * 6.4 ** ((np.maximum(corners, 15) - 15) / 27))
    hertz = np.arange(window // 2 + 1)[:, None] * rate / window
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    triangle = np.minimum((hertz - left) / (centre - left), (right - hertz) / (right - centre))
    filters = np.maximum(triangle, 0) * 2 / (right - left)
    filters.flags.writeable = False  # the cache hands it out again
    return filters


def resample(clip: Float[np.ndarray, " n"], rate: float, to: int) -> Float[np.ndarray, " m"]:
    """The clip at another rate, by a polyphase filter: a sinc of 32 zero crossings a side under a Kaiser window, beta 8.

    Measured with sines, from 8,000, 22,050, 44,100 and 48,000 to 16,000 samples a second, with the lower of the two Nyquist
    frequencies as the unit: up to 0.9 the error is below 0.01% of the amplitude (-80 dB), at 0.95 it is 3%; what lies above
    1.1 is let through with less than 0.01%.

    >>> len(resample(np.zeros(8_000), 8_000, 16_000))
    16000
    """
    number = isinstance(rate, (int, float, np.number)) and not isinstance(rate, bool)
    if not number or not 1 <= rate <= FASTEST or rate != int(rate):
        raise ValueError(f"rate must be a whole number of samples a second, at most {FASTEST:,}; got {rate!r}.")
    if rate == to:
        return clip
    from scipy.signal import resample_poly

    common = gcd(int(rate), to)
    up, down = to // common, int(rate) // common
    return resample_poly(clip, up, down, window=_low_pass(max(up, down)))


@cache
def _low_pass(factor: int) -> Float[np.ndarray, " k"]:
    from scipy.signal import firwin

    return firwin(64 * factor + 1, 1 / factor, window=("kaiser", 8.0))


def waveform_settings(file: dict[str, Any], model_type: str, config: dict[str, Any]) -> WaveformSettings:
    """The settings of a feature extractor's file, or, where it says nothing, the documented ones.

    The documented ones: 16,000 samples a second, normalised; a mask for models whose convolutions are followed by layer
    normalisation (data2vec-audio; the config's feat_extract_norm "layer"), none for those with group normalisation.
    """
    usual = {"sampling_rate": 16_000, "do_normalize": True, "padding_value": 0.0, "return_attention_mask": False}
    _check(file, usual, "Wav2Vec2FeatureExtractor")
    if file.get("feature_size", 1) != 1:
        raise ValueError(f"a waveform has one number a sample; feature_size={file['feature_size']!r} is not supported.")
    layered = model_type == "data2vec-audio" or config.get("feat_extract_norm") == "layer"
    masked = file.get("return_attention_mask")
    return WaveformSettings(
        rate=whole(file.get("sampling_rate", 16_000), "sampling_rate"),
        normalise=bool(file.get("do_normalize", True)),
        padding=float(file.get("padding_value", 0.0)),
        mask=layered if masked is None else bool(masked),
    )


def log_mel_settings(file: dict[str, Any], config: dict[str, Any]) -> LogMelSettings:
    """The settings of a feature extractor's file, or, where it says nothing, those of Whisper and of the config."""
    usual = {"sampling_rate": 16_000, "hop_length": 160, "n_fft": 400, "chunk_length": 30, "padding_value": 0.0}
    _check(file, usual | {"return_attention_mask": False}, "WhisperFeatureExtractor")
    if file.get("padding_value", 0.0) != 0:
        raise ValueError(
            f"Whisper's clips are padded with silence; padding_value={file['padding_value']} is not supported."
        )
    mel = file.get("feature_size") or config.get("num_mel_bins", 80)
    if mel != config.get("num_mel_bins", mel):
        raise ValueError(
            f"the preprocessor's feature_size={mel} must be the config's num_mel_bins={config['num_mel_bins']}."
        )
    rate, hop, window, seconds = (whole(file.get(key, usual[key]), key) for key in list(usual)[:4])
    if max(hop, window) > rate:
        raise ValueError(f"hop_length={hop} and n_fft={window} must be below the {rate} samples of a second.")
    longest = 2 * config["max_source_positions"] if "max_source_positions" in config else 10**9
    frames = min(seconds * rate // hop, longest)
    masked = bool(file.get("return_attention_mask", False))
    return LogMelSettings(rate, whole(mel, "feature_size"), window, hop, frames, masked)


def _check(file: dict[str, Any], usual: dict[str, Any], kind: str) -> None:
    name = str(file.get("feature_extractor_type", kind))
    if name != kind:
        raise ValueError(f"the feature extractor {name} is not supported for this family; its own is {kind}.")
    refuse_others(file, {*usual, *HARMLESS, "padding_side"}, name)
    check_like({key: value for key, value in file.items() if value is not None}, usual, name)
    if file.get("padding_side", "right") != "right":
        raise ValueError(f"clips are padded on the right; padding_side={file['padding_side']!r} is not supported.")


def _clips(items: Any, rate: float | None, to: int) -> list[Float[np.ndarray, " n"]]:
    if isinstance(items, tuple) and len(items) == 2 and np.ndim(items[0]) == 1 and np.ndim(items[1]) == 0:
        raise ValueError("items must be a list of clips; got a single pair (array, rate). Put it in a list.")
    return [_clip(item, i, rate, to) for i, item in enumerate(as_items(items, "clip"))]


def _clip(item: Any, i: int, rate: float | None, to: int) -> Float[np.ndarray, " n"]:
    """One clip, float64, at the checkpoint's rate."""
    if isinstance(item, (str, PathLike)):
        item, rate = _read(item, i)
    elif isinstance(item, tuple) and len(item) == 2 and np.ndim(item[1]) == 0:
        item, rate = item
    samples = as_array(item, i)
    if samples.ndim != 1 or samples.size == 0 or samples.dtype.kind not in "iuf":
        raise ValueError(
            f"item {i} must be a clip: an array of one axis that holds numbers, a pair (array, rate), or a path; "
            f"got {type(item).__name__} with shape {samples.shape} and type {samples.dtype}. Average channels first; put a "
            "single clip in a list."
        )
    if samples.dtype.kind == "f":
        samples = samples.astype(np.float64)
        if not np.isfinite(samples).all():
            raise ValueError(f"item {i} must be finite; it holds NaN or infinity.")
        peak = np.abs(samples).max()
        if peak > 100 or (peak > 1 and (samples == np.round(samples)).all()):
            raise ValueError(
                f"item {i} must be floats in [-1, 1]; got values up to {peak:.0f}. If they count the steps of 16 bits, "
                "divide by 32768."
            )
    else:
        half = _half_range(samples, i)
        samples = samples / half - (1 if samples.dtype.kind == "u" else 0)
    return resample(samples, to if rate is None else rate, to)


def _half_range(samples: np.ndarray, i: int) -> float:
    """Half the range of a clip's integers; an error where their type does not tell it."""
    kind = samples.dtype.newbyteorder("=")
    if kind in (np.int8, np.uint8, np.int16, np.uint16):
        return 2.0 ** (8 * kind.itemsize - 1)
    peak = int(np.abs(samples.astype(np.float64)).max())
    if kind == np.int32 and (peak == 0 or peak > 2**23):
        return 2.0**31
    raise ValueError(
        f"item {i} must tell its depth: values up to {peak} in {kind} may be steps of 8, 16 or 24 bits. Take its own "
        "type, np.asarray(clip, np.int16), or divide by half the range, clip / 2**23 for 24 bits."
    )


def _read(path: Any, i: int) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise missing("soundfile") from error
    try:
        with soundfile.SoundFile(path) as file:
            samples, declared = file.read(always_2d=True), file.frames
            rate, notes = file.samplerate, file.extra_info
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # the last for formats without a header
        raise ValueError(f"item {i}, {path}, cannot be read as sound: {error}") from error
    cut = [int(size) for size in DECLARED.findall(notes)]
    if len(samples) < declared or any(size < STREAMED for size in cut):
        raise ValueError(
            f"item {i}, {path}, ends before the length that it tells: it was cut. Fetch or record it again."
        )
    return samples.mean(axis=1), rate
