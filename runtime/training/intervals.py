"""What a run does between its steps: records within an epoch, checkpoints.

In: the settings, and the number of steps in an epoch. Out: after which steps, and after what time.
Records follow from the number of the step alone, so that a run that was interrupted has the same.
"""

from __future__ import annotations

from ..durations import seconds_of
from ..settings import Settings
from .metrics import LOG, VALIDATION

# Without `log_every`: a record so often where records of epochs alone would be too few.
BY_STEPS = 100  # in a run by `steps` that has longer epochs
LONG_EPOCH, IN_LONG_EPOCHS = 5000, 1000


class Intervals:
    """When something is due. `checkpoint_seconds` is None if checkpoints go by steps."""

    def __init__(self, settings: Settings, steps_per_epoch: int):
        self.validate = settings.validate_every
        self.log = settings.log_every or _log_every(settings, steps_per_epoch)
        self.checkpoint, self.checkpoint_seconds = None, None
        if isinstance(settings.checkpoint_every, str):
            self.checkpoint_seconds = seconds_of(settings.checkpoint_every)
        else:
            self.checkpoint = settings.checkpoint_every

    @property
    def has_records(self) -> bool:
        """Whether there are records within epochs."""
        return bool(self.validate or self.log)

    def record(self, step: int) -> str | None:
        """The kind of the record after a step within an epoch; a validation is a log, too."""
        if _due(step, self.validate):
            return VALIDATION
        return LOG if _due(step, self.log) else None

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after a step by its number."""
        return _due(step, self.checkpoint)

    def next(self, step: int) -> int | None:
        """The next step, beyond this one, after which something is due by its number."""
        every = [n for n in (self.validate, self.log, self.checkpoint) if n]
        return min(((step // n + 1) * n for n in every), default=None)


def _due(step: int, every: int | None) -> bool:
    return bool(every) and step % every == 0  # type: ignore[operator]


def _log_every(settings: Settings, steps_per_epoch: int) -> int | None:
    if settings.steps is not None and steps_per_epoch > BY_STEPS:
        return BY_STEPS
    return IN_LONG_EPOCHS if steps_per_epoch > LONG_EPOCH else None
