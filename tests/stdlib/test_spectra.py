"""spectra: transforms and their inverse beside PyTorch and SciPy, Griffin and Lim's phases beside
their algorithm in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from support import plan

from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.data.core.mel import Mel, bands, log_mel
from nnc.runtime.device.cpu.program import CpuProgram

from .programs import (
    TOLERANCE,
    Case,
    check,
    compare_with_cpu,
    compare_with_torch,
    ids,
    model,
    random_values,
    torch_or_skip,
)

X = {"x": "f32[2, 40]"}
PAIR = {"re": "f32[2, 7, 9]", "im": "f32[2, 7, 9]"}
SQUARES = (
    "fn squares(x: [..., n], size, hop) -> y {\n re, im = stft(x, size, hop)\n y = re^2 + 2*im\n}\n"
)


def transform(t, x, size, hop):
    """[…, n] → complex [..., T, F]."""
    window = t.hann_window(size, dtype=x.dtype)
    found = t.stft(x, size, hop, window=window, center=False, return_complex=True)
    return found.transpose(-1, -2)


def squares(size, hop):
    def y(t, v):
        found = transform(t, v.x, size, hop)
        return found.real**2 + 2 * found.imag

    return y


def inverse(t, re, im, hop):
    """As PyTorch's, which cuts half a frame at both ends, where windows are nearly 0."""
    spectrum = t.complex(re, im).transpose(-1, -2)
    size = 2 * (re.shape[-1] - 1)
    window = t.hann_window(size, dtype=re.dtype)
    return t.istft(spectrum, size, hop, window=window, center=True)


CUT = "fn cut(x: [..., n], m) -> y {\n y[..., i < n - 2*m] = x[..., i + m]\n}\n"
CASES = [
    Case("stft", "squares(x, 16, 4)", X, squares(16, 4), definitions=SQUARES),
    Case("stft, hop of no divisor", "squares(x, 12, 5)", X, squares(12, 5), definitions=SQUARES),
    Case("stft of one frame", "squares(x, 40, 9)", X, squares(40, 9), definitions=SQUARES),
    *(
        Case(
            f"istft, hop {hop}",
            f"cut(istft(re, im, {hop}), 8)",
            PAIR,
            lambda t, v, hop=hop: inverse(t, v.re, v.im, hop),
            definitions=CUT,
        )
        for hop in (4, 5)
    ),
]


def computed(system, values):
    """The results of a system in machine code."""
    program = CpuProgram(plan(system))
    for name, value in values.items():
        program.arrays[name][...] = value
    program.run()
    return {name: np.array(program.arrays[name]) for name in system.outputs}


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_as_pytorch(case):
    assert compare_with_torch(case) < TOLERANCE


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids=["stft", "istft"])
def test_machine_code(case):
    compare_with_cpu(case)


@pytest.mark.slow
def test_as_scipy():
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    x = np.random.default_rng(0).normal(size=(2, 64))
    system = model(
        "model M(x: f64[2, 64]) -> re, im, back {\n"
        " re, im = stft(x, 16, 4)\n back = istft(re, im, 4)\n}"
    )
    found = evaluate(system, {"x": x})
    # without `boundary` and `padded` there are only whole frames; a spectrum is scaled there
    options = {"window": "hann", "nperseg": 16, "noverlap": 12}
    _, _, z = signal.stft(x, **options, boundary=None, padded=False)
    expected = z.swapaxes(1, 2) * 8
    check(found["re"], expected.real, "re")
    check(found["im"], expected.imag, "im")
    # the first sample has no weight
    check(found["back"][:, 1:], x[:, 1:], "the sound that was transformed")


def test_frames_apart_leave_zeros_between_them():
    """Where no window reaches, or only its first sample, which is 0, the sound is 0."""
    system = model("model M(re: f64[3, 5], im: f64[3, 5]) -> x { x = istft(re, im, 10) }")
    re = np.ones((3, 5))
    found = evaluate(system, {"re": re, "im": 0 * re})["x"]
    assert found.shape == (28,) and np.isfinite(found).all()
    assert not found[[0, 8, 9, 10, 18, 19, 20]].any()


