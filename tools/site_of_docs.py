"""The site: `docs/` as pages to be read in a browser, without a server and without a network.

    python tools/site_of_docs.py OUT

Needs `pip install 'nnc-lang[docs]'`. What the pages link to outside of `docs/`, such as a pass of
the compiler, becomes a page of the site that shows the file, and a folder becomes a list of its
files. A link that leads nowhere ends the build.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".nn": "nn", ".toml": "toml", ".lark": "text", ".cuh": "c++"}

# The pages by part, in the order of the menu; a test holds that none is left out.
PARTS = {
    "Using nnc": [
        "README",
        "tutorial",
        "gallery",
        "how_to",
        "language",
        "library",
        "running",
        "tools",
        "python",
        "export",
        "privacy",
        "results",
        "papers",
        "gpu",
    ],
    "How it works": ["compiler_tour", "passes", "glossary"],
    "Taking part": ["house", "debugging", "CONTRIBUTING", "CHANGELOG", "SECURITY"],
}
# Pages of the root that are part of the site.
OF_ROOT = ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")


class Sources:
    """The pages of files outside of `docs/`, made as they are linked to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown: set[Path] = set()

    def page(self, path: Path) -> str:
        """The page of a file or folder of the project, from the root of the site."""
        name = path.relative_to(ROOT).as_posix()
        page = f"source/{name.replace('/', '-')}.md"
        if path in self.shown:
            return page
        self.shown.add(path)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix in LANGUAGES)
            links = (f"- [`{p.name}`](/{self.page(p)})" for p in files)
            text = "\n".join(links)
        else:
            language = LANGUAGES.get(path.suffix, "text")
            content = path.read_text(encoding="utf-8")
            fence = "`" * (max((len(f) for f in re.findall("`{3,}", content)), default=2) + 1)
            text = f"{fence}{language}\n{content}{fence}"
        target = self.folder / page
        target.parent.mkdir(exist_ok=True)
        target.write_text(f"---\norphan: true\n---\n\n# {name}\n\n{text}\n", encoding="utf-8")
        return page


def rewritten(text: str, home: Path, sources: Sources) -> str:
    """A page's text with its links to other places of the project led into the site."""

    def moved(link: re.Match[str]) -> str:
        target, anchor = (home / link[1]).resolve(), link[2] or ""
        if not target.exists():
            raise SystemExit(f"{home}: {link[0][1:]} leads nowhere")
        if target.is_relative_to(DOCS):
            if target.suffix == ".md" or target.is_dir():
                page = "index.md" if target.is_dir() else target.relative_to(DOCS).as_posix()
                return f"](/{page}{anchor})"
            return f"](/{target.relative_to(DOCS).as_posix()})"
        if target.parent == ROOT and target.suffix == ".md" and target.stem in OF_ROOT:
            return f"](/{target.name}{anchor})"
        return f"](/{sources.page(target)})"

    return LINK.sub(moved, text)


def pages() -> Iterator[Path]:
    yield from sorted(DOCS.glob("*.md"))
    yield from (ROOT / f"{name}.md" for name in OF_ROOT)


def menu() -> str:
    """The site's menu, for the end of its first page."""
    parts = []
    for title, names in PARTS.items():
        listed = "\n".join(names)
        parts.append(f":::{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n:::")
    return "\n\n" + "\n\n".join(parts) + "\n"


def write_sources(folder: Path) -> None:
    """Everything that Sphinx reads, in a folder: the pages, pictures and settings."""
    sources = Sources(folder)
    for path in pages():
        text = rewritten(path.read_text(encoding="utf-8"), path.parent, sources)
        text += menu() if path.name == "index.md" else ""
        (folder / path.name).write_text(text, encoding="utf-8")
    for picture in (p for p in DOCS.rglob("*") if p.suffix in (".svg", ".png", ".gif")):
        target = folder / picture.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, target)
    # Players name a sound by its own address, links a copy for downloading.
    for place in (folder / "sounds", folder / "extra" / "sounds"):
        shutil.copytree(DOCS / "sounds", place)
    shutil.copy(DOCS / "site" / "conf.py", folder)


def build(out: Path) -> int:
    """Builds the site into a folder; returns the exit code of Sphinx, for which a warning is an
    error."""
    with tempfile.TemporaryDirectory() as name:
        write_sources(Path(name))
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
        return subprocess.run(
            [*command, "-d", os.path.join(name, ".doctrees"), name, str(out)], check=False
        ).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to write")
    raise SystemExit(build(parser.parse_args().out))
