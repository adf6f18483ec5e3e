"""The gallery: an entry, a picture and a measured run for every example, and a page that is what
the tool would write of them."""

from __future__ import annotations

import importlib
import sys
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.nn"))
MODULES = ("gallery_pictures", "gallery_sequences", "gallery_sounds", "gallery_films")
MOST_BYTES = 1_500_000  # of all pictures of the project
MOST_FILM_BYTES = 300_000  # of each film


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    yield importlib.import_module("gallery_page")
    for name in (
        "gallery_page",
        "gallery_runs",
        "gallery_pictures",
        "gallery_sequences",
        "gallery_sounds",
        "gallery_films",
        "drawing",
    ):
        sys.modules.pop(name, None)


def test_every_example_is_in_the_gallery(gallery) -> None:
    names = {path.stem for path in EXAMPLES}
    assert set(gallery.entries()) == names, "tools/gallery.toml has an entry for each example"
    assert set(gallery.measured()) == names, "python tools/gallery_page.py NAME"
    assert {path.stem for path in gallery.PICTURES.glob("*.svg")} == names


def test_films_are_small(gallery) -> None:
    names = {name for name, entry in gallery.entries().items() if "film" in entry}
    films = {path.stem: path.stat().st_size for path in gallery.PICTURES.glob("*.gif")}
    assert set(films) == names and max(films.values(), default=0) <= MOST_FILM_BYTES


def test_the_page_is_what_the_tool_writes(gallery) -> None:
    assert gallery.PAGE.read_text("utf-8") == gallery.page(), "python tools/gallery_page.py --page"


def test_every_entry_shows_a_few_lines_of_the_program(gallery) -> None:
    for name, entry in gallery.entries().items():
        lines = gallery.heart(name, *entry["heart"]).splitlines()
        text = (gallery.EXAMPLES / f"{name}.nn").read_text("utf-8")
        assert 1 <= len(lines) <= 12, name
        assert all(line.strip() in text for line in lines), name
        assert entry["about"].count(". ") >= 1 and entry["about"].endswith("."), name


def test_an_example_that_has_changed_or_is_missing_is_named(
    gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"xor\.nn has no lines from 'nothing'"):
        gallery.heart("xor", "nothing", "    logit")
    for path in EXAMPLES:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "newest.nn").write_text("")
    monkeypatch.setattr(gallery, "EXAMPLES", tmp_path)
    with pytest.raises(SystemExit, match="the gallery lacks newest"):
        gallery.page()


def test_every_example_has_a_drawing(gallery) -> None:
    drawings = [importlib.import_module(n) for n in MODULES]
    for path in EXAMPLES:
        assert any(callable(getattr(module, path.stem, None)) for module in drawings), path.stem


def test_pictures_are_whole_and_small() -> None:
    pictures = sorted((ROOT / "docs").rglob("*.svg"))
    for path in pictures:
        assert xml.parse(path).getroot().tag.endswith("svg"), path
    assert sum(path.stat().st_size for path in pictures) <= MOST_BYTES


def test_sounds_are_there_and_short(gallery) -> None:
    named = {s[0] for entry in gallery.entries().values() for s in entry.get("sounds", ())}
    files = list((ROOT / "docs" / "sounds").iterdir())
    assert {path.name for path in files} == named
    assert all(path.stat().st_size <= 30_000 for path in files)