PHASES = """model M(m: {0}, re: {0}, im: {0}) -> a, b {{
    a, b = phases_found(m, re, im, 4, {1}, {2})
}}"""


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_phases_are_those_of_griffin_and_lim(momentum):
    """The same steps in PyTorch, whose inverse cuts half a frame, so that its transform begins with
    that much silence: of magnitudes that are 0 at the ends, that is the same."""
    torch = torch_or_skip()
    rng = np.random.default_rng(0)
    sound = np.zeros(72)
    sound[16:-16] = rng.normal(size=40)
    target = transform(torch, torch.tensor(sound), 16, 4)
    magnitude, turn = target.abs(), torch.tensor(rng.uniform(0, 6.3, target.shape))
    value, last = torch.polar(magnitude, turn), torch.zeros_like(target)
    given = {"m": magnitude, "re": value.real, "im": value.imag}
    for _ in range(5):
        weight = sum_of_frames(torch.hann_window(16, dtype=torch.float64).square().expand(15, 16))
        frames = torch.fft.irfft(value) * torch.hann_window(16, dtype=torch.float64)
        total = sum_of_frames(frames)
        found = transform(torch, torch.where(weight > 1e-8, total / weight, 0), 16, 4)
        step = found + momentum * (found - last)
        value, last = magnitude * step / step.abs(), found
    system = model(PHASES.format("f64[15, 9]", 5, momentum))
    ours = evaluate(system, {name: one.numpy() for name, one in given.items()})
    check(ours["a"], value.real.numpy(), "real parts", 1e-6)
    check(ours["b"], value.imag.numpy(), "imaginary parts", 1e-6)


def sum_of_frames(frames):
    """Frames [T, 16] that begin every 4 samples, added where they fall."""
    total = frames.new_zeros(4 * (len(frames) - 1) + 16)
    for t, frame in enumerate(frames):
        total[4 * t : 4 * t + 16] += frame
    return total


def test_a_tone_is_found_again_from_its_magnitudes():
    """A sound of its magnitudes alone has nearly the same magnitudes, and more steps help."""
    lines = "".join(
        f" x{n} = griffin_lim(m, 16, steps = {n})\n re{n}, im{n} = stft(x{n}, 64, 16)\n"
        f" m{n} = sqrt(re{n}^2 + im{n}^2)\n"
        for n in (1, 30)
    )
    system = model(
        "model M(x: f32[2, 512]) -> m, m1, m30 {\n re, im = stft(x, 64, 16)\n"
        f" m = sqrt(re^2 + im^2)\n{lines}}}",
        float_type="f32",
    )
    t = np.arange(512)
    x = np.stack([np.sin(0.3 * t), np.sin(0.1 * t + 2e-4 * t**2) * np.exp(-((t / 200 - 1) ** 2))])
    found = computed(system, random_values(system, {"x": x}, "tones"))
    # the error of the magnitudes, as a share of them
    first, last = (
        np.linalg.norm(found[n] - found["m"]) / np.linalg.norm(found["m"]) for n in ("m1", "m30")
    )
    assert last < 0.1 < first


# --- bands ----------------------------------------------------------------------------------------


def test_mel_energies_are_the_features_of_data():
    """Those that sources of sounds make in NumPy; and powers that have the energies again."""
    mel = Mel(8000, 20, 0.032, 0.010)
    rng = np.random.default_rng(0)
    system = model(
        "model M(x: f64[1000]) -> y, again {\n re, im = stft(x, 256, 80)\n"
        " y = mel_energies(re^2 + im^2, 20, 8000)\n"
        " again = mel_energies(mel_powers(y, 129, 8000), 20, 8000)\n}"
    )
    x = rng.normal(size=1000) * np.hanning(1000)
    found = evaluate(system, {"x": x})
    check(np.log(found["y"] + 1e-6), log_mel(x, mel, bands(mel)), "features", 1e-5)
    # of equal powers in all frequencies nothing is lost; of others some sharpness is
    even = model(
        "model M(p: f64[129]) -> y {\n y = mel_powers(mel_energies(p, 20, 8000), 129, 8000)\n}"
    )
    flat = evaluate(even, {"p": np.ones(129)})["y"]
    inside = bands(mel).sum(0) > 0.999
    assert inside.sum() > 100
    check(flat[inside], np.ones(inside.sum()), "equal powers")
    apart = np.abs(np.log(found["again"] / found["y"]))
    assert np.median(apart) < 0.3


