"""Write concrete.csv, the table of linear.nn: invented mixes, a known formula, some noise.

In: nothing. Out: the file next to this one, the same bytes on every run. NumPy's RandomState keeps
its stream for ever."""

from pathlib import Path

import numpy as np

ROWS, NOISE = 240, 0.05
WEIGHTS = {"cement": 3.0, "water": -2.0, "sand": 0.5, "age": 1.0}
BIAS = 2.0


def table() -> str:
    """The file's text."""
    random = np.random.RandomState(0)
    mixes = random.uniform(-1, 1, (ROWS, len(WEIGHTS))).round(3)
    strength = mixes @ np.array(list(WEIGHTS.values())) + BIAS + NOISE * random.normal(size=ROWS)
    lines = [",".join([*WEIGHTS, "strength"])]
    for mix, value in zip(mixes, strength, strict=True):
        lines.append(",".join(f"{number:.3f}" for number in (*mix, value)))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("concrete.csv").write_text(table(), encoding="utf-8")
