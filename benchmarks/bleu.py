"""How well a run translates, as BLEU: `python benchmarks/bleu.py runs/handbook --beams 4`.

In: the run of a program whose data are pairs of texts, such as examples/handbook.nn. Out: BLEU of
the whole split (Papineni et al. 2002) by sacrebleu (Post 2018, arXiv:1804.08771; `pip install
sacrebleu`) with its signature, which says how it counts, and the share of the references' length
that was written. No pair is left out, however long, and texts are compared as they are, not as
tokens. `--to FOLDER` writes sources, references and translations, a line each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sacrebleu.metrics import BLEU

from nnc.runtime.commands.generate import generator_of, translation
from nnc.runtime.data import Search, load
from nnc.runtime.device import DEVICES
from nnc.runtime.inference.generate import Sampling
from nnc.runtime.inference.text_inputs import ContextText
from nnc.runtime.project import open_project, source_settings
from nnc.runtime.training.run_folder import RunFolder

WHOLE = {"packed": False, "source_length": None, "target_length": None}
LONGEST = 500  # tokens of a translation, and never more than the model's window


def pairs(folder: RunFolder, split: str, data: Path | None) -> tuple[list[str], list[str]]:
    """The sources and references of a split as texts, long ones, too."""
    choice = open_project(folder.model).settings.data
    assert choice is not None
    settings = source_settings(choice) | WHOLE
    found = load(choice.source, settings, Search(data, Path.cwd()))
    arrays = found.splits[split].arrays
    return tuple(  # type: ignore[return-value]
        [found.vocabularies[name].decode(row) for row in arrays[name]]
        for name in ("source", "target_out")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--beams", type=int, help="hypotheses of beam search; none: greedy")
    parser.add_argument("--split", default="test", choices=("test", "validation"))
    parser.add_argument("--data", type=Path, help="where the data are")
    parser.add_argument("--most", type=int, help="only the first so many pairs")
    parser.add_argument("--to", type=Path, help="a folder for the texts")
    given = parser.parse_args()
    folder = RunFolder(given.run)
    sources, references = (texts[: given.most] for texts in pairs(folder, given.split, given.data))
    generator = generator_of(folder, DEVICES["cpu"](1))
    writer = folder.vocabulary(generator.roles.source.name)
    reader = ContextText.of(generator.roles.given, folder.vocabularies)
    greedy = Sampling(0.0)
    written = [
        writer.decode(translation(generator, reader, writer, s, LONGEST, greedy, 0, given.beams))
        for s in sources
    ]
    metric = BLEU()
    print(metric.corpus_score(written, [references]))
    print(metric.get_signature())
    if given.to is not None:
        given.to.mkdir(parents=True, exist_ok=True)
        for name, texts in (("source", sources), ("reference", references), ("written", written)):
            (given.to / f"{name}.txt").write_text("\n".join(texts) + "\n", "utf-8")


if __name__ == "__main__":
    main()
