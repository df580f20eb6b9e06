"""Acceleration for encoders of human activity: windows of some seconds at 30 samples a second."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxconvex.encoders.preprocessing.inputs import Inputs, as_array, as_items, whole

__all__ = ["SignalSettings", "preprocess_signals", "signal_settings", "window_owners"]

LARGEST = 4.0  # g; at rest the vector of acceleration has length 1


class SignalSettings(NamedTuple):
    """What happens to a recording."""

    rate: int = 30  # samples a second
    seconds: int = 10  # of a window


def preprocess_signals(
    items: Any, settings: SignalSettings = SignalSettings(), *, rate: float = 30, stride: float | None = None
) -> Inputs:
    """Windows of acceleration as float32 (windows, samples, 3), at 30 samples a second; no mask.

    Args:
        items: recordings, a list of arrays (time, 3) or one array (n, time, 3), in units of g (9.81 m/s2).
        settings: bound already in the function that `encoders.load` returns.
        rate: samples a second of the recordings.
        stride: seconds from the begin of a window to that of the next; by default windows follow each other without overlap.

    Each recording is cut in windows of 10 s (5 s, 30 s, as the checkpoint says); a rest shorter than that is left out. Then
    a window is brought to 30 samples a second by linear interpolation between its first and its last sample, as its
    authors do. A recording shorter than one window gives one window, in which its last sample is held to the end: the wrist
    keeps still. `window_owners` tells which window comes from which recording.

    Raises:
        ValueError: a recording has another shape, is not finite, or does not seem to be in g.

    >>> preprocess_signals([np.ones((700, 3)) / 3**0.5], rate=32).inputs.shape
    (2, 300, 3)

    Source: Yuan et al., "Self-supervised learning for human activity recognition using 700,000 person-days of wearable
    data", 2024.
    """
    length, step = _lengths(settings, rate, stride)
    windows = []
    for i, item in enumerate(as_items(items, "recording (time, 3)")):
        recording = as_array(item, i)
        if recording.ndim != 2 or recording.shape[1] != 3 or len(recording) == 0 or recording.dtype.kind not in "iuf":
            raise ValueError(
                f"item {i} must be a recording with three axes of acceleration, (time, 3); got shape {recording.shape} and "
                f"type {recording.dtype}. Put a single recording in a list."
            )
        recording = recording.astype(np.float64)
        if not np.isfinite(recording).all():
            raise ValueError(
                f"item {i} must be finite; it holds NaN or infinity. Fill the gaps, or cut the recording at them."
            )
        usual = np.median(np.linalg.norm(recording, axis=1))
        if usual > LARGEST:
            raise ValueError(
                f"item {i} must be in units of g, about 1 at rest; its vectors have a median length of {usual:.1f}. From "
                "m/s2, divide by 9.81; from counts, scale as the device's manual says."
            )
        if len(recording) < length:
            recording = np.pad(recording, [(0, length - len(recording)), (0, 0)], mode="edge")
        windows += [recording[start : start + length] for start in range(0, len(recording) - length + 1, step)]
    return Inputs(_interpolated(np.stack(windows), settings.rate * settings.seconds).astype(np.float32), None)


def window_owners(
    items: Any, settings: SignalSettings = SignalSettings(), *, rate: float = 30, stride: float | None = None
) -> Int[np.ndarray, " windows"]:
    """For each window that `preprocess_signals` makes of the recordings, the place of its recording in the list.

    >>> window_owners([np.zeros((700, 3)), np.zeros((20, 3))]).tolist()
    [0, 0, 1]
    """
    length, step = _lengths(settings, rate, stride)
    counts = [1 + max(len(item) - length, 0) // step for item in as_items(items, "recording (time, 3)")]
    return np.repeat(np.arange(len(counts)), counts)


def signal_settings(config: dict[str, Any]) -> SignalSettings:
    """The settings of a config: "sample_rate" (30) and "epoch_len", the seconds of a window (10)."""
    rate, seconds = config.get("sample_rate", 30), config.get("epoch_len", 10)
    return SignalSettings(whole(rate, "sample_rate"), whole(seconds, "epoch_len"))


def _lengths(settings: SignalSettings, rate: float, stride: float | None) -> tuple[int, int]:
    """The samples of a window and of a step, in the recording."""
    stride = settings.seconds if stride is None else stride
    for value, name in ((rate, "rate"), (stride, "stride")):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < np.inf:
            raise ValueError(f"{name} must be a number above 0; got {value!r}.")
    return max(2, round(rate * settings.seconds)), max(1, round(rate * stride))


def _interpolated(windows: Float[np.ndarray, "w t 3"], length: int) -> Float[np.ndarray, "w s 3"]:
    """The windows with another number of samples, linear between them, the ends kept."""
    before = windows.shape[1]
    if before == length:
        return windows
    position = np.linspace(0, before - 1, length)
    left = np.minimum(position.astype(int), before - 2)
    share = (position - left)[:, None]
    return (1 - share) * windows[:, left] + share * windows[:, left + 1]
