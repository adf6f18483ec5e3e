"""Sounds at another rate: polyphase resampling with a windowed sinc.

In: samples at one rate. Out: those at another, L/M times as many, where L/M is the ratio of the
rates in lowest terms. In principle L - 1 zeros are put behind every sample, all is filtered, and
every M-th number is kept; of the products only those are computed that count (Crochiere and
Rabiner, Multirate Digital Signal Processing, 1983, section 3.3):

    y[m]    = sum over k of h[H + m·M - k·L] · x[k]          0 <= m < ceil(N·L / M)
    h[n]    = g · sinc((n - H) / R) · w[n]                   0 <= n <= 2H, R = max(L, M), H = 10·R
    w[n]    = I0(β·sqrt(1 - ((n - H) / H)²)) / I0(β)         the Kaiser window, β = 5
    g                                                        such that the sum of h is L

sinc(t) = sin(πt) / πt and I0 is the modified Bessel function. The filter cuts off at the half of
the lower rate, and outside the sound is silence. It is the filter of `scipy.signal.resample_poly`,
and so are the values, to rounding.
Tests: tests/runtime/test_sound_files.py, against SciPy.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np

ZEROS = 10  # of the sinc on either side, H / R
BETA = 5.0
BLOCK = 1 << 20  # products at a time, about
RATES = range(1_000, 768_001)  # samples per second that a sound may have
VERSION = 1  # of the formulas: after a change, cached features must not be found


def resampled_length(count: int, rate: int, new: int) -> int:
    """How many samples a sound of `count` samples has at a new rate."""
    return -(-count * new // rate)


def resample(samples: np.ndarray, rate: int, new: int) -> np.ndarray:
    """Samples (f64 [n, …]) at another rate, both in samples per second."""
    if rate == new:
        return samples
    up, down = new // gcd(rate, new), rate // gcd(rate, new)
    phases = _phases(up, down)
    taps = phases.shape[1]
    flat = samples.reshape(len(samples), -1)
    # y[m] is a sum over `taps` samples, of which the last is k = floor((H + m·M) / L).
    last = ZEROS * max(up, down)
    count = resampled_length(len(samples), rate, new)
    after = (last + (count - 1) * down) // up + 1 - len(flat)
    padded = np.pad(flat, ((taps - 1, max(0, after)), (0, 0)))
    # [position, channel, taps], a view: what stands at a position ends there
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=0)
    found = np.empty((count, flat.shape[1]))
    # All m of one remainder by L have one set of coefficients, and lie M samples apart.
    for remainder in range(min(up, count)):
        first = (last + remainder * down) // up
        coefficients = phases[(last + remainder * down) % up]
        many = len(range(remainder, count, up))
        chosen = windows[first : first + many * down : down]
        step = max(1, BLOCK // taps)
        for start in range(0, many, step):
            # Not a product of BLAS, whose sums might depend on the number of threads.
            part = np.einsum("mct,t->mc", chosen[start : start + step], coefficients)
            begin = remainder + start * up
            found[begin : begin + len(part) * up : up] = part
    return found.reshape(count, *samples.shape[1:])


@lru_cache(4)
def _phases(up: int, down: int) -> np.ndarray:
    """The coefficients by the remainder p of H + m·M by L, f64 [L, taps]: h[p + L·t] for the sample
    that is t before the last one; the last one stands at the end."""
    widest = max(up, down)
    half = ZEROS * widest
    n = np.arange(-half, half + 1)
    h = np.sinc(n / widest) * np.kaiser(2 * half + 1, BETA)
    h *= up / h.sum()
    taps = -(-len(h) // up)
    padded = np.zeros(taps * up)
    padded[: len(h)] = h
    return np.ascontiguousarray(padded.reshape(taps, up).T[:, ::-1])
