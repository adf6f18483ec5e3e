"""`movielens()`: 100,000 ratings of 1,682 films by 943 people, from one star to five.

F. M. Harper, J. A. Konstan, "The MovieLens datasets: history and context", 2015. GroupLens, who
collected them, allow research and no redistribution, so they are no part of this package and not
downloaded by it: they are read as GroupLens packs them (`ml-100k/u.data`), or from the files
that the Python package `recbole` contains (`pip install --no-deps recbole==1.2.1`), which is
neither imported nor copied.

The ratings are divided at random into five parts, the same on every machine; `fold` is the one that
tests. With `by = "rating"` an example is a rating: `user` i32 and `film` i32, counted from 0, and
`rating` f32; of the user `age` f32, `gender` i32 and `occupation` i32; of the film `genre` f32[19],
which is 1 where it is of the genre. With `by = "user"` an example is a user: `user` i32, `given`
f32[1682], the ratings that train, 0 where there is none; `rating` f32[1682], the same in training
and those that test in the test split; and `age`, `gender`, `occupation`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, fail
from ..core.data_paths import ENVIRONMENT, first_file
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.encodings import UTF8
from ..core.source import DataSource, Request, Setting
from ..formats.text_file import read_text

T = TypeVar("T")

USERS, FILMS, RATINGS, FOLDS = 943, 1682, 100_000, 5
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)
GENDERS = ("F", "M")
OCCUPATIONS = (
    *("administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive"),
    *("healthcare", "homemaker", "lawyer", "librarian", "marketing", "none", "other"),
    *("programmer", "retired", "salesman", "scientist", "student", "technician", "writer"),
)
PERSON = (
    Field("age", "f32", ()),
    Field("gender", "i32", (), len(GENDERS)),
    Field("occupation", "i32", (), len(OCCUPATIONS)),
)
FIELDS = {
    "rating": (
        Field("user", "i32", (), USERS),
        Field("film", "i32", (), FILMS),
        Field("rating", "f32", ()),
        *PERSON,
        Field("genre", "f32", (len(GENRES),)),
    ),
    "user": (
        Field("user", "i32", (), USERS),
        Field("given", "f32", (FILMS,)),
        Field("rating", "f32", (FILMS,)),
        *PERSON,
    ),
}


@dataclass(frozen=True)
class Layout:
    """How the files of ratings, users and films are called, and what their lines are."""

    ratings: str
    users: str
    films: str
    delimiter: str  # of users and films; that of ratings is a tab
    encoding: str
    header: bool

    def title(self, row: Sequence[str]) -> str:
        """A film's title, with its year."""
        return f"{row[1]} ({row[2]})" if self is RECBOLE and row[2] else row[1]

    def genres(self, row: Sequence[str]) -> list[int]:
        """A film's genres by their numbers: as words, or as a flag for each."""
        if self is RECBOLE:
            return [GENRES.index(name) for name in row[3].split()]
        return [n for n, flag in enumerate(row[-len(GENRES) :]) if int(flag)]


RECBOLE = Layout("ml-100k.inter", "ml-100k.user", "ml-100k.item", "\t", UTF8, True)
GROUPLENS = Layout("u.data", "u.user", "u.item", "|", "latin-1", False)


