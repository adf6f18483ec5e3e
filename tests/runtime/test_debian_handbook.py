"""`debian_handbook(…)`: which paragraphs of its pages are pairs, in small pages of their form."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.sets import debian_handbook
from nnc.runtime.data.sets.debian_handbook import INSTALLED, blocks_of

PAGE = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>{title}</title>
<meta name="keywords" content="apt" /><link rel="home" href="index.html" title="x" />
<link rel="up" href="{up}.html" title="x" /></head><body><p id="title"><img alt="x" src="x" /></p>
<ul class="docnav top"><li class="previous"><strong>Previous</strong></li></ul>
<div class="section"><div class="titlepage"><h2 class="title"><a id="x"></a>6.2. {title}</h2></div>
{body}</div><ul class="docnav"><li>Next</li></ul></body></html>
"""


def para(text: str) -> str:
    return f'<a id="i" class="indexterm"></a><div class="para">\n\t\t\t{text}\n\t\t</div>'


def page(up: str, title: str, *paragraphs: str) -> str:
    return PAGE.format(up=up, title=title, body="".join(map(para, paragraphs)))


SHARED = "Both have this. It is in English."
BOOK = {
    "en-US": {
        "index": page("index", "Contents", "A handbook.", "Not used."),
        "preface": page("index", "Preface", "Use <code>apt</code> or &#8220;dpkg&#8221;.", SHARED),
        "apt": page("index", "Packages", "They are installed. They are removed."),
        "sect.apt-get": page("apt", "The Tool", "It installs", "Before <pre>$ ls</pre> after."),
        "solving-problems": page("index", "Problems", "Read the manual.", "They are installed."),
        "sect.more": page("solving-problems", "More", "Ask."),
        "case-study": page("index", "A Case", "A company."),
        "only-english": page("index", "Only", "Here."),
    },
    "de-DE": {
        "index": page("index", "Inhalt", "Ein Handbuch.", "Unbenutzt."),
        "preface": page("index", "Vorwort", "Verwenden Sie <b>apt</b> oder „dpkg“.", SHARED),
        "apt": page("index", "Pakete", "Sie werden installiert. Sie werden entfernt."),
        "sect.apt-get": page("apt", "Das Werkzeug", "Es installiert", "Vor <pre>$ ls</pre> nach."),
        "solving-problems": page("index", "Probleme", "Lesen Sie nach.", "Sie sind es."),
        "sect.more": page("solving-problems", "Mehr", "Fragen Sie."),
        "case-study": page("index", "Ein Fall", "Eine Firma."),
    },
}
PAIRS = {
    "train": [
        ("Packages", "Pakete"),
        ("They are installed.", "Sie werden installiert."),
        ("They are removed.", "Sie werden entfernt."),
        ("Preface", "Vorwort"),
        ("Use apt or “dpkg”.", "Verwenden Sie apt oder „dpkg“."),
        ("The Tool", "Das Werkzeug"),
        ("It installs", "Es installiert"),
        ("Before after.", "Vor nach."),
    ],
    "test": [("More", "Mehr"), ("Ask.", "Fragen Sie."), ("Problems", "Probleme"),
             ("Read the manual.", "Lesen Sie nach.")],
    "validation": [("A Case", "Ein Fall"), ("A company.", "Eine Firma.")],
}  # fmt: skip


@pytest.fixture
def book(tmp_path: Path) -> Path:
    for language, pages in BOOK.items():
        (tmp_path / "debian_handbook" / language).mkdir(parents=True)
        for name, text in pages.items():
            path = tmp_path / "debian_handbook" / language / f"{name}.html"
            path.write_text(text, "utf-8")
    return tmp_path


def load(folder: Path, **settings) -> data.Dataset:
    search = data.Search(folder, folder, offline=True, cache=folder / "cache")
    return data.load("debian_handbook", {"target": "de", "vocabulary": "bytes", **settings}, search)


def texts(found: data.Dataset) -> dict[str, list[tuple[str, str]]]:
    known = found.vocabularies
    return {
        name: [
            tuple(known[field].decode(row) for field, row in zip(fields, rows, strict=True))
            for rows in zip(*(split.arrays[field][:] for field in fields), strict=True)
        ]
        for name, split in found.splits.items()
        for fields in [("source", "target_out")]
    }


def test_paragraphs_and_headings_are_pairs_by_chapters(book) -> None:
    found = texts(load(book))
    assert {name: sorted(pairs) for name, pairs in found.items()} == {
        name: sorted(pairs) for name, pairs in PAIRS.items()
    }


def test_any_two_languages(book) -> None:
    found = texts(load(book, target="en-US", source="de-DE"))
    assert sorted(found["train"]) == sorted((b, a) for a, b in PAIRS["train"])


def test_pages_are_read_once(book, monkeypatch) -> None:
    first = texts(load(book))
    monkeypatch.setattr(debian_handbook, "blocks_of", None)
    assert texts(load(book)) == first
    path = book / "debian_handbook" / "de-DE" / "preface.html"
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")
    with pytest.raises(TypeError):
        load(book)


def test_pages_of_other_editions(book) -> None:
    path = book / "debian_handbook" / "de-DE" / "apt.html"
    path.write_text(page("index", "Pakete", "Eins.", "Zwei."), "utf-8")
    with pytest.raises(UserError) as caught:
        load(book)
    (found,) = caught.value.diagnostics
    assert found.code == "E0602" and "apt.html do not have the same paragraphs" in found.message


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [("target", "fr", "there are de-DE, en-US"), ("source", "dee", "did you mean `de`?"),
     ("target", "", "a text in quotes")],
)  # fmt: skip
def test_languages_that_are_not_there(book, setting, value, told) -> None:
    with pytest.raises(UserError) as caught:
        load(book, **{setting: value})
    (found,) = caught.value.diagnostics
    assert told in f"{found.message} {found.help}"


def test_two_folders_of_a_language(book) -> None:
    (book / "debian_handbook" / "de-AT").mkdir()
    (book / "debian_handbook" / "de-AT" / "preface.html").write_text("", "utf-8")
    with pytest.raises(UserError) as caught:
        load(book)
    assert "write one of de-AT, de-DE" in caught.value.diagnostics[0].help


def test_where_it_is_looked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(debian_handbook, "INSTALLED", tmp_path / "nowhere")
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    (found,) = caught.value.diagnostics
    assert found.code == "E0601" and "apt-get install debian-handbook" in found.help


def test_what_is_left_out_of_a_page() -> None:
    table = "<table><tr><td>a cell</td></tr></table>"
    contents = '<dl class="toc"><dt><span class="section">7.1. a section</span></dt></dl>'
    nested = '<div class="para">out <ul><li><div class="para">in</div></li></ul> again<br/></div>'
    html = f"<body>{table}{contents}{nested}<p>a paragraph of none</p></body>"
    found = [(kind, text) for kind, text in blocks_of(html) if text]
    assert found == [("para", "out again"), ("para", "in")]


def test_the_real_book() -> None:
    if not (INSTALLED / "de-DE").is_dir():
        pytest.skip("Debian's package debian-handbook is not installed")
    folder = Path(__file__).parent
    search = data.Search(None, folder, offline=True)
    found = data.load("debian_handbook", {"target": "de", "vocabulary": "bytes"}, search)
    assert [len(split) for split in found.splits.values()] == [5945, 375, 156]
