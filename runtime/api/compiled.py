"""The compiler's stages as texts, for `Model.compile`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...compiler.elaboration.train_block import Setup
from ...compiler.options import Options
from ...compiler.pipeline import all_passes
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, did_you_mean
from ..inspect.emit import Stages
from ..inspect.stages import ENDINGS
from ..project import Project


def compiled(project: Project, setup: Setup | None, stage: str, without: Sequence[str]) -> str:
    """The text of a stage. UserError E0704 for a stage or a pass that does not exist."""
    passes = {each.name: each for each in all_passes()}
    names = [without] if isinstance(without, str) else list(without)
    wrong = [] if stage in ENDINGS else [_unknown("stage", stage, ENDINGS)]
    wrong += [_unknown("pass", name, passes) for name in names if name not in passes]
    wrong += [
        Diagnostic("E0704", f"the pass `{name}` cannot be left out: what follows relies on it")
        for name in names
        if name in passes and passes[name].required
    ]
    if wrong:
        raise UserError(wrong)
    return Stages(project, setup, Options(without=frozenset(names))).text(stage)


def _unknown(kind: str, name: str, known: Collection[str]) -> Diagnostic:
    help = did_you_mean(str(name), known) or f"there are {', '.join(known)}"
    return Diagnostic("E0704", f"the compiler has no {kind} `{name}`", help=help)
