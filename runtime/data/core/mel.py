"""Log-mel features: the energy of a sound over time, in bands of equal width on the mel scale.

In: samples from -1 to 1. Out: f32 [frames, mels]. With N samples in a window and R per second:

    frame t        x_t[n] = samples[t·hop + n], 0 <= n < N, as many as lie entirely in the sound
                   (a sound shorter than a frame is padded with zeros to one)
    Hann window    w[n] = 0.5 - 0.5·cos(2π·n / N)
    power          P_t[k] = |sum over n of w[n]·x_t[n]·exp(-2πi·k·n / F)|², 0 <= k <= F/2,
                   where F is the least power of two that is at least N
    mel scale      mel(f) = 2595·log10(1 + f/700), that of HTK
    band m         a triangle on the mel scale: with M + 2 points evenly from 0 to mel(R/2), it is
                   0 at points m and m + 2, and 1 at point m + 1
    feature        log(sum over k of band_m[k]·P_t[k] + 1e-6)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FLOOR = 1e-6  # added to every energy, so that silence has a logarithm; about 16-bit rounding noise
MAX_WINDOW = 1 << 16  # samples
VERSION = 1  # of the formulas: after a change, cached features must not be found


@dataclass(frozen=True)
class Mel:
    """How sound becomes features. `frame` and `hop` are in seconds."""

    rate: int
    mels: int
    frame: float
    hop: float

    @property
    def window(self) -> int:
        """Samples in a window, N above."""
        return max(1, round(self.frame * self.rate))

    @property
    def step(self) -> int:
        """Samples from one window to the next."""
        return max(1, round(self.hop * self.rate))

    @property
    def transform(self) -> int:
        """The length of the Fourier transform, F above."""
        # The next power of two: the fastest transform, and zeros behind the window do no harm.
        return 1 << (self.window - 1).bit_length()

    def frames(self, samples: int) -> int:
        """The number of frames of a sound with that many samples."""
        # Only whole windows count; a sound shorter than one is padded to it in `log_mel`.
        return 1 + max(0, samples - self.window) // self.step


def mel_of(hertz: np.ndarray | float) -> np.ndarray:
    """The mel scale."""
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)


def bands(mel: Mel) -> np.ndarray:
    """The triangles, f64 [mels, F/2 + 1]; a band too narrow for the frame is a row of zeros."""
    # Bin k of the transform is at k·R/F hertz; a real signal has F/2 + 1 different ones.
    bins = mel_of(np.arange(mel.transform // 2 + 1) * (mel.rate / mel.transform))
    points = np.linspace(0, mel_of(mel.rate / 2), mel.mels + 2)
    width = points[1] - points[0]
    # All triangles have one width on the mel scale, so a distance from the peak is enough:
    # peaks [mels, 1] against bins [F/2 + 1].
    return np.maximum(0, 1 - np.abs(bins - points[1:-1, None]) / width)


def log_mel(samples: np.ndarray, mel: Mel, weights: np.ndarray) -> np.ndarray:
    """The features of one sound; `weights` are `bands(mel)`."""
    window, step = mel.window, mel.step
    if len(samples) < window:
        samples = np.pad(samples, (0, window - len(samples)))
    # [samples] → [frames, window] without a copy: overlapping views of the same memory.
    framed = np.lib.stride_tricks.sliding_window_view(samples, window)[::step]
    # The periodic Hann window (divided by N, not N - 1), the one meant for spectra.
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    spectrum = np.fft.rfft(framed * hann, mel.transform, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    return np.log(power @ weights.T + FLOOR).astype(np.float32)
