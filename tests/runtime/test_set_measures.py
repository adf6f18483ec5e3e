"""The loss and the metrics of a set do not depend on how it is divided into batches: training's
line, evaluation, and NumPy in float64 agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import mostly_slow

import nnc
from nnc.compiler.programs import measured
from nnc.runtime import cli
from nnc.runtime.data import Search
from nnc.runtime.device import DEVICES
from nnc.runtime.project import load_dataset, open_project, planned_setup
from nnc.runtime.training import executor, loop, set_measures
from nnc.runtime.training.job import prepare
from nnc.runtime.training.progress import Silent
from nnc.runtime.training.run_folder import create_run
from nnc.runtime.training.set_measures import Totals

Arrays = dict[str, np.ndarray]
N, T, CLASSES, L = 45, 6, 5, 4
SIZES = (1, 7, 32, N)

# What the model gives are its inputs times a parameter that begins with 1 and stays.
MODEL = """
model M(a: f32[B], c: f32[B, 5], q: f32[B, 6, 5])
    -> p: f32[B], logits: f32[B, 5], steps_logits: f32[B, 6, 5] {
    param s: [] = 1
    p[b] = s * a[b]
    logits[b, k] = s * c[b, k]
    steps_logits[b, t, k] = s * q[b, t, k]
}
DEFINITIONS
train M {
    LINES
    optimizer = sgd(lr = 0)
    epochs = 1
}
"""
FIELDS = """
    input y: f32[B]
    input label: i32[B]
    input token: i32[B, 6]
    input length: i32[B]
    input said: i32[B, 4]
    input text: i32[B, 4]
    input said_length: i32[B]
    input text_length: i32[B]
