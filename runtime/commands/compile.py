"""`nnc compile` and `nnc summary`: what the compiler makes of a file, without training.

In: the command line. Out: text on stdout or in files. The work is done in `emit.py`, `summary.py`.
"""

from __future__ import annotations

from pathlib import Path

import click

from ...compiler.elaboration.programs import Setup
from ...dsl.diagnostics.diagnostic import did_you_mean
from ..inspect.emit import ENDINGS, Stages
from ..inspect.summary import NEEDED, summarise
from ..project import Project, open_project, planned_setup
from ..training.atomic_files import write_text
from . import options as o
from .report import show, show_warnings


@click.command()
@click.argument("file", type=o.FILE)
@o.several(
    click.option(
        "--emit",
        "emits",
        multiple=True,
        metavar="STAGE[=PATH],…",
        required=True,
        help=f"What to print: {', '.join(ENDINGS)}.",
    ),
    o.set_option,
    o.batch_option,
    o.model_option,
    o.data_option,
    o.verify_option,
)
def compile(file, emits, sets, batch, model, data) -> None:
    """Print what the compiler makes of FILE at the stages asked for.

    One stage goes to stdout, several to files beside FILE's name: NAME.STAGE.ENDING."""
    wanted = _wanted(emits)
    project = open_project(file, o.assignments(sets, batch=batch), model)
    show_warnings(project)
    needs_types = any(stage != "ast" for stage in wanted)
    stages = Stages(project, _setup(project, data) if needs_types else None)
    if needs_types:
        o.check_passes(stages.system)
    texts = {stage: stages.text(stage) for stage in wanted}
    show(stages.report.diagnostics)
    for stage, text in texts.items():
        path = wanted[stage]
        if path is None and len(texts) == 1:
            click.echo(text, nl=False)
        else:
            write_text(path or Path(f"{file.stem}.{stage}.{ENDINGS[stage]}"), text)


def _wanted(emits: tuple[str, ...]) -> dict[str, Path | None]:
    """The stages and where each goes. UsageError for an unknown stage."""
    found: dict[str, Path | None] = {}
    for item in (item.strip() for text in emits for item in text.split(",")):
        stage, equals, path = item.partition("=")
        if stage not in ENDINGS or (equals and not path):
            hint = did_you_mean(stage, ENDINGS) or f"there are {', '.join(ENDINGS)}"
            raise click.UsageError(f"--emit knows no stage `{item}`: {hint}")
        found[stage] = Path(path) if path else None
    return found


def _setup(project: Project, data: Path | None) -> Setup | None:
    if project.train is None:
        return None
    return planned_setup(project, o.search(data, project.path.parent, offline=True))


@click.command()
@click.argument("file", type=o.FILE)
@o.several(
    o.set_option,
    o.batch_option,
    o.model_option,
    o.data_option,
    click.option(
        "--device",
        "device_name",
        type=click.Choice(list(NEEDED)),
        default="cpu",
        show_default=True,
        help="Whose memory is planned; it need not be there.",
    ),
    o.verify_option,
)
def summary(file, sets, batch, model, data, device_name) -> None:
    """List the layers of FILE's model: shapes, parameters, operations, and the memory it needs.

    Operations are those of the sums of products for one batch forward: 2 per multiply-add."""
    project = open_project(file, o.assignments(sets, batch=batch), model)
    show_warnings(project)
    setup = _setup(project, data)
    if o.verifying():
        o.check_passes(Stages(project, setup).system)
    click.echo(summarise(project, setup, device_name).text(), nl=False)
