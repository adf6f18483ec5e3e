"""Where data is looked for.

In: a `Search` (the command's flags and the folder of the `.nn` file) and a name. Out: a path that
exists, or an error that lists every place tried. This file opens no data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_dir

from ....dsl.diagnostics.diagnostic import did_you_mean, fail
from ....dsl.syntax.source import Span

ENVIRONMENT = "NNC_DATA"


def _say_nothing(message: str) -> None:
    pass


@dataclass(frozen=True)
class Search:
    """Where to look. `say` is told, in one line, about anything slow (a download)."""

    explicit: Path | None  # --data DIR
    base: Path  # the folder of the .nn file
    offline: bool = False
    cache: Path | None = None  # None: the user's own
    say: Callable[[str], None] = _say_nothing

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that may hold the user's data, first come first."""
        named = os.environ.get(ENVIRONMENT)
        return (
            *([self.explicit] if self.explicit else []),
            self.base,
            self.base / "data",
            *([Path(named)] if named else []),
        )

    @property
    def cache_folder(self) -> Path:
        """Where downloads and unpacked copies are kept; need not exist yet."""
        return self.cache or Path(user_cache_dir("nnc")) / "data"


def check_explicit(search: Search) -> None:
    """Raise E0601 if `--data` names something that is not a folder."""
    if search.explicit is not None and not search.explicit.is_dir():
        raise fail("E0601", f"`--data {search.explicit}` is not a folder")


def known_set_folders(search: Search, name: str) -> tuple[Path, ...]:
    """The folders in which the files of a known set are looked for, in order, cache last."""
    own = {path: None for root in search.roots for path in (root, root / name)}
    return (*own, search.cache_folder / name)


def find_file(search: Search, name: str, span: Span | None = None) -> Path:
    """The first existing file called `name` in the places searched; E0601 or E0617 if none."""
    return _find(search, name, span, Path.is_file, "file")


def find_folder(search: Search, name: str, span: Span | None = None) -> Path:
    """The first existing folder called `name` in the places searched; E0601 or E0617 if none."""
    return _find(search, name, span, Path.is_dir, "folder")


def _find(
    search: Search, name: str, span: Span | None, fits: Callable[[Path], bool], kind: str
) -> Path:
    _check_inside(search, name, span)
    tried = list(dict.fromkeys(root / name for root in search.roots))  # absolute names: one place
    for path in tried:
        try:
            if fits(path):
                return path
            if path.exists():
                raise fail("E0617", f"{path} is not a {kind}", span)
        except (OSError, ValueError) as error:  # no permission; a name with a NUL or too long
            raise fail("E0617", f"cannot look at {str(path)!r}: {reason(error)}", span) from error
    raise fail(
        "E0601",
        f"no {kind} `{name}`; looked for {listed(tried)}",
        span,
        help=_near(tried, fits)
        or f"put it there, or name its folder with `--data` or ${ENVIRONMENT}",
    )


def _check_inside(search: Search, name: str, span: Span | None) -> None:
    """E0617 for a name that leads out of the folders of the data: by `..`, or, where `--data` says
    what the folder is, by an absolute path elsewhere."""
    inside = os.path.normpath(name)
    out = inside.split(os.sep)[0] == os.pardir
    if search.explicit is not None and os.path.isabs(inside):
        folder = os.path.abspath(search.explicit)
        out = os.path.commonpath([folder, inside]) != folder
    if out:
        folder = f"`--data {search.explicit}`" if search.explicit else "the folder of the data"
        raise fail(
            "E0617",
            f"`{name}` leads out of {folder}",
            span,
            help="name the folder that it is in: `--data DIR`",
        )


def _near(tried: Iterable[Path], fits: Callable[[Path], bool]) -> str:
    for path in tried:
        try:
            found = did_you_mean(path.name, [e.name for e in path.parent.iterdir() if fits(e)])
        except OSError:  # the folder is not there or not ours: nothing to propose
            continue
        if found:
            return found
    return ""


def listed(paths: Iterable[Path]) -> str:
    """Paths in a sentence."""
    return ", ".join(str(path) for path in paths)


def reason(error: BaseException) -> str:
    """What went wrong, without the path that `OSError` adds."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