"""


def arrays(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    token = rng.integers(0, CLASSES, (N, T)).astype(np.int32)
    return {
        "a": rng.normal(0.4, 0.5, N).astype(np.float32),
        "c": rng.normal(0, 2, (N, CLASSES)).astype(np.float32),
        "q": rng.normal(0, 2, (N, T, CLASSES)).astype(np.float32),
        "y": (rng.random(N) < 0.3).astype(np.float32),
        "label": rng.integers(0, CLASSES, N).astype(np.int32),
        "token": np.where(rng.random((N, T)) < 0.3, 0, token),
        "length": rng.integers(0, T + 1, N).astype(np.int32),
        "said": rng.integers(1, 4, (N, L)).astype(np.int32),
        "text": rng.integers(1, 4, (N, L)).astype(np.int32),
        "said_length": rng.integers(0, L + 1, N).astype(np.int32),
        "text_length": rng.integers(0, L + 1, N).astype(np.int32),
    }


def wide(values: Arrays) -> Arrays:
    return {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in values.items()}


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def entropies(z: np.ndarray, label: np.ndarray) -> np.ndarray:
    return -np.take_along_axis(log_softmax(z), label[..., None], -1)[..., 0]


def distance(x: list[int], y: list[int]) -> int:
    row = [*range(len(y) + 1)]
    for i, a in enumerate(x, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(y, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def distances(v: Arrays) -> np.ndarray:
    return np.array(
        [
            distance(list(x[:m]), list(y[:n]))
            for x, m, y, n in zip(
                v["said"], v["said_length"], v["text"], v["text_length"], strict=True
            )
        ]
    )


def positive(v: Arrays) -> tuple[np.ndarray, np.ndarray]:
    return v["a"] > 0.5, v["y"] > 0.5


def present(v: Arrays) -> np.ndarray:
    return np.arange(T) < v["length"][:, None]


def ranks(x: np.ndarray) -> np.ndarray:
    return (x[:, None] > x).sum(1) + 0.0


def bleu(v: Arrays) -> float:
    """Of words and pairs of words, over the whole corpus."""
    logs = []
    for n in (1, 2):
        hits = total = 0
        for x, m, y, k in zip(
            v["said"], v["said_length"], v["text"], v["text_length"], strict=True
        ):
            mine = [tuple(x[i : i + n]) for i in range(m - n + 1)]
            theirs = [tuple(y[i : i + n]) for i in range(k - n + 1)]
            hits += sum(min(mine.count(g), theirs.count(g)) for g in set(mine))
            total += len(mine)
        logs.append(np.log(hits / max(total, 1)))
    brevity = min(0.0, 1 - v["text_length"].sum() / max(v["said_length"].sum(), 1))
    return float(np.exp(np.mean(logs) + brevity))


DEFINITIONS = """
fn spearman(p: [n], y: [n]) -> r: [] {
    x[i] = f32(sum(j) (p[i] > p[j]))
    z[i] = f32(sum(j) (y[i] > y[j]))
    r = correlation(x, z)
}
fn median_error(p: [n], y: [n]) -> r: [] {
    e = abs(p - y)
    place[i] = sum(j) (e[j] < e[i] or e[j] == e[i] and j < i)
    r = sum(i) (if place[i] == n // 2 then e[i] else 0)
}
fn gains(p: [n], y: [n]) -> r: [] {
    order = argsort(p, true)
    hits[i] = (hits[i - 1] else 0) + i32(y[order[i]] > 0.5)
    r = mean(hits) / max(sum(y > 0.5), 1)
}
"""

METRICS: dict[str, tuple[str, Callable[[Arrays], float]]] = {
    "accuracy": ("accuracy(logits, label)", lambda v: (v["c"].argmax(-1) == v["label"]).mean()),
    "top_2": (
        "top_k_accuracy(logits, label, k = 2)",
        lambda v: ((v["c"] > np.take_along_axis(v["c"], v["label"][:, None], 1)).sum(1) < 2).mean(),
    ),
    "precision": (
        "precision(p, y)",
        lambda v: (positive(v)[0] & positive(v)[1]).sum() / max(positive(v)[0].sum(), 1),
    ),
    "recall": (
        "recall(p, y)",
        lambda v: (positive(v)[0] & positive(v)[1]).sum() / max(positive(v)[1].sum(), 1),
    ),
    "f1": (
        "f1(p, y)",
        lambda v: 2 * (positive(v)[0] & positive(v)[1]).sum()
        / max(positive(v)[0].sum() + positive(v)[1].sum(), 1),
    ),
    "macro_f1": (
        "macro_f1(logits, label)",
        lambda v: np.mean(
            [
                2 * ((v["c"].argmax(-1) == k) & (v["label"] == k)).sum()
                / max((v["c"].argmax(-1) == k).sum() + (v["label"] == k).sum(), 1)
                for k in range(CLASSES)
            ]
        ),
    ),
    "r2": (
        "r2(p, y)",
        lambda v: 1 - ((v["y"] - v["a"]) ** 2).sum() / ((v["y"] - v["y"].mean()) ** 2).sum(),
    ),
    "mse": ("mse(p, y)", lambda v: ((v["a"] - v["y"]) ** 2).mean()),
    "rmse": ("sqrt(mse(p, y))", lambda v: np.sqrt(((v["a"] - v["y"]) ** 2).mean())),
    "mae": ("mae(p, y)", lambda v: np.abs(v["a"] - v["y"]).mean()),
    "huber": (
        "huber(p, y, delta = 0.5)",
        lambda v: np.where(
            np.abs(v["a"] - v["y"]) < 0.5,
            (v["a"] - v["y"]) ** 2 / 2,
            0.5 * (np.abs(v["a"] - v["y"]) - 0.25),
        ).mean(),
    ),
    "worst": ("max(abs(p - y))", lambda v: np.abs(v["a"] - v["y"]).max()),
    "bias": ("mean(p - y)^2", lambda v: (v["a"] - v["y"]).mean() ** 2),
    "deviation": ("sqrt(mean((p - mean(p))^2))", lambda v: v["a"].std()),
    "correlation": ("correlation(p, y)", lambda v: np.corrcoef(v["a"], v["y"])[0, 1]),
    "spearman": (
        "spearman(p, y)",
        lambda v: np.corrcoef(ranks(v["a"]), ranks(v["y"]))[0, 1],
    ),
    "median": ("median_error(p, y)", lambda v: np.sort(np.abs(v["a"] - v["y"]))[N // 2]),
    "gains": (
        "gains(p, y)",
        lambda v: np.cumsum(v["y"][np.argsort(-v["a"], kind="stable")]).mean() / v["y"].sum(),
    ),
    "auc": (
        "auc(p, y)",
        lambda v: (v["a"][v["y"] > 0.5][:, None] > v["a"][v["y"] < 0.5]).mean(),
    ),
    "by_hand": ("sum(b) (p[b] - y[b])^2 / count(y)", lambda v: ((v["a"] - v["y"]) ** 2).mean()),
    "count": ("sum(p > 0.5)", lambda v: positive(v)[0].sum()),
    "cross_entropy": (
        "cross_entropy(logits, label, smoothing = 0.1)",
        lambda v: 0.9 * entropies(v["c"], v["label"]).mean()
        - 0.1 * log_softmax(v["c"]).mean(),
    ),
    "perplexity": (
        "perplexity(logits, label)",
        lambda v: np.exp(entropies(v["c"], v["label"]).mean()),
    ),
    "token_perplexity": (
        "perplexity(steps_logits, token)",
        lambda v: np.exp(entropies(v["q"], v["token"]).mean()),
    ),
    "bits": (
        "bits_per_char(steps_logits, token)",
        lambda v: entropies(v["q"], v["token"]).mean() / np.log(2),
    ),
    "masked_loss": (
        "masked_cross_entropy(steps_logits, token, length)",
        lambda v: entropies(v["q"], v["token"])[present(v)].sum() / v["length"].sum(),
    ),
    "masked_perplexity": (
        "exp(masked_cross_entropy(steps_logits, token, length))",
        lambda v: np.exp(entropies(v["q"], v["token"])[present(v)].sum() / v["length"].sum()),
    ),
    "masked_accuracy": (
        "masked_accuracy(steps_logits, token, length)",
        lambda v: (v["q"].argmax(-1) == v["token"])[present(v)].sum() / v["length"].sum(),
    ),
    "sequences": (
        "sequence_accuracy(steps_logits, token, length)",
        lambda v: (((v["q"].argmax(-1) != v["token"]) & present(v)).sum(1) == 0).mean(),
    ),
    "ignoring": (
        "cross_entropy_ignoring(steps_logits, token, ignore = 0)",
        lambda v: entropies(v["q"], v["token"])[v["token"] != 0].mean(),
    ),
    "error_rate": (
        "error_rate(said, text, said_length, text_length)",
        lambda v: distances(v).sum() / v["text_length"].sum(),
    ),
    "edits": (
        "edit_distance(said, text, said_length, text_length)",
        lambda v: distances(v).mean(),
    ),
    "bleu": ("bleu(said, text, said_length, text_length, longest = 2)", bleu),
    "confusion": (
        "confusion(logits, label, 1, 2)",
        lambda v: ((v["label"] == 1) & (v["c"].argmax(-1) == 2)).sum(),
    ),
    "average_precision": (
        "average_precision(p, y)",
        lambda v: np.mean(
            [v["y"][v["a"] >= s].mean() for s, y in zip(v["a"], v["y"], strict=True) if y]
        ),
    ),
    "matthews": (
        "matthews(p, y)",
        lambda v: np.corrcoef(*map(np.float64, positive(v)))[0, 1],
    ),
}  # fmt: skip


def program(folder: Path, lines: str) -> Path:
    file = folder / "m.nn"
    file.write_text(MODEL.replace("DEFINITIONS", DEFINITIONS).replace("LINES", lines))
    return file


def both(file: Path, size: int, values: Arrays, monkeypatch, device: str) -> list[dict]:
    """The line of an epoch of training, and what evaluation measures, in batches of a size."""
    model = nnc.load(file, device=device, threads=1, settings={"batch": size})
    with monkeypatch.context() as patch:
        patch.setattr(executor, "evaluation_batch", lambda count: min(size, count))
        return [*model.fit(**values), model.evaluate(**values)]


@pytest.mark.parametrize("size", mostly_slow(SIZES, SIZES[1:2]))
def test_the_library_agrees_with_numpy(size, tmp_path, monkeypatch):
    """Every metric and loss of the library, and some that a user may write."""
    lines = "".join(f"\n    metric m_{name} = {text}" for name, (text, _) in METRICS.items())
    file = program(tmp_path, FIELDS + "    loss = mse(p, y)" + lines)
    values = arrays()
    wanted = {f"m_{name}": float(value(wide(values))) for name, (_, value) in METRICS.items()}
    for found in both(file, size, values, monkeypatch, "reference"):
        assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=2e-6, abs=1e-7)


@pytest.mark.parametrize("name", ["f1", "rmse", "deviation", "auc", "error_rate", "masked_loss"])
def test_machine_code_agrees_with_numpy(name, tmp_path, monkeypatch):
    """As a loss, at that: the gradients need what the parts do not."""
    text, value = METRICS[name]
    file = program(tmp_path, FIELDS + f"    loss = {text} + mse(p, y)\n    metric m = {text}")
    values = arrays(1)
    wanted = float(value(wide(values)))
    whole = wanted + float(METRICS["mse"][1](wide(values)))
    for size in (7, 32):
        for found in both(file, size, values, monkeypatch, "cpu"):
            assert found["m"] == pytest.approx(wanted, rel=2e-6)
            assert found["loss"] == pytest.approx(whole, rel=2e-6)


@pytest.mark.slow
def test_the_last_stage_is_compiled_where_it_is_large(tmp_path, monkeypatch):
    lines = "".join(
        f"\n    metric {n} = {METRICS[n][0]}" for n in ("auc", "spearman", "r2", "bleu", "gains")
    )
    # one that no example has a part in, and so is given
    file = program(tmp_path, FIELDS + "    loss = mse(p, y)\n    metric weight = 2 * s" + lines)
    values = arrays()
    one = both(file, 32, values, monkeypatch, "cpu")
    monkeypatch.setattr(set_measures, "FEW_POINTS", 0)
    assert both(file, 32, values, monkeypatch, "cpu")[1] == pytest.approx(one[1], rel=1e-12)


def test_five_positives_in_many(tmp_path):
    """A perfect classifier has F1 = 1 in every line, whatever batches the positives are in."""
    n = 2560
    y = np.zeros(n, np.float32)
    y[[3, 700, 701, 1500, 2559]] = 1
    np.savez(tmp_path / "rare.npz", x=y[:, None], y=y)
    (tmp_path / "rare.nn").write_text("""
model Rare(x: f32[B, 1]) -> p: f32[B] {
    param s: [] = 1
    p[b] = s * x[b, 0]
}
train Rare {
    data = npz("rare.npz")
    loss = mse(p, y)
    metric f1 = f1(p, y)
    optimizer = sgd(lr = 0)
    epochs = 4
    validation = 0.5
    monitor = f1
    patience = 2
    until f1 < 0.999
}
""")
    run = tmp_path / "run"
    assert cli.run(["train", str(tmp_path / "rare.nn"), "--out", str(run)]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3  # patience: the first epoch is the best
    assert {line["f1"] for line in lines} == {line["validation_f1"] for line in lines} == {1.0}


def test_counts_are_exact(tmp_path, monkeypatch):
    """More than float32 could count, and a count that is no mean."""
    file = program(
        tmp_path, FIELDS + "    loss = mse(p, y)\n    metric n = sum(label + 1000000000)"
    )
    values = arrays()
    wanted = int(values["label"].sum()) + N * 1000000000
    for size in (1, 2):
        for found in both(file, size, values, monkeypatch, "reference"):
            assert found["n"] == wanted


# --- what is handed over --------------------------------------------------------------------------


def parts(tmp_path: Path, text: str, model: str = MODEL, training: bool = True) -> dict[str, str]:
    """The kinds of the parts of a metric, those of the loss left out."""
    file = tmp_path / "m.nn"
    lines = FIELDS + f"    loss = 0 * mean(p)\n    metric m = {text}"
    file.write_text(model.replace("DEFINITIONS", DEFINITIONS).replace("LINES", lines))
    found = measured(planned_setup(open_project(file), Search(None, tmp_path)), training)
    return {p.name: p.kind for p in found.parts if not p.name.startswith("loss")}


@pytest.mark.parametrize(
    ("layer", "setting", "times"),
    [
        ("relu", "", 1),
        ("Dropout(0.2)", "", 2),
        ("BatchNorm", "", 2),
        ("noisy", "accumulate = 2", 2),
    ],
)
def test_what_depends_on_the_phase_alone_is_found_out_twice(
    tmp_path, monkeypatch, layer, setting, times
):
    """Where nothing asks whether it is training, evaluation has the parts of training."""
    file = tmp_path / "m.nn"
    file.write_text(f"""
fn noisy(x) = x + 0.1*random()
model M(x: f32[B, 3]) -> y: f32[B, 2] {{ y = x |> Dense(2) |> {layer} }}
train M {{
    input y2: f32[B, 2]
    loss = mse(y, y2)
    optimizer = sgd(lr = 0.1)
    batch = 4
    epochs = 1
    {setting}
}}
""")
    setup = planned_setup(open_project(file), Search(None, tmp_path))
    asked = []

    def counted(setup, training):
        asked.append(training)
        return measured(setup, training)

    monkeypatch.setattr(set_measures, "measured", counted)
    both = executor.Executor(setup, DEVICES["reference"](1), 0).measures
    for name, training in (("train", True), ("evaluate", False)):
        found, own = both[name].aggregates, measured(setup, training)
        assert (found.parts, found.stage, found.divided) == (own.parts, own.stage, own.divided)
    assert asked == [True, False][:times]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("mean(p)", {"m_mean": "sum"}),
        ("max(p) - min(p)", {"m_max": "max", "m_min": "min"}),
        ("prod(p)", {"m_prod": "prod"}),
        ("f1(p, y)", {"f11_r_sum": "sum", "f11_r_sum_2": "sum", "f11_r_sum_3": "sum"}),
        ("mean((p - mean(p))^2)", {"p": "rows", "m_mean": "sum"}),
        # the temperature is a mean over the steps
        ("max(p) * exp(s)", {"m_max": "max", "m_given1": "mean"}),
        ("mean(p) * exp(s)", {"m_weighted1": "sum"}),
    ],
)  # fmt: skip
def test_parts(tmp_path, text, kinds):
    assert parts(tmp_path, text) == kinds


def test_values_of_a_model_belong_to_their_examples(tmp_path):
    """Batch normalisation reads the mean of its batch; the loss is a sum over examples still."""
    model = MODEL.replace("s * c[b, k]", "s * z[b, k]").replace(
        "    logits[", "    z = c |> BatchNorm\n    logits["
    )
    for training in (True, False):
        assert parts(tmp_path, "mean(logits)", model, training) == {"m_mean": "sum"}


def test_what_is_mixed_at_random_is_a_value_of_its_example(tmp_path):
    """The label of another example of the batch is part of this one's loss."""
    model = MODEL.replace("    logits[", "    mixed, partner, share = mixup(c)\n    logits[")
    model = model.replace("s * c[b, k]", "s * mixed[b, k]")
    text = "mixed_cross_entropy(logits, label, partner, share)"
    for training in (True, False):
        assert [*parts(tmp_path, text, model, training).values()] == ["sum"]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("max(pair)", ["max"]),
        ("mean(pair)", ["sum"]),
        ("mean((pair - mean(pair))^2)", ["rows", "sum"]),
        ("mean(b) c[max(next[b], 0), 0]", ["sum"]),
        # a place among all examples that the last stage finds, and not one that an example names
        ("c[argmax(b) c[b, 0], 1]", ["rows"]),
    ],
)
def test_what_is_read_at_a_place_in_the_batch_is_a_value_of_its_example(tmp_path, text, kinds):
    """The place is computed from one that is drawn; among all examples it would be another's."""
    model = MODEL.replace(
        "    logits[",
        """    partner = partners(c)
    next[b] = if c[partner[b], 0] > 0 then partner[b] else -1
    pair[b] = c[b, 0] + (if next[b] < 0 then 0 else c[max(next[b], 0), 0])
    logits[""",
    ).replace("-> ", "-> next: i32[B], pair: f32[B], ")
    for training in (True, False):
        assert sorted({*parts(tmp_path, text, model, training).values()}) == kinds


