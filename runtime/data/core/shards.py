"""Which files a data source reads: one, several by a pattern, or those of a folder, by splits.

In: a name in a program. Out: files by split, sorted by their names. A folder is laid out as data
sets of Hugging Face are: `data/train-00000-of-00003.parquet`, `test.csv`, or
`train/data-00000-of-00002.arrow`. The word of a split stands in the name of a file or of a folder;
files without one train.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import fail
from .data_paths import Search
from .decompress import readable
from .reader import listed

WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
SHARD = re.compile(r"(.*?)-?(\d{5})-of-(\d{5})(?=\D|$)")
MAGIC = set("*?[")
ABOUT = frozenset({"", ".md", ".txt", ".json", ".cff", ".rst"})
GZIP = ".gz"

Splits = dict[str, tuple[Path, ...]]


def find_shards(search: Search, name: str, endings: Collection[str]) -> Splits:
    """The files of a name by split, that of training first. `endings` are those of the files that
    are taken from a folder. UserError E0601, E0617 or E0618."""
    if MAGIC & set(name) and not search.has(name):
        files = search.find_matches(name)
        return _by_split(files, files[0].parent if len(files) == 1 else _common(files), name)
    path = search.find(name)
    if not path.is_dir():
        return {"train": (path,)}
    with readable(path):
        every = sorted(path.rglob("*"))
    files = [
        file
        for file in search.checked_entries(every)
        if _has_ending(file, endings)
        and not is_about(file)
        and file.is_file()
        and not any(part[0] == "." for part in file.relative_to(path).parts)
    ]
    if not files:
        help = f"a folder of tables has files that end in {' '.join(sorted(endings))}"
        raise fail("E0617", f"{path} is not a file, and holds none that can be read", help=help)
    return _by_split(files, path, name)


def is_about(path: Path) -> bool:
    """Whether a file says something of the data in a folder, and is none of them."""
    name = path.name.lower()
    described = name.startswith(("readme", "license", "licence", "citation", "dataset_info"))
    return (described and path.suffix.lower() in ABOUT) or name in ("state.json", "config.json")


def _has_ending(path: Path, endings: Collection[str]) -> bool:
    plain = path.with_suffix("") if path.suffix.lower() == GZIP else path
    # JSON in a folder is mostly about the data; a file of it may be named by itself.
    return plain.suffix.lower() in endings and plain.suffix.lower() != ".json"


def _common(files: Iterable[Path]) -> Path:
    parents = [file.parent.parts for file in files]
    shared = []
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return Path(*shared)


def split_of(path: Path, root: Path) -> str | None:
    """The split that the name of a file says, or else that of a folder below `root`."""
    parts = path.relative_to(root).parts
    for part in reversed(parts):
        words = re.split(r"[^a-z]+", part.lower())
        found = next((SPLIT_OF[word] for word in words if word in SPLIT_OF), None)
        if found is not None:
            return found
    return None


def _by_split(files: Iterable[Path], root: Path, name: str) -> Splits:
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(split_of(file, root) or "", []).append(file)
    named = [split for split in found if split]
    # Beside files that say their split, others would be left out, or be taken twice.
    if named and "" in found:
        message = f"of {root}, {listed(f.name for f in found[''])} is of no split"
        help = "name all files after their split, as `train-….parquet`, or one of them by itself"
        raise fail("E0618", message, help=help)
    found = {("train" if split == "" else split): own for split, own in found.items()}
    if "train" not in found:
        # One split by itself, as `test.parquet` by its name or `data/test-*`: these are the data.
        if len(found) > 1:
            raise fail("E0618", f"{root} has no files of `train`, but of {' and '.join(found)}")
        found = {"train": next(iter(found.values()))}
    for own in found.values():
        _check_one_table(own, root, name)
    return {split: tuple(found[split]) for split in WORDS if split in found}


def _check_one_table(files: list[Path], root: Path, name: str) -> None:
    """E0618 for files of several tables, E0601 for one of which a part is missing."""
    groups: dict[tuple[Path, str], set[int]] = {}
    whole: dict[tuple[Path, str], int] = {}
    for file in files:
        match = SHARD.match(file.name)
        if match:
            key = (file.parent, match[1])
            groups.setdefault(key, set()).add(int(match[2]))
            whole[key] = int(match[3])
    folders = {file.parent for file in files}
    endings = {file.suffix.lower() for file in files if file.suffix.lower() != GZIP}
    if len(folders) > 1 or len(endings) > 1:
        if len(folders) > 1:
            several = sorted(str(folder.relative_to(root)) for folder in folders)
        else:
            several = sorted(endings)
        raise fail(
            "E0618",
            f"{root} has more than one table: {listed(several)}",
            help=f'name one of them, like `"{name.rstrip("/")}/{several[0]}"`'
            if len(folders) > 1
            else "name the files by a pattern, like `*.parquet`",
        )
    for (folder, start), numbers in groups.items():
        count = whole[folder, start]
        lost = [number for number in range(count) if number not in numbers]
        if lost:
            missing = f"{start}-{lost[0]:05}-of-{count:05}"
            raise fail(
                "E0601",
                f"{folder} has {len(numbers)} of the {count} files of `{start}`: {missing} is "
                "missing",
                help="fetch or copy it again",
            )


def rows_of_splits(splits: Splits, counts: Sequence[int]) -> list[np.ndarray] | None:
    """The rows of training, test and validation, of files with so many rows; None of one split."""
    if len(splits) == 1:
        return None
    found, row, left = {}, 0, list(counts)
    for split, files in splits.items():
        size = sum(left.pop(0) for _ in files)
        found[split] = np.arange(row, row + size)
        row += size
    return [found.get(split, np.arange(0)) for split in ("train", "test", "validation")]
