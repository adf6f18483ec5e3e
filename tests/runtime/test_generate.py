"""Generation: one token's work per token gives what the whole window gives, and `nnc generate`
continues texts with what was trained, or says what is wrong."""

from __future__ import annotations

import io
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from nnc.compiler.programs import prediction
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.assignments import Assignment
from nnc.runtime.device import DEVICES
from nnc.runtime.inference.generate import Generator, Sampling
from nnc.runtime.project import project_of_text, setup_of
from nnc.runtime.training.executor import Executor

WINDOW, TOKENS = 24, 11
MODEL = """
model Writer(token: i32[B, T]) -> logits: f32[B, T, 11] {{
    x = token |> Embedding(11, 16)
    logits = x |> {0} |> Dense(11)
}}
train Writer {{
    {1}
    loss      = cross_entropy(logits, target)
    optimizer = adam(lr = 1e-2)
    batch     = 1
}}
"""
BLOCKS = "|> ".join(["TransformerBlock(4, 32, causal = true) "] * 2)
LAYERS = {
    "RNN": "RNN(16)",
    "LSTM": "LSTM(16)",
    "GRU": "GRU(16)",
    "two LSTMs": "StackedLSTM(16, 2)",
    "GPT": f"LearnedPositions({WINDOW}) |> {BLOCKS}|> LayerNorm",
    "grouped and rotary attention": "Attention(4, causal = true, kv_heads = 2, turned = true)",
    "causal convolution": 'Conv1D(16, 3, pad = "causal")',
}


class Whole:
    """The compiled prediction of a whole window, as the reference for a single token."""

    def __init__(self, layer: str, seed: int, window: int = WINDOW):
        text = MODEL.format(layer, "input target: i32[B, T]")
        project = project_of_text(text, "writer.nn", None, [Assignment("T", str(window))])
        self.device = DEVICES["cpu"](1)
        self.executor = Executor(setup_of(project, None), self.device, seed)
        rng = np.random.default_rng(seed)  # first weights are small, and their logits nearly even
        weights = self.executor.weights()
        self.executor.restore({n: rng.normal(0, 0.5, w.shape) for n, w in weights.items()})
        self.borrowed = ExitStack()
        self.bound = self.borrowed.enter_context(self.executor.prediction(1))
        ((_, self.token),) = self.bound.fields

    def logits(self, tokens: list[int]) -> np.ndarray:
        """[n, TOKENS] for the n tokens; what is behind them in the window is of no account."""
        self.token[0] = 0
        self.token[0, : len(tokens)] = tokens
        self.bound.program.run()
        return self.bound.results["logits"][0, : len(tokens)].copy()

    def generator(self) -> Generator:
        system = prediction(self.executor.setup)
        return Generator(system, self.executor.weights(), self.device)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_token_by_token_agrees_with_the_whole_window(layer):
    """Greedily: every next token is the same, and the logits but for rounding."""
    whole = Whole(layer, seed=3)
    generator = whole.generator()
    prompt = [2, 7, 1, 8]
    written = list(generator.tokens(prompt, WINDOW - len(prompt), Sampling(temperature=0), 0))
    tokens = list(prompt)
    while len(tokens) < WINDOW:
        tokens.append(int(whole.logits(tokens)[-1].argmax()))
    assert prompt + written == tokens
    fresh = whole.generator()
    found = np.stack([fresh.feed(token).copy() for token in tokens])
    expected = whole.logits(tokens)
    assert np.abs(expected).max() > 0.1 and np.ptp(expected, axis=0).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", ["RNN(16)", "LSTM(16)"])
def test_a_recurrence_goes_on_behind_the_window(layer):
    """Its state is all it needs: token 25 follows from all 24 before it."""
    whole = Whole(layer, seed=1)
    generator = whole.generator()
    tokens = [int(t) for t in np.random.default_rng(0).integers(0, TOKENS, WINDOW + 1)]
    found = [generator.feed(token).copy() for token in tokens][-1]
    other = whole.generator()
    changed = [(tokens[0] + 1) % TOKENS, *tokens[1:]]
    assert ([other.feed(token).copy() for token in changed][-1] != found).any()
    longer = Whole(layer, seed=1, window=WINDOW + 1)
    np.testing.assert_allclose(found, longer.logits(tokens)[-1], rtol=1e-5, atol=1e-5)


