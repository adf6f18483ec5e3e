"""What elaboration makes of a program, kept between runs, as its machine code is.

The functions are those of `compiler/programs.py`. A training elaborates its program up to eight
times: its step, for a shorter last batch, too; what is evaluated; for two batch sizes each, how its
measures are put together and whether its states learn. Reading what came of one takes a tenth.

An entry's name is a hash of all that decides: the whole setup, which is what elaboration sees, with
the program's texts; the texts of compiler and library; the versions of Python and NumPy. Entries
are pickles of equations and diagnostics; reading one makes such values and calls nothing else.
Texts are not stored: a span refers to the setup's own. A program with a mistake has no entry, and
an entry that is damaged, or has what the reader does not know, is a miss. Tests:
tests/runtime/test_kept_programs.py.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np

from ... import __version__
from ...compiler import programs
from ...compiler.elaboration.selection import Selected, Selection
from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.aggregates import Aggregates
from ...compiler.ir.equation import System, Tensor
from ...compiler.ir.expr import Expr
from ...dsl.check.library import standard_library
from ...dsl.check.names import Definitions
from ...dsl.diagnostics.diagnostic import Diagnostic, Report
from ...dsl.syntax import ast as s
from ...dsl.syntax.parser import grammar
from ...dsl.syntax.source import Source
from ..cache import digest_of, kernel_cache
from ..installed import texts_digest

T = TypeVar("T")
_DAMAGE = (EOFError, ImportError, LookupError, AttributeError, TypeError, ValueError)
_READ = (
    "nnc.compiler.ir.",
    "nnc.compiler.elaboration.selection",
    "nnc.dsl.syntax.source",
    "nnc.dsl.diagnostics.diagnostic",
)


# --- programs -------------------------------------------------------------------------------------


def training_step(setup: Setup, warnings: Report | None = None) -> tuple[System, System]:
    def make() -> tuple[System, System, list[Diagnostic]]:
        found = Report()
        return *programs.training_step(setup, found), found.diagnostics

    step, drawn, found = _kept(setup, "training step", make)
    if warnings is not None:
        warnings.extend(found)
    return step, drawn


def evaluation(setup: Setup) -> System:
    return _kept(setup, "evaluation", lambda: programs.evaluation(setup))


def measured(setup: Setup, training: bool) -> Aggregates:
    return _kept(setup, f"measures {training}", lambda: programs.measured(setup, training))


def last_stage_of(setup: Setup, training: bool, found: Aggregates, examples: int) -> System:
    # Sets have no order; of the same measures they would be written in another one.
    values = (getattr(found, name) for name in _names(Aggregates))
    parts = [sorted(value) if isinstance(value, frozenset) else value for value in values]
    purpose = f"last stage {training} {examples} {parts}"
    return _kept(setup, purpose, lambda: programs.last_stage_of(setup, training, found, examples))


def states_kept(setup: Setup) -> list[Tensor]:
    return _kept(setup, "states kept", lambda: programs.states_kept(setup))


def selected(setup: Setup, selection: Selection) -> Selected:
    def make() -> Selected:
        return programs.selected(setup, selection)

    # A part has been elaborated, and so is not what its text says alone.
    return make() if selection.part is not None else _kept(setup, f"{selection!r}", make)


# --- entries --------------------------------------------------------------------------------------


def _kept(setup: Setup, purpose: str, make: Callable[[], T]) -> T:
    """What `make` gives for a setup, from the cache or made now; errors are raised as it does."""
    entries = kernel_cache()
    key = None if entries is None else _key(setup, purpose)
    if entries is None or key is None:
        return make()
    name, texts = key
    stored = entries.read(name)
    if stored is not None:
        # Whatever is wrong with the entry, it can be made again.
        with suppress(pickle.UnpicklingError, *_DAMAGE):
            return _Reader(io.BytesIO(stored), texts).load()
    found = make()
    content = _written(found, texts)
    if content is not None:
        entries.write(name, content)
    return found


def _key(setup: Setup, purpose: str) -> tuple[str, list[Source]] | None:
    """The name of the entry, and the texts that spans refer to; None if the setup has none.

    Texts are in the order in which the setup's trees refer to them, then those of the library.
    Equal setups have equal ones, so an entry refers to them by number."""
    file, own = io.BytesIO(), dict[Source, None]()
    try:
        _SetupWriter(file, own).dump(setup)
    except (pickle.PicklingError, TypeError, RecursionError):
        return None
    parts = [purpose, *_versions()]
    for text in own:
        parts += (text.name, text.text, str(text.library), str(text.outside))
    name = digest_of(*parts, file.getbuffer())
    return f"{name}.program", [*own, *standard_library().sources]


@cache
def _versions() -> tuple[str, ...]:
    # The library's trees follow from its texts and the grammar.
    texts = texts_digest("compiler"), texts_digest("dsl"), grammar()
    return __version__, *texts, sys.version, np.__version__


def _written(value: object, texts: Sequence[Source]) -> bytes | None:
    """The entry of a value; None if it holds what none can hold."""
    file = io.BytesIO()
    try:
        _Writer(file, texts).dump(value)
    except (pickle.PicklingError, TypeError, RecursionError):
        return None
    return file.getvalue()


class _Fields(pickle.Pickler):
    """Writes values by their fields alone, without what they have computed of themselves."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Expr):
            return type(value), tuple(getattr(value, part) for part in _parts(type(value)))
        if is_dataclass(value) and not isinstance(value, type):
            state = {name: getattr(value, name) for name in _names(type(value))}
            return copyreg.__newobj__, (type(value),), state  # type: ignore[attr-defined]
        if isinstance(value, Definitions):
            return tuple, ((tuple(value.items()), tuple(value.scopes.items())),)
        if isinstance(value, Mapping):
            return dict, (tuple(value.items()),)
        return NotImplemented


class _SetupWriter(_Fields):
    """Writes equal setups as equal bytes, and collects the texts that they refer to."""

    def __init__(self, file: io.BytesIO, own: dict[Source, None]):
        super().__init__(file, protocol=5)
        self.fast = True  # objects are written in full wherever they occur: identity does not count
        self._own, self._library = own, frozenset(standard_library().sources)

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Source):
            self._own.setdefault(value)
            return list(self._own).index(value)
        # The library's definitions are decided by its texts, which are part of every key.
        if isinstance(value, s.Definition) and value.span.source in self._library:
            return value.name
        return None


class _Writer(_Fields):
    def __init__(self, file: io.BytesIO, texts: Sequence[Source]):
        super().__init__(file, protocol=5)
        self._numbers = {text: number for number, text in enumerate(texts)}

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Source):
            return None
        if value not in self._numbers:
            raise pickle.PicklingError(f"a text that is not the setup's: {value.name}")
        return self._numbers[value]


class _Reader(pickle.Unpickler):
    """Makes values of `_READ` and refuses all else, so that an entry cannot run code."""

    def __init__(self, file: io.BytesIO, texts: Sequence[Source]):
        super().__init__(file)
        self._texts = texts

    def persistent_load(self, number: int) -> Source:
        return self._texts[number]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "dict"):
            return dict
        if module.startswith(_READ):
            found = super().find_class(module, name)
            if isinstance(found, type) and (is_dataclass(found) or issubclass(found, Expr)):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a program")


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _parts(kind: type[Expr]) -> tuple[str, ...]:
    """What an expression is constructed from: the parameters, which are attributes, too."""
    code = kind.__init__.__code__
    return code.co_varnames[1 : code.co_argcount]
