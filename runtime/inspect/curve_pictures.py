"""Curves as a picture: PNG, SVG, or a page of HTML that needs no other file.

In: `Panel`s. Out: a matplotlib figure, or the bytes of a file. Matplotlib, of the extra `plot`, is
imported here alone and without pyplot, so that no window and no global state is involved.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ..training.metrics import format_number
from .curves import EVERYTHING, Choice, History, Panel, panels

ENDINGS = (".png", ".svg", ".html")
INSTALL = "install it with `pip install 'nnc-lang[plot]'`"
WIDTH, HEIGHT = 7.5, 3.2  # of a panel, in inches
COLORS = [f"C{n}" for n in range(10)]
DASHES = {"": "-", "validation": "--", "test": ":"}  # where colours tell runs apart
FEW = 12  # records that are each shown by a point


def plot(histories: Sequence[History], choice: Choice = EVERYTHING) -> Any:
    """A `matplotlib.figure.Figure` of what was measured, a panel for each quantity.

    UserError E0740 for a metric that was not measured, E0741 without matplotlib.
    """
    return figure(panels(histories, choice))


def check_ending(path: Path) -> None:
    """UserError E0716 unless there is a picture of the file's ending."""
    if path.suffix.lower() not in ENDINGS:
        what = f"as `{path.suffix}`" if path.suffix else "without an ending"
        near = did_you_mean(path.suffix.lower(), ENDINGS)
        help = f"{near} there are {', '.join(ENDINGS)}".strip()
        raise fail("E0716", f"curves are not drawn {what}", help=help)


def picture(shown: Sequence[Panel], path: Path) -> bytes:
    """The bytes of the file, in the format that its ending says."""
    check_ending(path)
    ending = path.suffix.lower()
    drawn = figure(shown)
    if ending == ".html":
        return _page(shown, saved(drawn, "svg").decode()).encode()
    return saved(drawn, ending.removeprefix("."))


def figure(shown: Sequence[Panel]) -> Any:
    """The panels below each other. UserError E0741 without matplotlib."""
    drawn = new_figure((WIDTH, HEIGHT * len(shown)))
    for panel, axes in zip(shown, drawn.subplots(len(shown), squeeze=False)[:, 0], strict=True):
        _draw(panel, axes)
    return drawn


def new_figure(size: tuple[float, float]) -> Any:
    """An empty `matplotlib.figure.Figure` of a size in inches. UserError E0741 without it."""
    try:
        from matplotlib.figure import Figure  # the extra `plot`
    except ImportError as error:
        raise fail("E0741", "this picture needs matplotlib", help=INSTALL) from error
    return Figure(figsize=size, layout="constrained", dpi=120)


def _draw(panel: Panel, axes: Any) -> None:
    for curve, label in zip(panel.curves, panel.labels, strict=True):
        color, dashes = _look(panel, curve.run, curve.split)
        marker = "o" if len(curve.x) <= FEW else ""
        if curve.raw is not curve.y:
            axes.plot(curve.x, curve.raw, color=color, alpha=0.25, linewidth=1)
        axes.plot(curve.x, curve.y, dashes, color=color, label=label, marker=marker, markersize=3.5)
    axes.set(title=panel.title, xlabel=panel.x_label)
    if panel.log:
        # Values below 0 have no place there, and are left out as gaps.
        axes.set_yscale("log", nonpositive="mask")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(panel.curves) > 1 or len(panel.runs) > 1:
        axes.legend(frameon=False, fontsize="small")


def _look(panel: Panel, run: str, split: str) -> tuple[str, str]:
    """A colour and a line style: colours tell runs apart, or the sets of a single run."""
    if len(panel.runs) > 1:
        return COLORS[panel.runs.index(run) % len(COLORS)], DASHES[split]
    return COLORS[list(DASHES).index(split)], "-"


def saved(drawn: Any, form: str) -> bytes:
    """The bytes of a file, the same for the same curves: no date, no random names. Text stays text
    in an SVG."""
    from matplotlib import rc_context

    data = BytesIO()
    metadata = {"svg": {"Date": None}, "png": {"Software": None}}[form]
    with rc_context({"svg.hashsalt": "nnc", "svg.fonttype": "none"}):
        drawn.savefig(data, format=form, metadata=metadata)
    return data.getvalue()


# --- a page ---------------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
"""


def _page(shown: Sequence[Panel], svg: str) -> str:
    """The picture, and below it the last, least and greatest value of every curve."""
    runs = ", ".join(shown[0].runs) if shown else ""
    head = "".join(f"<th>{name}</th>" for name in ("", "last", "least", "greatest"))
    rows = "\n".join(
        f"<tr><td>{escape(f'{panel.title}: {label}')}</td>{_figures(curve.raw)}</tr>"
        for panel in shown
        for label, curve in zip(panel.labels, panel.curves, strict=True)
    )
    # The SVG of a file begins with a declaration that has no place in a page.
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{escape(runs)}</title><style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(runs)}</h1>\n{svg[svg.index('<svg') :]}\n"
        f"<table>\n<tr>{head}</tr>\n{rows}\n</table>\n</body>\n</html>\n"
    )


def _figures(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    texts = ["–"] * 3
    if len(known):
        texts = [format_number(float(v)) for v in (known[-1], known.min(), known.max())]
    return "".join(f"<td>{text}</td>" for text in texts)