def describe(request: Request) -> Schema:
    """Known without the files, which have the same sizes for everyone."""
    by = request["by"]
    return Schema(FIELDS[by], USERS if by == "user" else RATINGS - RATINGS // FOLDS)


def load(request: Request) -> Dataset:
    """Both splits. E0601 if the files are not found, E0602 for a line that is not theirs."""
    folder, layout = _find(request)
    read = _Files(folder, layout, request.search.cache_folder)
    ratings, people = read.ratings(), read.people()
    titles, genres = read.films()
    # RandomState and not default_rng: NumPy promises never to change its stream.
    tests = np.zeros(RATINGS, bool)
    tests[np.random.RandomState(0).permutation(RATINGS)[request["fold"] - 1 :: FOLDS]] = True
    fields = FIELDS[request["by"]]
    names = {"film": titles, "gender": GENDERS, "occupation": OCCUPATIONS}
    if request["by"] == "user":
        arrays = _by_user(ratings, tests)
        rows = np.split(np.arange(2 * USERS), 2)
    else:
        arrays = dict(zip(("user", "film", "rating"), ratings.T, strict=True))
        arrays["genre"] = genres[ratings[:, 1]]
        rows = [np.flatnonzero(~tests), np.flatnonzero(tests)]
    arrays |= {name: values[arrays["user"]] for name, values in people.items()}
    known = {f.name: names[f.name] for f in fields if f.name in names}
    return split_dataset("movielens", fields, arrays, rows, class_names=known)


def _by_user(ratings: np.ndarray, tests: np.ndarray) -> dict[str, np.ndarray]:
    """Each user twice, in training and to test: f32[2·users, films], 0 where there is no rating."""
    table = np.zeros((2, USERS, FILMS), np.float32)
    for part, rows in enumerate((ratings[~tests], ratings[tests])):
        table[part, rows[:, 0], rows[:, 1]] = rows[:, 2]
    user = np.tile(np.arange(USERS, dtype=np.int32), 2)
    return {"user": user, "given": np.tile(table[0], (2, 1)), "rating": np.concatenate(table)}


@dataclass(frozen=True)
class _Files:
    folder: Path
    layout: Layout
    cache: Path

    def ratings(self) -> np.ndarray:
        """i32[ratings, 3]: user and film, counted from 0, and stars."""
        rows = list(
            self._rows(self.layout.ratings, "\t", RATINGS, lambda row: [*map(int, row[:3])])
        )
        found = np.array(rows, np.int32) - np.array([1, 1, 0], np.int32)
        low, high = (0, 0, 1), (USERS - 1, FILMS - 1, 5)
        outside = np.flatnonzero(((found < low) | (found > high)).any(axis=1))
        if outside.size:
            number = int(outside[0]) + 1 + self.layout.header
            raise _damaged(self.folder / self.layout.ratings, number)
        return found

    def people(self) -> dict[str, np.ndarray]:
        """Of every user: age in years, gender and occupation by their numbers."""
        rows = self._rows(
            self.layout.users,
            self.layout.delimiter,
            USERS,
            lambda row: [int(row[1]), GENDERS.index(row[2]), OCCUPATIONS.index(row[3])],
        )
        age, gender, occupation = np.array(list(rows), np.int32).T
        return {"age": age.astype(np.float32), "gender": gender, "occupation": occupation}

    def films(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Their titles, and f32[films, genres]."""
        layout, titles = self.layout, []
        genres = np.zeros((FILMS, len(GENRES)), np.float32)
        parse = lambda row: (layout.title(row), layout.genres(row))  # noqa: E731
        for film, (title, found) in enumerate(
            self._rows(layout.films, layout.delimiter, FILMS, parse)
        ):
            titles.append(title)
            genres[film, found] = 1
        return tuple(titles), genres

    def _rows(
        self, name: str, delimiter: str, count: int, parse: Callable[[list[str]], T]
    ) -> Iterator[T]:
        """What `parse` makes of the cells of every line, of `count`; E0602 if it cannot."""
        path = self.folder / name
        lines = read_text(path, self.cache, self.layout.encoding).rstrip("\n").split("\n")
        lines = lines[self.layout.header :]
        if len(lines) != count:
            message = f"{path} has {len(lines):,} lines, not {count:,}"
            raise fail("E0602", message, help="is it the set `ml-100k`?")
        for number, line in enumerate(lines, 1 + self.layout.header):
            try:
                yield parse(line.split(delimiter))
            except (ValueError, IndexError) as error:
                raise _damaged(path, number) from error


def _damaged(path: Path, line: int) -> UserError:
    return fail("E0602", f"{path}:{line} is no line of the set `ml-100k`")


def _find(request: Request) -> tuple[Path, Layout]:
    """The folder with the files, and how they are laid out; E0601 if there is none."""
    search = request.search
    for name in ("movielens", "ml-100k"):
        for folder in search.set_folders(name):
            for layout in (GROUPLENS, RECBOLE):
                if (path := first_file(folder, [layout.ratings])) is not None:
                    search.checked(path)
                    return folder, layout
    # Found without importing it.
    package = importlib.util.find_spec("recbole")
    for place in (package and package.submodule_search_locations) or ():
        folder = Path(place) / "dataset_example" / "ml-100k"
        if first_file(folder, [RECBOLE.ratings]) is not None:
            return folder, RECBOLE
    raise search.set_missing(
        "movielens",
        "the ratings of MovieLens 100K are",
        "unpack https://files.grouplens.org/datasets/movielens/ml-100k.zip there, name its folder "
        f"with `--data` or ${ENVIRONMENT}, or `pip install --no-deps recbole==1.2.1`, which "
        "contains them",
    )


MOVIELENS = DataSource(
    "movielens",
    "ratings of films, MovieLens 100K: user i32, film i32, rating f32, and what both are",
    (
        Setting("fold", "count", "which of the five parts tests", 1, (1, 2, 3, 4, 5)),
        Setting(
            "by", "text", "whether an example is a rating or a user", "rating", ("rating", "user")
        ),
    ),
    describe,
    load,
)
