"""`nnc train FILE --set optimizer.lr=1e-2,1e-3`: a run for every point of a grid, in order.

In: assignments, of which some list several values. Out: a folder with a run for each, `sweep.json`
with their results, and a table. What is done is skipped, what was interrupted is resumed.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

from ...dsl.diagnostics.diagnostic import UserError, fail
from ...dsl.files import make_folder, reason
from ...dsl.records import record
from ..project import Project
from ..training.atomic_files import json_text, read_json, write_text
from ..training.interrupt import Stopped
from ..training.job import Job
from ..training.metrics import format_number
from ..training.progress import notify
from ..training.run_folder import RunFolder
from .tables import TableColumn, print_table

RESULTS = "sweep.json"
LONGEST_NAME = 100  # characters of a folder's
DIVERGED = ("E0701", "E0730")  # what a point of a grid may end with, the others going on
_OPENING, _CLOSING = "([{", ")]}"


def listed_values(text: str) -> list[str]:
    """The values of an assignment: parts between commas that stand in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        if character == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


@record
class Point:
    """A point of the grid: the assignments of its run, and those among them that vary."""

    sets: tuple[str, ...]
    varied: Mapping[str, str]

    @property
    def title(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.varied.items())

    @property
    def folder(self) -> str:
        """A name for its folder, which is of no other point."""
        name = re.sub(r"[^\w.,=+-]+", "_", self.title.replace(", ", ","))
        if name == self.title.replace(", ", ",") and len(name) <= LONGEST_NAME:
            return name
        digest = hashlib.sha256(self.title.encode()).hexdigest()[:8]
        return f"{name[:LONGEST_NAME]}-{digest}"


def grid(sets: Sequence[str]) -> list[Point]:
    """The points of all combinations, the last assignment varying fastest; one if none varies."""
    lists = []
    for text in sets:
        key, equals, value = text.partition("=")
        values = listed_values(value) if equals else [value]
        lists.append([(key.strip(), v, f"{key}{equals}{v}", len(values) > 1) for v in values])
    found = [
        Point(
            tuple(text for _, _, text, _ in chosen),
            {key: value for key, value, _, varies in chosen if varies},
        )
        for chosen in itertools.product(*lists)
    ]
    return list({point.title: point for point in found}.values())  # a value given twice is one


# what trains a point: (its assignments, its folder, whether to go on there) → the job at its end,
# None if its time is over
Train = Callable[[Point, Path, bool], Job | None]


def sweep(
    points: Sequence[Point], out: Path, project_of: Callable[[Point], Project], train: Train
) -> None:
    """Train all points that are not done yet. UserError E0705 for a folder of something else, and
    what is wrong in the program or the data; a point that diverges is noted as that."""
    # All points first: a mistake in the last one should not be found after hours.
    programs = [(point, project_of(point).resolved()) for point in points]
    results = _read(out)
    for number, (point, program) in enumerate(programs, 1):
        path = out / point.folder
        where = f"run {number} of {len(points)}: {point.title}"
        goes_on = _check_same_program(path, program)
        if goes_on and point.folder in results:
            notify(f"{where} is done")
            continue
        notify(where)
        try:
            job = train(point, path, goes_on)
        except UserError as error:
            codes = {d.code for d in error.diagnostics}
            if not codes <= {*DIVERGED}:
                raise
            notify(f"{where} ended with {', '.join(codes)}: {error.diagnostics[0].message}")
            results[point.folder] = {"ended": ", ".join(codes)}
        except Stopped:
            notify("the same command goes on with the sweep")
            raise
        else:
            if job is None:
                notify("the same command goes on with the sweep")
                break
            results[point.folder] = _result(job)
        _write(out, results)
    _print(points, results)


def _check_same_program(path: Path, program: str) -> bool:
    """Whether there is a run of a point already. UserError E0705 if it is of another program."""
    if not (path / "settings.json").exists():
        return False
    if RunFolder(path).model.read_text("utf-8") != program:
        raise fail(
            "E0705",
            f"{path} is a run of another program, or with other settings",
            help="name another folder for the sweep with `--out`",
        )
    return True


def _result(job: Job) -> dict[str, Any]:
    """What is noted of a run: the record of the weights that it keeps."""
    records = [r for r in job.records if job.monitor.name in r.values]
    kept = next((r for r in records if r.step == job.position.kept), records[-1])
    return {
        "epoch": kept.epoch,
        "step": kept.step,
        "monitor": job.monitor.name,
        "smaller_is_better": job.monitor.better(0.0, 1.0),
        "values": {n: v if isfinite(v) else None for n, v in kept.values.items()},
    }


def _read(out: Path) -> dict[str, Any]:
    path = out / RESULTS
    if path.exists():
        found = read_json(path)
        if isinstance(found, dict) and isinstance(found.get("runs"), dict):
            return dict(found["runs"])
        raise fail("E0706", f"{path} does not hold the results of a sweep")
    if out.is_dir() and any(out.iterdir()):
        raise fail(
            "E0705",
            f"{out} is not empty, and holds no sweep",
            help="name a new folder with `--out`",
        )
    return {}


def _write(out: Path, results: Mapping[str, Any]) -> None:
    try:
        make_folder(out)
    except OSError as error:
        raise fail("E0709", f"cannot make {out}: {reason(error)}") from error
    write_text(out / RESULTS, json_text({"runs": dict(results)}), own=True)


# --- the table ------------------------------------------------------------------------------------


def _print(points: Sequence[Point], results: Mapping[str, Any]) -> None:
    """A line for each point in order, with the best one marked, then the best run."""
    done = [p for p in points if p.folder in results]
    measured = [p for p in done if "values" in results[p.folder]]
    names = list(dict.fromkeys(n for p in measured for n in results[p.folder]["values"]))
    if measured:
        # What decides stands first.
        monitor = results[measured[0].folder]["monitor"]
        names = [monitor, *(n for n in names if n != monitor)]
    best = _best(measured, results)
    keys = list(points[0].varied)
    head = [*keys, "epoch", *names]
    rows = [_row(point, results.get(point.folder), keys, names) for point in points]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    named = zip(head, widths, strict=True)
    columns = [TableColumn(name, width, k >= len(keys)) for k, (name, width) in enumerate(named)]
    marked = [
        ([*row, "best"], "bold") if point is best else ([*row, ""], "")
        for row, point in zip(rows, points, strict=True)
    ]
    print_table([*columns, TableColumn("", 4, False)], marked, gap=2)
    if best is not None:
        notify(f"best: {best.title}")


def _row(point: Point, result: Any, keys: Sequence[str], names: Sequence[str]) -> list[str]:
    cells = [point.varied[key] for key in keys]
    if result is None:
        return [*cells, "", *("" for _ in names)]
    if "values" not in result:
        return [*cells, result["ended"], *("" for _ in names)]
    values = [result["values"].get(n, "") for n in names]
    shown = ["" if v == "" else format_number(nan if v is None else v) for v in values]
    return [*cells, str(result["epoch"]), *shown]


def _best(points: Sequence[Point], results: Mapping[str, Any]) -> Point | None:
    def value(point: Point) -> float:
        result = results[point.folder]
        found = result["values"].get(result["monitor"])
        if found is None:
            return float("inf")
        return float(found if result["smaller_is_better"] else -found)

    return min(points, key=value, default=None)


def default_folder(project: Project) -> Path:
    """Where a sweep goes without `--out`."""
    return Path("runs") / f"{project.name.lower()}-sweep"