def test_batch_normalisation_is_measured_as_it_was_trained(tmp_path, monkeypatch):
    model = MODEL.replace("s * c[b, k]", "s * z[b, k]").replace(
        "    logits[", "    z = c |> BatchNorm\n    logits["
    )
    file = tmp_path / "m.nn"
    file.write_text(
        model.replace("DEFINITIONS", "").replace(
            "LINES", "input y: f32[B]\n    loss = mse(p, y)\n    metric m = sqrt(mean(logits^2))"
        )
    )
    values = {name: arrays()[name] for name in ("a", "c", "q", "y")}
    line, _ = both(file, N, values, monkeypatch, "reference")
    assert line["m"] == pytest.approx(1, abs=1e-3)
    line, _ = both(file, 15, values, monkeypatch, "reference")
    assert line["m"] == pytest.approx(1, abs=1e-3)


# --- steps, penalties, and going on ---------------------------------------------------------------

ANNEALED = """
model M(x: f32[B, 1]) -> p: f32[B] {
    param w: [1, 1] = 0.5
    p[b] = sum(k) x[b, k] * w[k, 0]
}
train M {
    data = npz("d.npz")
    let rise = min(t / steps, 1)
    loss = mse(p, y) * rise + 3 * rise
    metric share = f32(rise)
    metric spread = mean((p - mean(p))^2)
    optimizer = sgd(lr = 0.01)
    penalty = l2(0.1)
    batch = 7
    epochs = 3
    keep = "last"
    validation = 0.2
}
"""


