"""What a model is given in a user's own form: a line of text as the inputs that it reads.

In: the inputs of a model and the vocabularies of its run. Out: arrays for one example, by name. A
sequence `x` has its length in `x_length`, or in `length` if it is the only one: so the data sources
call them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.ir.equation import Tensor
from ...dsl.diagnostics.diagnostic import fail
from ..data.core.vocabulary import Vocabulary


@dataclass(frozen=True)
class ContextText:
    """The input [1, S] that holds a text, and that of its length, if the model has one."""

    tokens: Tensor
    length: str | None
    vocabulary: Vocabulary
    lowercase: bool = False

    @staticmethod
    def of(
        given: Sequence[Tensor], vocabularies: Mapping[str, Vocabulary], lowercase: bool = False
    ) -> ContextText:
        """The text among the inputs, in small letters if it was so in training. UserError E0712
        unless they are one text and its length."""
        texts = [t for t in given if t.name in vocabularies]
        if len(texts) != 1:
            told = f"reads {len(texts)} texts" if texts else "reads no text"
            raise fail(
                "E0712",
                f"the model {told} before it writes",
                help="one can be given, in the vocabulary that its run knows",
            )
        # `x_length` beside `x`, by the naming of the data sources
        length = length_of(texts[0].name, [t.name for t in given])
        # a further input would have to be made up
        strange = [t.name for t in given if t.name not in (texts[0].name, length)]
        if strange:
            hint = f"beside `{texts[0].name}` there may be `{texts[0].name}_length`"
            raise fail("E0712", f"a text says nothing of the input `{strange[0]}`", help=hint)
        return ContextText(texts[0], length, vocabularies[texts[0].name], lowercase)

    def inputs(self, line: str) -> dict[str, np.ndarray]:
        """The arrays of a line. UserError E0619 for a token that the vocabulary does not have and
        E0708 for more tokens than there is room for."""
        ids, room = self.vocabulary.encode(self._folded(line), "the text"), self.tokens.shape[1]
        if len(ids) > room:
            raise fail(
                "E0708",
                f"`{line}` has {len(ids)} tokens, and `{self.tokens.name}` has room for {room}",
                help="shorten it, or cut it in two",
            )
        # padded with 0 up to the model's size, as in training
        values = {self.tokens.name: np.zeros((1, room), np.int32)}
        values[self.tokens.name][0, : len(ids)] = ids
        if self.length is not None:
            values[self.length] = np.array([len(ids)], np.int32)
        return values

    def unknown(self, line: str) -> list[str]:
        """The words or characters of a line that read as `<unk>`."""
        return self.vocabulary.unknown(self._folded(line))

    def _folded(self, line: str) -> str:
        return line.lower() if self.lowercase else line


def length_of(name: str, names: Sequence[str]) -> str | None:
    """Which of the names is that of the length of a sequence."""
    return next((n for n in (f"{name}_length", "length") if n in names), None)
