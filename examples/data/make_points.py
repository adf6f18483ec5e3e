"""Write heat.csv, sinusoids.csv and ring.csv, the tables of heat_equation.nn, maml_sinusoid.nn and
wgan_gp.nn: random points with the exact temperature there, random sine waves, and points of a ring.

In: nothing. Out: the files next to this one, the same bytes on every run. NumPy's RandomState keeps
its stream for ever."""

from pathlib import Path

import numpy as np

POINTS, WAVES, RING = 500, 1000, 1000
CONDUCTIVITY = 0.1


def heat() -> str:
    """Points of the unit square, and u = exp(-pi^2/10 t) sin(pi x), the solution of u_t = u_xx/10
    for a rod whose ends are kept at 0 and that starts as sin(pi x)."""
    place, time = np.random.RandomState(0).uniform(0, 1, (POINTS, 2)).round(3).T
    exact = np.exp(-CONDUCTIVITY * np.pi**2 * time) * np.sin(np.pi * place)
    return _table(["place", "time", "temperature"], np.stack([place, time, exact], 1))


def waves() -> str:
    """Amplitudes from 0.1 to 5 and phases from 0 to pi, as in the paper."""
    random = np.random.RandomState(1)
    amplitude, phase = random.uniform(0.1, 5, WAVES), random.uniform(0, np.pi, WAVES)
    return _table(["amplitude", "phase"], np.stack([amplitude, phase], 1))


def ring() -> str:
    """Points of eight normal distributions, whose means are on the unit circle."""
    random = np.random.RandomState(2)
    angle = random.randint(8, size=RING) * (np.pi / 4)
    points = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * random.normal(size=(RING, 2))
    return _table(["across", "up"], points)


def _table(names: list[str], rows: np.ndarray) -> str:
    lines = [",".join(names), *(",".join(f"{x:.6f}" for x in row) for row in rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    folder = Path(__file__).parent
    (folder / "heat.csv").write_text(heat(), encoding="utf-8")
    (folder / "sinusoids.csv").write_text(waves(), encoding="utf-8")
    (folder / "ring.csv").write_text(ring(), encoding="utf-8")
