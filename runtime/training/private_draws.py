"""Draws of private training: which examples take part in a step, and the key of its noise.

In: the secret of a run, 128 bits of the operating system's. Out: for every epoch the rows of its
steps and how many of them count, for every step a key. Both follow from the secret and the numbers
of epoch and step, so that a run that goes on, or takes a step again, draws the same. Whoever knows
the secret can take the noise away again: it stays in the folder of the run, in a file that its
owner alone can read, and `seed`, which is published, has no part in it.

Poisson sampling: the number of examples of a step is binomial, and given that number each set of so
many is as likely as another. A batch has a fixed size: examples that only fill it up are drawn,
too, so that what is measured is of random examples; the gradient does not count them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from secrets import token_bytes

import numpy as np

from ...dsl.diagnostics.diagnostic import fail
from ...dsl.files import read_own, reason, replacing
from ..privacy import Sampling
from .bound_program import BoundProgram

SECRET_FILE = "noise.key"
SECRET_BYTES = 16


@dataclass
class PrivateDraws:
    """How a run draws. `batch` is the size of a program's run, of which a step has one or more."""

    sampling: Sampling
    batch: int
    secret: bytes = field(default_factory=lambda: token_bytes(SECRET_BYTES), repr=False)
    _epoch: tuple[int, np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    @property
    def length(self) -> int:
        """The places of an epoch's order."""
        return self.sampling.steps * self.sampling.capacity

    def order(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        """The rows of an epoch's steps one after the other, those of a step that count first."""
        return rows[self._drawn(epoch)[0].ravel()]

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The places of the rows [steps, capacity] of an epoch, and how many count in each step."""
        if self._epoch is None or self._epoch[0] != epoch:
            many, most = self.sampling.examples, self.sampling.capacity
            generator = np.random.Generator(np.random.Philox(key=self._number(b"sample", epoch)))
            counts = generator.binomial(many, self.sampling.rate, self.sampling.steps)
            places = np.empty((len(counts), most), np.int64)
            for step in places:
                # more places than examples: those at the end never count
                step[:] = np.resize(generator.choice(many, min(many, most), replace=False), most)
            self._epoch = epoch, places, np.minimum(counts, most)
        return self._epoch[1:]

    def draw(self, program: BoundProgram, epoch: int, done: int, step: int, left: int) -> None:
        """Have the next run of a program be that of a step which begins at a place of an epoch."""
        number, within = divmod(done, self.sampling.capacity)
        count = int(self._drawn(epoch)[1][number]) - within
        key = self._number(b"noise", step, left)
        words = np.frombuffer(key.to_bytes(SECRET_BYTES, "little"), np.int32)
        program.draw(min(max(count, 0), self.batch), words)

    def _number(self, purpose: bytes, *numbers: int) -> int:
        """128 bits that only who has the secret can tell."""
        text = b"".join(n.to_bytes(8, "little") for n in numbers)
        found = blake2b(text, digest_size=SECRET_BYTES, key=self.secret, person=purpose)
        return int.from_bytes(found.digest(), "little")

    def epsilon(self, steps: int) -> float:
        """What so many steps have spent."""
        return self.sampling.accountant.epsilon(steps)

    # --- the secret ---------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Keep the secret in the folder of a run. OSError if it cannot be written."""
        with replacing(folder / SECRET_FILE, private=True) as file:
            file.write(self.secret.hex().encode() + b"\n")

    def read(self, folder: Path) -> None:
        """Take the secret of a run. UserError E0706 if it is missing: with another one, steps that
        were taken already would be drawn again, and spend more than is counted."""
        path = folder / SECRET_FILE
        try:
            secret = bytes.fromhex(read_own(path).decode("ascii").strip())
            if len(secret) != SECRET_BYTES:
                raise ValueError("it has another length")
        except (OSError, ValueError) as error:
            raise fail(
                "E0706",
                f"cannot read {path}: {reason(error)}",
                help="private training goes on with the noise and the draws that it began with; "
                "begin anew with `--init` to train on from these weights, which counts from 0",
            ) from error
        self.secret, self._epoch = secret, None