@pytest.fixture
def annealed(tmp_path) -> Path:
    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, (50, 1)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=2 * x[:, 0])
    file = tmp_path / "annealed.nn"
    file.write_text(ANNEALED)
    return file


def printed(capsys) -> dict[str, float]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_evaluation_is_at_the_step_of_training(annealed, capsys):
    """The last line of the run, `nnc eval` and the API agree on a loss that depends on the step."""
    run = annealed.parent / "run"
    assert cli.run(["train", str(annealed), "--out", str(run)]) == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 18 and last["validation_share"] == 1
    capsys.readouterr()
    assert cli.run(["eval", str(run)]) == 0
    found = printed(capsys)
    found.pop("reports", None)
    assert found == {name: last[name] for name in found}
    model = nnc.load(run)
    with np.load(annealed.parent / "d.npz") as data:
        assert model.evaluate(**data)["share"] == 1
    fresh = nnc.load(annealed)
    with np.load(annealed.parent / "d.npz") as data:
        assert fresh.evaluate(**data)["share"] == pytest.approx(1 / 24)  # no step was taken
        fresh.fit(**data, epochs=2)
        assert fresh.evaluate(**data)["share"] == 1


def test_steps_are_counted_without_the_examples_held_out(annealed):
    """`nnc check` and `nnc bench` compile the schedule that is trained."""
    project, search = open_project(annealed), Search(None, annealed.parent)
    job = prepare(project, load_dataset(project, search), DEVICES["reference"](1))
    assert planned_setup(project, search).steps == job.executor.setup.steps == 18


