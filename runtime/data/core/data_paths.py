"""Where data is searched for.

In: a `Search` (the command's flags and the folder of the `.nn` file) and a name. Out: a path that
exists, or an error that lists every place tried. This file opens no data.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any

from ....dsl.diagnostics.diagnostic import UserError, did_you_mean, fail
from ....dsl.files import reason, user_cache
from ....dsl.likely_paths import did_you_mean_path
from ....dsl.records import record
from ....dsl.regular_files import is_within
from ...memory import bytes_of, free_bytes

ENVIRONMENT = "NNC_DATA"
MEMORY = "NNC_DATA_MEMORY"
SHARE = 2  # of the free memory, one part in so many is for data
WILDCARDS = frozenset("*?[")
DIGITS = re.compile(r"([0-9]+)")


def _ignore(message: str) -> None:
    pass


@record
class Search:
    """Where to search. `notify` is called with one line before anything slow (a download)."""

    explicit: Path | None  # --data DIR
    base: Path  # the folder of the .nn file
    offline: bool = False
    cache: Path | None = None  # None: the user's own
    notify: Callable[[str], None] = _ignore

    @classmethod
    def of_run(
        cls,
        notes: Mapping[str, Any],
        explicit: Path | None = None,
        offline: bool = False,
        notify: Callable[[str], None] = _ignore,
    ) -> Search:
        """Where the run with these notes (`settings.json`) found its data: in its `--data`, unless
        another is given, and beside its program."""
        own = notes.get("data_folder")
        folder = explicit or (Path(own) if own else None)
        return cls(folder, Path(notes["data_base"]), offline, notify=notify)

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that may hold the user's data, in the order in which they are searched."""
        # `--data` comes first and $NNC_DATA last: what one command sets outweighs what holds
        # for the whole session.
        named = os.environ.get(ENVIRONMENT)
        return (
            *([self.explicit] if self.explicit else []),
            self.base,
            self.base / "data",
            *([Path(named)] if named else []),
        )

    @property
    def cache_folder(self) -> Path:
        """Where downloads and unpacked copies are stored; need not exist yet."""
        # Where there is no home, a place where no folder can be made: a cache is only a help, and
        # a download says that it cannot be stored.
        return self.cache or (user_cache() or Path(os.devnull)) / "data"

    @cached_property
    def memory(self) -> int:
        """Bytes that data may take in memory: $NNC_DATA_MEMORY, else half of what is free. What has
        more is read when batches take it. E0615 for what is no size."""
        chosen = os.environ.get(MEMORY)
        if not chosen:
            free = free_bytes()
            return sys.maxsize if free is None else free // SHARE
        found = bytes_of(chosen)
        if found is None:
            raise fail("E0615", f"${MEMORY} is `{chosen}`, which is no size", help="like `500 MB`")
        return found

    def check(self) -> None:
        """Raise E0601 if `--data` names something that is not a folder."""
        if self.explicit is not None and not self.explicit.is_dir():
            help = did_you_mean_path(self.explicit, Path.is_dir)
            raise fail("E0601", f"`--data {self.explicit}` is not a folder", help=help)

    def find_file(self, name: str) -> Path:
        """The first file called `name` in the roots; E0601 or E0617 if there is none."""
        return self._find(name, Path.is_file, "file")

    def find_files(self, name: str) -> tuple[Path, ...]:
        """The file called `name`, or else the files that fit it as a pattern; E0601 or E0617."""
        if not WILDCARDS & {*name} or self.has(name):
            return (self.find_file(name),)
        return tuple(self.find_matches(name))

    def find_folder(self, name: str) -> Path:
        """The first folder called `name` in the roots; E0601 or E0617 if there is none."""
        return self._find(name, Path.is_dir, "folder")

    def find(self, name: str) -> Path:
        """The first file or folder called `name` in the roots; E0601 or E0617 if there is none."""
        return self._find(name, Path.exists, "file")

    def has(self, name: str) -> bool:
        """Whether a file or folder of that very name is in the roots."""
        return any((root / name).exists() for root in self.roots)

    def find_matches(self, pattern: str) -> list[Path]:
        """The files that fit a pattern in the first root in which any does, in the order of their
        names, numbers by their value; E0601 if none does, E0617 for a pattern or a link that leads
        out of the data folders."""
        self._check_name(pattern)
        roots = tuple(dict.fromkeys(self.roots))
        for root in roots:
            found = [root / one for one in _in_order(glob(pattern, root_dir=root, recursive=True))]
            if files := [one for one in found if one.is_file()]:
                return [self.checked(one) for one in files]
        raise fail("E0601", f"no file fits `{pattern}` in {', '.join(map(str, roots))}")

    def _find(self, name: str, fits: Callable[[Path], bool], kind: str) -> Path:
        self._check_name(name)
        tried = list(dict.fromkeys(root / name for root in self.roots))  # one, if it is absolute
        for path in tried:
            try:
                if fits(path):
                    return self.checked(path)
                # A folder in place of a file ends the search: to go on would report it missing, or
                # find another file of that name, and the user would not learn why.
                if path.exists():
                    raise fail("E0617", f"{path} is not a {kind}")
            except (OSError, ValueError) as error:  # no permission; a name with a NUL or too long
                raise fail("E0617", f"cannot look at {str(path)!r}: {reason(error)}") from error
        raise fail(
            "E0601",
            f"no {kind} `{name}`; looked for {', '.join(map(str, tried))}",
            # A name is misspelt more often than its file is in the wrong place.
            help=_similar(tried, fits)
            or f"put it there, or name its folder with `--data` or ${ENVIRONMENT}",
        )

    # A program may come from somebody else, so it reads what its user has laid ready and nothing
    # else, whether it is a private file or one whose lines a message would show.
    def _check_name(self, name: str) -> None:
        """E0617 for a name that leads out of the data folders as it is written: by `..`, or as an
        absolute path elsewhere."""
        # Only what is left over of `..` counts: `a/../b` stays inside, `a/../../b` does not.
        normal = os.path.normpath(name)
        outside = normal.split(os.sep)[0] == os.pardir
        if os.path.isabs(normal):
            outside = not is_within(normal, self._chosen)
        if outside:
            help = "name the folder that it is in: `--data DIR`"
            if os.path.isabs(normal):
                help = f"the folder that it is in is allowed by `--data {os.path.dirname(normal)}`"
            raise fail("E0617", f"`{name}` leads out of the folders of the data", help=help)

    def checked(self, path: Path) -> Path:
        """The same path of a file or folder; E0617 if a link leads out of the data folders."""
        if is_within(path, [*self._chosen, self.cache_folder]):
            return path
        real = Path(os.path.realpath(path))
        message = f"{path} is a link out of the folders of the data, to {real}"
        raise fail("E0617", message, help=f"`--data {real.parent}` allows it")

    def checked_entries(self, entries: Iterable[Path]) -> list[Path]:
        """The same entries of a data folder; E0617 as `checked`."""
        # Only links can lead elsewhere, and following each of thousands of names would take time.
        return [self.checked(entry) if entry.is_symlink() else entry for entry in entries]

    @property
    def _chosen(self) -> list[Path]:
        """The folders that the user has chosen; `data/` of the program's counts if it lies there,
        for a link of that name comes with the program."""
        return [root for root in self.roots if root != self.base / "data"]

    # ── well-known data sets ─────────────────────────────────────────────────────────────────────

    def set_folders(self, name: str) -> tuple[Path, ...]:
        """The folders in which the files of a well-known set are searched for, the cache last."""
        # A dictionary as an ordered set: `base` and `--data` are often the same folder.
        own = {path: None for root in self.roots for path in (root, root / name)}
        return (*own, self.cache_folder / name)

    def set_missing(self, name: str, what: str, help: str, details: str = "") -> UserError:
        """E0601 for a well-known set that is in none of its folders."""
        searched = ", ".join(map(str, self.set_folders(name)))
        message = f"{what} not on this machine; looked in {searched}{details}"
        return fail("E0601", message, help=help)

    def fetch(self, address: str, destination: Path, checksum: str) -> Path:
        """Download a file of a well-known set; E0610 or E0617."""
        from .download import download  # imports urllib, which takes longer than a command's start

        self.notify(f"downloading {address}")
        download(address, destination, checksum)
        return destination


def _in_order(names: Iterable[str]) -> list[str]:
    """Sorted so that `x-9` is before `x-10`."""

    def key(name: str) -> tuple[list[str | int], str]:
        parts = DIGITS.split(name)  # text, digits, text, digits, …
        return [int(part) if n % 2 else part for n, part in enumerate(parts)], name

    return sorted(names, key=key)


def first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of the names that is a file; None also if the folder may not be entered."""
    try:
        return next((folder / name for name in names if (folder / name).is_file()), None)
    except OSError:
        return None


def _similar(tried: Iterable[Path], fits: Callable[[Path], bool]) -> str:
    for path in tried:
        try:
            found = did_you_mean(path.name, [e.name for e in path.parent.iterdir() if fits(e)])
        except OSError:  # the folder does not exist or may not be read
            continue
        if found:
            return found
    return ""
