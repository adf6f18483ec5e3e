"""`nnc generate`: text from a trained model, as it comes.

In: a run folder and a prompt. Out: text on stdout. `inference/generate.py` does the work; how a
line is passed to a model that reads one before it writes is in `inference/text_inputs.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import click

from ...dsl.diagnostics.diagnostic import fail
from ..data.core.vocabulary import END, START, UNKNOWN, Vocabulary
from ..device import Device
from ..inference.beam_search import beam_search
from ..inference.generate import Generator, Sampling, longest_window
from ..inference.text_inputs import ContextText
from ..messages import notify
from ..project import open_project, setup_of, with_batch
from ..training.executor import Executor
from ..training.run_folder import RunFolder
from . import options as o
from .program_files import standard_input
from .weights import take_weights

CONTEXT = 16  # tokens before the next that decide how it is written


def generate(
    run_folder, prompt, length, beams, temperature, top_k, top_p, seed, device_name, threads
) -> None:
    """What `nnc generate` does."""
    # Bytes that are no UTF-8 are replaced, as standard input may come from any program.
    text = standard_input().decode("utf-8", "replace") if prompt == "-" else prompt
    if not text:
        raise click.UsageError("--prompt needs at least one character")
    drawn = {"--temperature": temperature, "--top-k": top_k, "--top-p": top_p}
    if beams is not None and (
        given := [name for name, value in drawn.items() if value is not None]
    ):
        raise click.UsageError(f"--beams takes the likeliest text; leave out {', '.join(given)}")
    folder = RunFolder(run_folder)
    generator = generator_of(folder, o.device(device_name, threads))
    vocabulary = folder.vocabulary(generator.roles.source.name)
    began = time.perf_counter()
    # A model with further inputs is given a source, line by line; others continue the text itself.
    if generator.roles.given:
        # Translations are most likely right where the model is surest, hence temperature 0.
        sampling = Sampling(temperature or 0.0, top_k, top_p)
        reader = folder.recorded.reader if folder.recorded else None
        lowercase = getattr(reader, "lowercase", False)
        source = ContextText.of(generator.roles.given, folder.vocabularies, lowercase)
        read = written = 0
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise click.UsageError("--prompt needs a line with at least one word")
        for line in lines:
            if unknown := source.unknown(line):
                notify(f"unknown, and read as {UNKNOWN}: {', '.join(unknown)}")
            found = translation(generator, source, vocabulary, line, length, sampling, seed, beams)
            click.echo(vocabulary.decode(found))
            read, written = read + 1, written + len(found)
    elif beams is not None:
        raise click.UsageError("--beams is for models that read a source and write a target")
    else:
        sampling = Sampling(1.0 if temperature is None else temperature, top_k, top_p)
        # Unknown characters are an error here (E0619), with their place in the prompt.
        first = [int(i) for i in vocabulary.encode(text, "the prompt")]
        click.echo(text, nl=False)
        tokens = generator.tokens(first, length, sampling, seed, len(vocabulary))
        for piece in pieces(tokens, vocabulary, first):
            click.echo(piece, nl=False)
        click.echo()
        read, written = len(first), length
    rate = (read + written) / (time.perf_counter() - began)
    notify(f"{written} tokens, {rate:,.0f} tokens per second")


def generator_of(folder: RunFolder, device: Device) -> Generator:
    """The model of a run, ready to write."""
    notes = folder.settings  # first: they say whether it is a run
    project = open_project(folder.model)
    # The notes of the run replace its data; one example at a time is written.
    setup = with_batch(setup_of(project, folder.fields, notes["examples"]), 1)
    executor = Executor(setup, device, project.settings.seed)
    trained = take_weights(folder, executor, project)
    return Generator(longest_window(setup), trained.weights, device)


def translation(
    generator: Generator,
    source: ContextText,
    writer: Vocabulary,
    line: str,
    length: int,
    sampling: Sampling,
    seed: int,
    beams: int | None = None,
) -> list[int]:
    """The tokens that the model writes for a line of the source, its end mark left out: drawn, or
    by beam search."""
    # A target begins with the mark that training put before it, and ends with the other.
    if START not in writer.specials or END not in writer.specials:
        raise fail(
            "E0712",
            f"`{generator.roles.source.name}` has no marks where a text begins and ends",
            help="a source of data like `pairs` gives them",
        )
    generator.give(source.inputs(line))
    # The window is what the model was trained on, and a translation cannot go beyond it.
    most = min(length, generator.roles.window)
    begin, end = (writer.special(mark) for mark in (START, END))
    if beams is not None:
        return beam_search(generator, begin, most, beams, end, len(writer))
    return list(generator.tokens([begin], most, sampling, seed, len(writer), end))


def pieces(
    tokens: Iterable[int], vocabulary: Vocabulary, before: Sequence[int] = ()
) -> Iterator[str]:
    """The text of the tokens, which stand behind others, as soon as it is certain: a character of
    several bytes waits for all of them."""
    # What is between two tokens, such as a space, may depend on both.
    read, pending = list(before)[-CONTEXT:], 0
    shown = vocabulary.decode(read)
    for token in tokens:
        read.append(token)
        pending += 1
        text = vocabulary.decode(read)
        # A character has up to 4 bytes, mostly as many tokens; after 8, the bytes are wrong, not
        # unfinished.
        if not text.endswith("\N{REPLACEMENT CHARACTER}") or pending > 8:
            yield text[len(shown) :]
            read, pending = read[-CONTEXT:], 0
            shown = vocabulary.decode(read)
    # What is left at the end, possibly an unfinished character.
    yield vocabulary.decode(read)[len(shown) :]