def test_an_annealed_loss_is_added_up_as_it_was(tmp_path):
    """A term with a weight that changes from step to step, and a learned one: their line is the
    mean over the examples, each with the weight of its step."""
    lines = """input y: f32[B]
    let rise = t / 10
    let error = mse(p, y)
    loss = mean(p) + error * rise / exp(2 * s) + s
    metric twice = 2 * (rise * (-error))
    shuffle = false
    batch = 7
"""
    file = tmp_path / "m.nn"
    file.write_text(MODEL.replace("DEFINITIONS", "").replace("LINES", lines))
    values = {name: arrays()[name] for name in ("a", "c", "q", "y")}
    (line,) = nnc.load(file, device="reference").fit(**values)
    rise = (np.arange(N) // 7 + 1) / 10
    a, y = wide(values)["a"], wide(values)["y"]
    weighted = (rise * (a - y) ** 2).mean()
    assert line["loss"] == pytest.approx(a.mean() + weighted / np.exp(2) + 1, rel=1e-6)
    assert line["twice"] == pytest.approx(-2 * weighted, rel=1e-6)


def test_a_reshape_keeps_the_examples_apart(tmp_path, monkeypatch):
    definitions = """
fn flat(z: [b, t, k]) -> y: [n, k] { y[n < b*t, k] = z[n // t, n % t, k] }
fn tokens(z: i32[b, t]) -> y: i32[n] { y[n < b*t] = z[n // t, n % t] }
"""
    lines = """input token: i32[B, 6]
    loss = cross_entropy(flat(steps_logits), tokens(token)) + 0 * mean(p)
    metric spread = mean((flat(steps_logits) - mean(steps_logits))^2)
"""
    file = tmp_path / "m.nn"
    file.write_text(MODEL.replace("DEFINITIONS", definitions).replace("LINES", lines))
    values = {name: arrays()[name] for name in ("a", "c", "q", "token")}
    q = wide(values)["q"]
    wanted = entropies(q, values["token"]).mean()
    for size in (7, N):
        for found in both(file, size, values, monkeypatch, "reference"):
            assert found["loss"] == pytest.approx(wanted, rel=1e-6)
            assert found["spread"] == pytest.approx(q.var(), rel=1e-6)


def test_a_count_larger_than_its_type(tmp_path):
    """Of all examples; of a batch it fits."""
    (tmp_path / "m.nn").write_text("""
model M(x: f32[B, 1]) -> p: f32[B] { param s: [] = 1; p[b] = s * x[b, 0] }
train M {
    loss = mean(p^2)
    metric share = sum(p > 0) * 2000000 / (count(p) * 2000000)
    optimizer = sgd(lr = 0)
    epochs = 1
    batch = 100
}
""")
    x = np.linspace(-1, 1, 3000, dtype=np.float32)[:, None]
    (line,) = nnc.load(tmp_path / "m.nn", device="reference").fit(x)
    assert line["share"] == 0.5


def test_a_penalty_counts_once(tmp_path, monkeypatch):
    lines = FIELDS + "    loss = sum(p)\n    penalty = l2(0.5)"
    model = MODEL.replace("param s: [] = 1", "param s: [] = 1\n    param w: [2, 2] = 3")
    model = model.replace("s * a[b]", "s * a[b] + 0 * w[0, 0]")
    file = tmp_path / "m.nn"
    file.write_text(model.replace("DEFINITIONS", "").replace("LINES", lines))
    values = arrays()
    wanted = wide(values)["a"].sum() + 0.5 * (4 * 3**2 + 1**2)
    for size in (7, N):
        for found in both(file, size, values, monkeypatch, "reference"):
            assert found["loss"] == pytest.approx(wanted, rel=1e-6)


def test_a_prior_is_shared_by_all_examples(tmp_path, monkeypatch):
    """Divided by the number of examples, which is that of the set and not that of a batch."""
    lines = """input y: f32[B]
    loss = (sum((p - y)^2) + 10 * exp(2 * s)) / count(p)
    metric prior = 3 * s^2 / count(p)
"""
    file = tmp_path / "m.nn"
    file.write_text(MODEL.replace("DEFINITIONS", "").replace("LINES", lines))
    values = {name: arrays()[name] for name in ("a", "c", "q", "y")}
    wanted = (((values["a"] - values["y"]) ** 2).sum() + 10 * np.exp(2)) / N
    for size in (1, 7, N):
        for found in both(file, size, values, monkeypatch, "reference"):
            assert found["loss"] == pytest.approx(wanted, rel=1e-6)
            assert found["prior"] == pytest.approx(3 / N, rel=1e-6)


def test_an_epoch_goes_on_with_its_totals(annealed, tmp_path):
    """Sums, means over steps and rows are those of a run that was never interrupted, to the bit."""
    project, search = open_project(annealed), Search(None, annealed.parent)
    dataset = load_dataset(project, search)

    def job(out: str):
        made = prepare(project, dataset, DEVICES["reference"](1))
        made.folder = create_run(tmp_path / out, "m", project.resolved(), {})
        return made

    whole = job("whole")
    loop.train(whole, Silent(), lambda: False)
    broken = job("broken")
    calls = iter([False] * 9)
    assert loop.train(broken, Silent(), lambda: next(calls, True)) == loop.INTERRUPTED
    assert broken.position.done and broken.position.totals.values
    again = prepare(project, dataset, DEVICES["reference"](1))
    again.resume(broken.folder)
    assert again.position.totals.plain() == broken.position.totals.plain()
    loop.train(again, Silent(), lambda: False)
    assert [r.values for r in again.records] == [r.values for r in whole.records]


def test_totals_survive_as_text():
    totals = Totals({"n": 3, "x": 0.1, "r": [np.eye(2), np.array([True, False])]}, 5)
    found = Totals.of_plain(json.loads(json.dumps(totals.plain())))
    assert found.count == 5 and found.values["n"] == 3 and found.values["x"] == 0.1
    for one, two in zip(found.values["r"], totals.values["r"], strict=True):
        np.testing.assert_array_equal(one, two)


# --- batch normalisation --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "share"), [(64, 0.0), (63, 2 / 63), (65, 1.0), (100, 1.0), (1, 0.0)]
)
def test_the_last_batch_counts_for_its_examples(batch, share, tmp_path):
    """The moving variance after an epoch: a batch of one value adds nothing, a short one little."""
    x = np.random.default_rng(0).normal(3, 2, (65, 1)).astype(np.float32)
    (tmp_path / "m.nn").write_text("""
model M(x: f32[B, 1]) -> p: f32[B, 1] { p = x |> BatchNorm }
train M { loss = mse(p, x); optimizer = sgd(lr = 0); epochs = 1; shuffle = false }
""")
    model = nnc.load(tmp_path / "m.nn", device="reference", settings={"batch": batch})
    model.fit(x)
    wanted, wide_x = 1.0, x.astype(np.float64)
    for begin in range(0, 65, batch):
        part = wide_x[begin : begin + batch]
        rate = 0.1 * (1 if len(part) == batch else share) if len(part) > 1 else 0.0
        if rate:
            wanted = (1 - rate) * wanted + rate * part.var(ddof=1)
    found = model.parameters["batchnorm1_running_var"][0]
    assert found == pytest.approx(wanted, rel=1e-5)


