"""The site made of `docs/`: every page is in its menu, every link leads somewhere within it, and
nothing of it is loaded from elsewhere."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import site_of_docs  # type: ignore[import-not-found]

    yield site_of_docs
    sys.modules.pop("site_of_docs")


def test_every_page_is_in_the_menu(site) -> None:
    listed = [name for names in site.PARTS.values() for name in names]
    assert sorted(["index", *listed]) == sorted(path.stem for path in site.pages())


def test_a_link_that_leads_nowhere_ends_the_build(site, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"\(nothing\.md\) leads nowhere"):
        site.rewritten("see [it](nothing.md)", site.DOCS, site.Sources(tmp_path))


class Links(HTMLParser):
    """What a page links to and loads, and the places in it that links can name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {given[k] or "" for k in ("id", "name") if k in given}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        if tag in ("script", "img", "link", "iframe", "source", "object"):
            self.loaded += [given[k] or "" for k in ("src", "href", "data") if given.get(k)]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sphinx") is None, reason="needs Sphinx: pip install -e '.[docs]'")
def test_the_site_is_whole(site, tmp_path: Path) -> None:
    assert site.build(tmp_path) == 0
    found = {
        path: Links(path.read_text(encoding="utf-8"))
        for path in tmp_path.rglob("*.html")
        if "_static" not in path.parts
    }
    assert {"index.html", "language.html", "README.html"} <= {path.name for path in found}
    for path, page in found.items():
        assert not [address for address in page.loaded if re.match(r"(https?:)?//", address)], path
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            address, _, place = unquote(link).partition("#")
            target = (path.parent / address).resolve() if address else path
            assert target.exists(), f"{path.name}: {link}"
            if place and target in found:
                assert place in found[target].places, f"{path.name}: {link}"
