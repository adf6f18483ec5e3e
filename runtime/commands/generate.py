"""`nnc generate`: text from a trained model, as it comes.

In: a run folder and a prompt. Out: text on stdout. The work is done in `generate.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import click

from ...compiler.training import prediction
from ...dsl.diagnostics import fail
from ..data.vocabulary import Vocabulary
from ..executor import Executor
from ..generate import Generator, Sampling, roles
from ..progress import say
from ..project import for_batch, open_project, setup_of
from ..run_folder import RunFolder
from . import options as o


@click.command(short_help="Continue a text with a trained model.")
@click.argument("run_folder", metavar="RUN", type=o.FILE)
@o.several(
    click.option("--prompt", required=True, metavar="TEXT", help="What to continue."),
    click.option("--length", type=o.POSITIVE, default=500, show_default=True, help="Tokens."),
    click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True,
                 help="Below 1 bolder, 0 always the likeliest token."),
    click.option("--top-k", type=o.POSITIVE, help="Draw from the K likeliest tokens."),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True),
                 help="Draw from the likeliest tokens that make up P."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Of the draws."),
    o.device_option, o.threads_option, o.verify_option,
)  # fmt: skip
def generate(run_folder, prompt, length, temperature, top_k, top_p, seed, device_name,
             threads) -> None:  # fmt: skip
    """Continue TEXT with the model of RUN, token by token."""
    if not prompt:
        raise click.UsageError("--prompt needs at least one character")
    folder = RunFolder(run_folder)
    project = open_project(folder.model)
    setup = for_batch(setup_of(project, folder.fields, folder.settings["examples"]), 1)
    executor = Executor(setup, o.device(device_name, threads), project.settings.seed)
    weights = folder.read_weights(executor.weights())
    system = prediction(setup)
    vocabulary = folder.vocabulary(roles(system).source.name)
    first = [int(i) for i in vocabulary.encode(prompt, "the prompt")]
    generator = Generator(system, weights, executor.device)
    sampling = Sampling(temperature, top_k, top_p)
    began = time.perf_counter()
    click.echo(prompt, nl=False)
    for piece in pieces(generator.tokens(first, length, sampling, seed), vocabulary):
        click.echo(piece, nl=False)
    click.echo()
    seconds = time.perf_counter() - began
    say(f"{length} tokens, {(len(first) + length) / seconds:,.0f} tokens per second")


def pieces(tokens: Iterable[int], vocabulary: Vocabulary) -> Iterator[str]:
    """The text of the tokens as soon as it is certain: a character of several bytes waits for all
    of them."""
    pending: list[int] = []
    for token in tokens:
        if token >= len(vocabulary):
            raise fail("E0712", f"the model's token {token} is not in its vocabulary")
        pending.append(token)
        text = vocabulary.decode(pending)
        if not text.endswith("\N{REPLACEMENT CHARACTER}") or len(pending) > 8:
            yield text
            pending = []
    yield vocabulary.decode(pending)