# --- what is only known for batches ---------------------------------------------------------------


def test_a_program_for_small_batches_alone(tmp_path, monkeypatch):
    """It cannot be looked at for a large set: every batch is measured by itself, and W0703 says
    so."""
    definitions = """
fn few(x: [n]) -> r: [] { r = max(x) * (if n < 20 then 1 else "more than 20 are too many") }
"""
    lines = "input y: f32[B]\n    loss = mean(p)\n    metric m = few(p)\n    shuffle = false"
    file = tmp_path / "m.nn"
    file.write_text(MODEL.replace("DEFINITIONS", definitions).replace("LINES", lines))
    values = {name: arrays()[name] for name in ("a", "c", "q", "y")}
    batches = [values["a"][begin : begin + 15] for begin in (0, 15, 30)]
    for found in both(file, 15, values, monkeypatch, "reference"):
        assert found["m"] == pytest.approx(np.mean([b.max() for b in batches]), rel=1e-6)
        assert found["loss"] == pytest.approx(values["a"].mean(), rel=1e-5)
    np.savez(tmp_path / "d.npz", **values)
    file.write_text(
        file.read_text().replace("shuffle", 'data = npz("d.npz")\n    batch = 15\n    shuffle')
    )
    project = open_project(file)
    dataset = load_dataset(project, Search(None, tmp_path))
    told = prepare(project, dataset, DEVICES["reference"](1)).warnings
    assert [d.code for d in told] == ["W0703", "W0703"]
    assert told[1].message == "`m` is only known for single batches"


@pytest.mark.parametrize("bound", ["MOST_BYTES", "MOST_POINTS"])
def test_too_many_examples_to_compare(bound, tmp_path, monkeypatch):
    """The mean over the batches, and other metrics as always."""
    lines = "    loss = mse(p, y)\n    metric m = r2(p, y)\n    metric e = mae(p, y)\n"
    file = program(tmp_path, FIELDS + lines + "    shuffle = false")
    monkeypatch.setattr(set_measures, bound, 10)
    values, v = arrays(3), wide(arrays(3))
    found, _ = both(file, 15, values, monkeypatch, "reference")
    single = [
        METRICS["r2"][1]({"a": v["a"][b : b + 15], "y": v["y"][b : b + 15]}) for b in (0, 15, 30)
    ]
    assert found["m"] == pytest.approx(np.mean(single), rel=1e-5)
    assert found["e"] == pytest.approx(METRICS["mae"][1](v), rel=1e-6)