def test_a_full_window_begins_anew_with_its_last_quarter():
    whole = Whole(LAYERS["GPT"], seed=2)
    generator = whole.generator()
    tokens = [int(t) for t in np.random.default_rng(1).integers(0, TOKENS, WINDOW + 5)]
    found = [generator.feed(token).copy() for token in tokens]
    seen = tokens[WINDOW - WINDOW // 4 :]
    np.testing.assert_allclose(found[-1], whole.logits(seen)[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        "BiLSTM(8)",
        "RNN(16, reverse = true)",
        "Attention(4)",
        'Conv1D(16, 3, pad = "same")',
    ],
)
def test_what_looks_ahead_is_refused(layer):
    with pytest.raises(UserError) as caught:
        Whole(layer, seed=0).generator()
    (told,) = caught.value.diagnostics
    assert told.code == "E0712" and "looks ahead" in told.message


def test_sampling():
    generator = np.random.default_rng(0)
    logits = np.array([0.0, 3.0, 2.0, -np.inf, 2.9])

    def drawn(**settings: float) -> set[int]:
        return {Sampling(**settings).draw(logits, generator) for _ in range(300)}

    assert drawn(temperature=0) == {1} == drawn(top_k=1) == drawn(top_p=1e-9)
    assert drawn(top_k=2) == {1, 4} and drawn(top_p=0.6) == {1, 4}
    assert drawn() == {0, 1, 2, 4} and drawn(temperature=0.01) <= {1, 4}


# --- nnc generate ---------------------------------------------------------------------------------

POEM = "the moon is new\nthe night is long\n" * 40


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A small GPT that knows a poem."""
    folder = tmp_path_factory.mktemp("generate")
    (folder / "poem.txt").write_text(POEM)
    layer = "LearnedPositions(32) |> TransformerBlock(4, 32, causal = true) |> LayerNorm"
    data = 'data = text("poem.txt", length = 32, stride = 1)'
    text = MODEL.format(layer, data).replace("11", str(len(set(POEM))))
    (folder / "poem.nn").write_text(text.replace("batch     = 1", "batch = 16; steps = 150"))
    arguments = ["train", folder / "poem.nn", "--out", folder / "run", "--threads", 1]
    assert cli.run([str(a) for a in arguments]) == 0
    return folder / "run"


def generate(run: Path, capsys, *more: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.run(["generate", str(run), "--threads", "1", *map(str, more)])
    return code, *capsys.readouterr()


def test_generate_continues_a_text(run, capsys):
    greedy = ("--prompt", "the moon ", "--length", 60, "--temperature", 0)
    code, out, err = generate(run, capsys, *greedy)
    assert code == 0 and out == POEM[:69] + "\n"
    assert err.startswith("60 tokens, ") and "tokens per second" in err
    assert generate(run, capsys, *greedy)[1] == out


def test_a_text_may_begin_with_a_new_line(run, capsys):
    code, out, _ = generate(run, capsys, "--prompt", "\n", "--length", 4, "--temperature", 0)
    assert code == 0 and out == "\nthe \n"


def test_generate_with_a_seed_gives_the_same_text(run, capsys):
    def drawn(seed: int) -> str:
        return generate(
            run, capsys, "--prompt", "the", "--length", 40, "--temperature", 2, "--seed", seed
        )[1]

    assert drawn(1) == drawn(1) != drawn(2)


def test_generate_streams(run, monkeypatch):
    """The prompt is there before it is read, every token before the next is computed, and nothing
    is computed after the last."""
    written: list[str] = []
    fed: list[int] = []
    feed = Generator.feed
    monkeypatch.setattr(
        Generator, "feed", lambda self, token: (fed.append(len(written)), feed(self, token))[1]
    )

    class Output(io.StringIO):
        def write(self, text: str) -> int:
            written.extend([text] if text else [])
            return len(text)

    monkeypatch.setattr("sys.stdout", Output())
    cli.run(["generate", str(run), "--threads", "1", "--prompt", "the", "--length", "5"])
    assert fed == [1, 1, 1, 2, 3, 4, 5]


def test_more_logits_than_the_vocabulary_has_tokens(tmp_path, capsys):
    """Those that stand for nothing are never drawn."""
    (tmp_path / "poem.txt").write_text("ab" * 100)
    data = 'data = text("poem.txt", length = 8); steps = 1'
    (tmp_path / "poem.nn").write_text(MODEL.format("RNN(4)", data))
    assert cli.run(["train", str(tmp_path / "poem.nn"), "--out", str(tmp_path / "run")]) == 0
    code, out, _ = generate(tmp_path / "run", capsys, "--prompt", "a", "--temperature", 3)
    assert code == 0 and len(out) == 502 and set(out) == {"a", "b", "\n"}


@pytest.mark.parametrize(
    "prompt, code, told",
    [
        ("the möon", "E0619", ["`ö` (U+00F6) in the prompt, line 1, column 6"]),
        ("the\tmoon", "E0619", ["a character (U+0009)", "column 4"]),
    ],
)
def test_a_prompt_of_unknown_characters(run, capsys, prompt, code, told):
    status, out, err = generate(run, capsys, "--prompt", prompt)
    assert status == 1 and not out and code in err and "Traceback" not in err
    for part in told:
        assert part in err


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--prompt", ""], "--prompt needs at least one character"),
        (["--prompt", "the", "--length", 0], "0 is not in the range x>=1"),
        (["--prompt", "the", "--top-k", 0], "0 is not in the range x>=1"),
        (["--prompt", "the", "--top-p", "nan"], "nan is not a finite number"),
        (["--prompt", "the", "--top-p", 1.5], "1.5 is not in the range 0<x<=1"),
        (["--prompt", "the", "--temperature", "nan"], "nan is not a finite number"),
        (["--prompt", "the", "--temperature", "inf"], "inf is not a finite number"),
        (["--prompt", "the", "--temperature", -1], "-1.0 is not in the range x>=0"),
    ],
)
def test_flags_without_a_meaning(run, capsys, flags, told):
    status, out, err = generate(run, capsys, *flags)
    assert status == 2 and not out and told in err


def test_what_is_no_run(run, capsys):
    """The path of a model, of a folder of something else, and one misspelt."""

    def told(path: Path) -> str:
        status, out, err = generate(path, capsys, "--prompt", "the")
        assert status == 1 and not out and "E0706" in err
        return err

    poem = run.parent / "poem.nn"
    assert f"nnc train {poem} --out RUN" in told(poem)
    assert "has no settings.json" in told(run.parent)
    assert f"did you mean `{run}`?" in told(run.parent / "rum")


def test_a_run_that_classifies_writes_nothing(tmp_path, capsys):
    source = Path(__file__).parents[2] / "examples" / "mlp_digits.nn"
    flags = ["--out", str(tmp_path / "run"), "--steps", "1", "--threads", "1"]
    assert cli.run(["train", str(source), *flags]) == 0
    status, out, err = generate(tmp_path / "run", capsys, "--prompt", "3")
    assert status == 1 and not out and "E0712" in err and "an input must be tokens" in err
