"""Train the rows of a paper's table, and print what they reach beside what was published.

    python -m nnc.examples.papers                 # lists the tables
    python -m nnc.examples.papers lenet1998

`tables.toml` says which programs the rows are. Each row is a run of `nnc train` in a folder of its
own; the same command goes on after an interruption, and leaves out what is done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DONE = "done.json"


@dataclass(frozen=True)
class Row:
    """A line of a table: a program with settings, and the figures that were published for it."""

    name: str
    file: str
    published: tuple[str, ...]
    sets: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.name.lower()).strip("-")


@dataclass(frozen=True)
class Table:
    """A table: `measure` is what its runs record and it shows, times `factor` in the `unit`, with
    so many `digits`; `columns` are the sources of the published figures, `means` theirs."""

    title: str
    measure: str
    unit: str
    factor: float
    digits: int
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    means: tuple[str, ...] = ()

    def text(self, value: float) -> str:
        return f"{self.factor * value:.{self.digits}f}"


def tables() -> dict[str, Table]:
    """All of `tables.toml`, by name."""
    found = {}
    for name, plain in tomllib.loads((HERE / "tables.toml").read_text("utf-8")).items():
        rows = tuple(
            Row(
                row["name"],
                row.get("file", plain.get("file", "")),
                tuple(row["published"]),
                tuple(f"{key}={value}" for key, value in row.get("set", {}).items()),
            )
            for row in plain["rows"]
        )
        found[name] = Table(
            plain["title"],
            plain["measure"],
            plain.get("unit", ""),
            plain.get("factor", 1.0),
            plain["digits"],
            tuple(plain["columns"]),
            rows,
            tuple(plain.get("means", ())),
        )
    return found


def reached(run: Path, measure: str) -> float:
    """The last value that a run has recorded."""
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    values = [json.loads(line).get(measure) for line in lines]
    return float([value for value in values if value is not None][-1])


def train(row: Row, run: Path, options: Sequence[str]) -> None:
    """Train a row, or go on with it. Exits with the code of `nnc train` if that fails."""
    if (run / "settings.json").exists():
        words = ["--resume", str(run)]
    else:
        sets = [word for text in row.sets for word in ("--set", text)]
        words = [str((HERE / row.file).resolve()), *sets, "--out", str(run)]
    training = subprocess.Popen([sys.executable, "-m", "nnc", "train", *words, *options])
    while True:
        try:
            code = training.wait()
            break
        except KeyboardInterrupt:
            pass  # the training has it, too: it saves what it has, and ends
    if code:
        sys.exit(code)


def make(table: Table, out: Path, options: Sequence[str]) -> dict[str, tuple[float, float]]:
    """What each row has reached, and in how many seconds."""
    noted = out / DONE
    done: dict[str, tuple[float, float]] = {}
    if noted.exists():
        done = {name: (v, s) for name, (v, s) in json.loads(noted.read_text("utf-8")).items()}
    for number, row in enumerate(table.rows, 1):
        if row.name in done:
            continue
        print(f"{row.name} ({number} of {len(table.rows)})", flush=True)
        began = time.monotonic()
        train(row, out / row.folder, options)
        done[row.name] = reached(out / row.folder, table.measure), time.monotonic() - began
        noted.write_text(json.dumps(done, indent=1), "utf-8")
    return done


def lines(table: Table, done: Mapping[str, tuple[float, float]]) -> list[str]:
    """The table as text."""
    unit = f", {table.unit}" if table.unit else ""
    cells = [("", *table.columns, "reached here", "time")]
    for row in table.rows:
        value, seconds = done[row.name]
        cells.append((row.name, *row.published, table.text(value), f"{seconds:.0f} s"))
    if table.means:
        every = [done[row.name] for row in table.rows]
        mean = sum(value for value, _ in every) / len(every)
        total = sum(seconds for _, seconds in every)
        cells.append(("mean", *table.means, table.text(mean), f"{total:.0f} s"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    shown = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return [f"{table.title}{unit}", "", *shown]


def main(arguments: Sequence[str] | None = None) -> None:
    known = tables()
    parser = argparse.ArgumentParser(
        prog="python -m nnc.examples.papers",
        description="Train the rows of a paper's table, and print what they reach beside what was "
        "published.",
        epilog="What else is given goes to `nnc train`: --data, --threads, --device.",
    )
    parser.add_argument("table", nargs="?", choices=sorted(known), help="without one: a list")
    parser.add_argument("--out", type=Path, help="folder of the runs; runs/papers/TABLE by default")
    chosen, options = parser.parse_known_args(arguments)
    if chosen.table is None:
        width = max(map(len, known))
        for name, table in known.items():
            print(f"{name:<{width}}  {table.title}")
        return
    table = known[chosen.table]
    done = make(table, chosen.out or Path("runs") / "papers" / chosen.table, options)
    print("", *lines(table, done), sep="\n")


if __name__ == "__main__":
    main()