# --- comparing speech -----------------------------------------------------------------------------


def cepstra(x):
    """Fourier coefficients 1 to 13 of half of x, by their formula."""
    n = x.shape[-1]
    angle = np.pi * np.arange(1, 14)[:, None] * (np.arange(n) + 0.5) / n
    return 2 / n * (x / 2) @ np.cos(angle).T


def warped(cost):
    """The mean cost on the cheapest way through a table; a step in both, then in rows, wins."""
    best: dict[tuple[int, int], tuple[float, int]] = {(0, 0): (cost[0, 0], 1)}
    for t, u in np.ndindex(cost.shape):
        before = [best.get(place) for place in ((t - 1, u - 1), (t - 1, u), (t, u - 1))]
        if t or u:
            total, count = min((one for one in before if one), key=lambda one: one[0])
            best[t, u] = total + cost[t, u], count + 1
    total, count = best[cost.shape[0] - 1, cost.shape[1] - 1]
    return total / count


@pytest.mark.parametrize("run", ["evaluator", "cpu"])
def test_mel_cepstral_distortion(run):
    rng = np.random.default_rng(0)
    given = {
        "x": rng.normal(size=(3, 9, 20)),
        "y": rng.normal(size=(3, 7, 20)),
        "n": np.array([9, 5, 1], np.int32),
        "m": np.array([7, 7, 4], np.int32),
    }
    system = model(
        "model M(x: f32[3, 9, 20], y: f32[3, 7, 20], n: i32[3], m: i32[3]) -> c, r {\n"
        " c = mel_cepstra(x)\n r = mel_cepstral_distortion(x, y, n, m)\n}",
        float_type="f64" if run == "evaluator" else "f32",
    )
    found = evaluate(system, given) if run == "evaluator" else computed(system, given)
    x, y = cepstra(given["x"]), cepstra(given["y"])
    check(found["c"], x, "cepstra", 1e-5)
    each = []
    for a, b, n, m in zip(x, y, given["n"], given["m"], strict=True):
        apart = ((a[:n, None] - b[None, :m]) ** 2).sum(-1)
        each.append(warped(10 / np.log(10) * np.sqrt(2 * apart)))
    check(found["r"], np.mean(each), "distortion", 1e-5)


def test_equal_speech_at_another_pace_is_not_apart():
    x = np.random.default_rng(0).normal(size=(1, 6, 20))
    slow = np.repeat(x, 2, axis=1)
    lengths = {"n": np.array([6], np.int32), "m": np.array([12], np.int32)}
    system = model(
        "model M(x: f64[1, 6, 20], y: f64[1, 12, 20], n: i32[1], m: i32[1]) -> r {\n"
        " r = mel_cepstral_distortion(x, y, n, m)\n}"
    )
    assert evaluate(system, {"x": x, "y": slow, **lengths})["r"] < 1e-4


def test_what_has_no_frames_is_not_apart():
    x = np.random.default_rng(0).normal(size=(3, 6, 20))
    lengths = {"n": np.array([0, 6, 0], np.int32), "m": np.array([6, 0, 0], np.int32)}
    system = model(
        "model M(x: f64[3, 6, 20], n: i32[3], m: i32[3]) -> r {\n"
        " r = mel_cepstral_distortion(x, x, n, m)\n}"
    )
    assert evaluate(system, {"x": x, **lengths})["r"] == 0


@pytest.mark.parametrize(
    "call, said",
    [
        ("stft(x, 41, 4)", "a sound must have a whole frame"),
        ("stft(x, 15, 4)", "a frame must have an even number of samples"),
    ],
)
def test_wrong_sizes(call, said):
    with pytest.raises(UserError) as caught:
        model(f"model M(x: f64[2, 40]) -> re, im {{ re, im = {call} }}")
    assert said in caught.value.diagnostics[0].message
