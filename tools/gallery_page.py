"""Make docs/gallery.md and its pictures: `python tools/gallery_page.py [NAME …]`.

Trains the named examples, or all, unless the folder of runs has them, draws what they have learnt
into docs/pictures/gallery and writes what they measure beside it. The page follows from this, from
`gallery.toml` and from the programs: `--page` writes it alone, `--check` compares it. A new example
needs an entry in `gallery.toml` and a function of its name in `gallery_pictures.py`,
`gallery_sequences.py`, `gallery_sounds.py` or `gallery_films.py`; with `film` in its entry, a
second one for the GIF.
"""

from __future__ import annotations

import argparse
import json
import string
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gallery_runs import Trained

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "pictures" / "gallery"
MEASURED = PICTURES / "measured.json"
EXAMPLES = ROOT / "examples"
AGAIN = "run `python tools/gallery_page.py"
INTRODUCTION = """\
# Gallery

What each of the [examples](../examples) has learnt, with the heart of its program.
`nnc examples NAME --copy` copies one. Below each stands the command that trained it, what the
held-out data say of it, and the time from the start of the command to its end, with compiling, on
two cores of an {processor}; where it is long, it is calculated from the first seconds of training.
`python tools/gallery_page.py` trains, measures and draws all of this.
"""


def entries() -> dict[str, dict[str, Any]]:
    """What `gallery.toml` says of the examples, by their names, in order."""
    return tomllib.loads((ROOT / "tools" / "gallery.toml").read_text("utf-8"))


def measured() -> dict[str, dict[str, Any]]:
    """What the runs that the pictures are of have measured: `figures`, `seconds`, `processor`."""
    return json.loads(MEASURED.read_text("utf-8")) if MEASURED.exists() else {}


def heart(name: str, first: str, last: str) -> str:
    """The lines of a program from the one that begins with `first` to the next that begins with
    `last`. SystemExit if there are none: the program has changed."""
    lines = (EXAMPLES / f"{name}.nn").read_text("utf-8").splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith(first)), None)
    for end in range(start or 0, len(lines)):
        if start is not None and lines[end].startswith(last):
            return dedent("\n".join(lines[start : end + 1]))
    raise SystemExit(f"examples/{name}.nn has no lines from {first!r} to {last!r}")


def figure_names(entry: dict[str, Any]) -> list[str]:
    """The names of what an entry tells of a run."""
    return [field for _, field, _, _ in string.Formatter().parse(entry["figure"]) if field]


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def player(sound: list[str]) -> str:
    """A sound, [file, what it is]: a link, and where a page may have one, something to play it."""
    file, title = sound
    source = f"sounds/{file}"
    return f'[{title}]({source}) <audio controls preload="none" src="{source}"></audio>\n'


def page() -> str:
    """The text of the page. SystemExit if an example is missing, or was not trained."""
    told, found = entries(), measured()
    missing = sorted({path.stem for path in EXAMPLES.glob("*.nn")} - (set(told) & set(found)))
    if missing:
        raise SystemExit(
            f"the gallery lacks {', '.join(missing)}: write an entry in tools/gallery.toml and "
            f"draw a picture, then {AGAIN} {' '.join(missing)}`"
        )
    processor = " or of an ".join(sorted({found[name]["processor"] for name in told}))
    parts = [INTRODUCTION.format(processor=processor)]
    for name, entry in told.items():
        run = found[name]
        options = "".join(f" {option}" for option in entry.get("options", ()))
        figure = entry["figure"].format(**run["figures"]).replace("%", " %")
        parts += [f"## {entry['part']}\n"] if "part" in entry else []
        parts += [
            f"### {entry['title']}\n",
            f"{entry['about']}\n",
            f"```nn-fragment\n{heart(name, *entry['heart'])}\n```\n",
            f"![{entry['caption']}](pictures/gallery/{name}.svg)\n",
            f"{entry['caption']}\n",
            *map(player, entry.get("sounds", ())),
            *film(name, entry),
            f"[`nnc train examples/{name}.nn{options}`](../examples/{name}.nn): {figure}; "
            f"{duration(run['seconds'])}.\n",
        ]
    return "\n".join(parts)


def film(name: str, entry: dict[str, Any]) -> list[str]:
    """The lines about the film of an entry, if it has one."""
    if "film" not in entry:
        return []
    return [f"![{entry['film']}](pictures/gallery/{name}.gif)\n", f"{entry['film']}\n"]


def draw(trained: Trained, entry: dict[str, Any]) -> None:
    """Trains an example, draws what it has learnt, and notes what it measures."""
    import gallery_films
    import gallery_pictures
    import gallery_sequences
    import gallery_sounds

    trained.train(entry.get("options", []))
    modules = (gallery_pictures, gallery_sequences, gallery_sounds, gallery_films)
    (drawing,) = (found for m in modules if (found := getattr(m, trained.name, None)))
    drawing(trained).write(PICTURES / f"{trained.name}.svg")
    if "film" in entry:
        frames = getattr(gallery_films, f"{trained.name}_film")(trained)
        gallery_films.write_film(frames, PICTURES / f"{trained.name}.gif")
    values = trained.measured()
    if trained.name in gallery_sounds.MEASURES:
        values |= gallery_sounds.MEASURES[trained.name](trained)
    note(trained.name, figures={key: values[key] for key in figure_names(entry)})


def note(name: str, **values: Any) -> None:
    """Writes what was measured of an example."""
    found = measured()
    found[name] = found.get(name, {}) | values
    ordered = {key: found[key] for key in sorted(found)}
    MEASURED.write_text(json.dumps(ordered, indent=2) + "\n", "utf-8")


def make(names: list[str], runs: Path, data: Path | None, only_time: bool) -> None:
    """Trains, draws, measures and times examples."""
    from gallery_runs import Trained

    for name in names:
        print(name, flush=True)
        entry, trained = entries()[name], Trained(name, runs / name, data)
        if not only_time:
            draw(trained, entry)
        seconds = round(trained.seconds(entry.get("options", [])), 1)
        note(name, seconds=seconds, processor=trained.processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="an example; none: all")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "gallery", metavar="DIR")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the data of others lie")
    parser.add_argument("--time", action="store_true", help="only measure how long it takes")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--check", action="store_true", help="only say whether the page fits")
    given = parser.parse_args()
    if not (given.page or given.check):
        unknown = [name for name in given.names if name not in entries()]
        if unknown:
            parser.error(f"tools/gallery.toml has no {', '.join(unknown)}")
        make(given.names or list(entries()), given.runs.resolve(), given.data, given.time)
    text = page()
    if given.check and PAGE.read_text("utf-8") != text:
        raise SystemExit(f"docs/gallery.md is not what it would be: {AGAIN} --page`")
    if not given.check:
        PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
