"""Every entry of the library lives through a run: train, evaluate, predict, resume, load.

The run is read back from its folder each time: what it keeps of the program is all there is.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support import mostly_slow, one_in

import nnc
from nnc.dsl.check.library import standard_library
from nnc.runtime import cli
from nnc.runtime.api.arrays import targets
from nnc.runtime.project import project_of_text

VECTOR, SEQUENCE, IMAGE, TOKENS = "f32[B, 4]", "f32[B, 5, 4]", "f32[B, 4, 4, 4]", "i32[B, 5]"
# layers and functions of whole tensors, applied to x (and to its length, n) in the model
LAYERS = {
    "activations": (VECTOR, "x |> relu |> leaky_relu |> elu |> selu |> Dense(4) |> hard_sigmoid "
                    "|> softplus |> log_sigmoid |> Dense(4) |> silu |> mish |> softmax"),
    "more activations": (VECTOR, "x |> gelu |> Dense(4) |> gelu_tanh |> log_softmax"),
    "Dense": (VECTOR, "x |> Dense(3)"),
    "Embedding": (TOKENS, "x |> Embedding(6, 3)"),
    "Dropout": (VECTOR, "x |> Dropout(0.3) |> dropout(0.1)"),
    "transpose": (SEQUENCE, "transpose(x)"),
    "present": (SEQUENCE, "present(x, n)"),
    "spectra": (SEQUENCE, "x |> Flatten |> sung"),
    "Conv": (IMAGE, "x |> Conv(4, 3, pad = \"same\", groups = 2) |> MaxPool(2, pad = 1)"),
    "DepthwiseConv": (IMAGE, "x |> DepthwiseConv(3) |> AvgPool(2)"),
    "ConvTranspose": (IMAGE, "x |> ConvTranspose(2, 2, stride = 2) |> GlobalAvgPool"),
    "Conv1D": (SEQUENCE, "x |> Conv1D(4, 3, dilation = 2)"),
    "BatchNorm": (VECTOR, "x |> BatchNorm"),
    "LayerNorm": (VECTOR, "x |> LayerNorm |> RMSNorm"),
    "GroupNorm": (IMAGE, "x |> GroupNorm(2)"),
    "RNN": (SEQUENCE, "RNN(3)(x, 0, n) |> RNN(2, reverse = true, f = \"relu\")"),
    "GRU": (SEQUENCE, "GRU(3)(x, 0, n)"),
    "LSTM": (SEQUENCE, "h", "    h, _ = LSTM(3)(x, 0, 0, n)\n    _, _ = LSTM(2)(h)\n"),
    "ConvLSTM": (IMAGE, "h", "    v[b, t < 3, i, j, k] = x[b, i, j, k] * t\n"
                 "    h, _ = ConvLSTM(2)(v)\n"),
    "BiRNN": (SEQUENCE, "BiRNN(3)(x, n)"),
    "BiLSTM": (SEQUENCE, "BiLSTM(3)(x, n) |> BiLSTM(2)"),
    "BiGRU": (SEQUENCE, "BiGRU(3)(x, n)"),
    "StackedRNN": (SEQUENCE, "x |> StackedRNN(3, 2, dropout = 0.1)"),
    "StackedLSTM": (SEQUENCE, "x |> StackedLSTM(3, 2)"),
    "StackedGRU": (SEQUENCE, "x |> StackedGRU(3, 2)"),
    "Attention": (SEQUENCE, "Attention(2, causal = true, turned = true)(x, n)"),
    "CrossAttention": (SEQUENCE, "CrossAttention(2)(x, x, n)"),
    "parts": (TOKENS, "Attention(2)(e, inf, parts(x))", "    e = x |> Embedding(6, 4)\n"),
    "TransformerBlock": (SEQUENCE, "TransformerBlock(2, 6, dropout = 0.1)(x, n)"),
    "EncoderBlock": (SEQUENCE, "EncoderBlock(2, 6)(x, n)"),
    "DecoderBlock": (SEQUENCE, "DecoderBlock(2, 6)(x, x, n)"),
    "sequences": (SEQUENCE, "concat(concat(last(x), last_of(x, n)), concat(mean_pool(x, n), "
                  "last(reverse(x, n))))"),
    "gates": (VECTOR, "x |> relu6 |> hard_tanh |> hard_swish |> SwiGLU(3) |> GeGLU(3)", 
              "    _g = glu(x, x) + swiglu(x, x) + geglu(x, x) + reglu(x, x)\n"),
    "LlamaBlock": (SEQUENCE, "x |> LlamaBlock(2, 6)"),
    "experts": (VECTOR, "a + b", "    a = x |> MixtureOfExperts(3, 4)\n"
                "    b, _balance = BalancedExperts(3, 4)(x)\n"),
    "graphs": (SEQUENCE, "a + b + c + d", """
    near[b, u < 5, v < 5] = if abs(u - v) < 2 then 1.0 else 0.0*n[b]
    from[b, e < 4] = (e + n[b]) % 5
    into[b, e < 4] = e + 0*n[b]
    a = GCN(2)(x, near)
    b = GAT(1, heads = 2)(x, near)
    c = EdgeGCN(2)(x, from, into)
    d = EdgeGAT(1, heads = 2)(x, from, into)
"""),
    "pooling": (IMAGE, "concat(x |> AdaptiveAvgPool(2) |> Flatten, "
                "x |> AdaptiveMaxPool(3) |> Flatten, GlobalMaxPool(x))"),
    "pooling along time": (SEQUENCE, "concat(x |> MaxPool1D(2) |> AvgPool1D(2) |> Flatten, "
                           "x |> AdaptiveAvgPool1D(2) |> AdaptiveMaxPool1D(1) |> Flatten, "
                           "GlobalAvgPool1D(x) + GlobalMaxPool1D(x))"),
    "resampling": (IMAGE, "x |> InstanceNorm |> Upsample(2) |> Resize(5, 6, mode = \"bilinear\") "
                   "|> Upsample([2, 1]) |> PixelUnshuffle(2) |> PixelShuffle(2)"),
    "augmentation": (IMAGE, "x |> flip |> flip_vertical |> rotate(0.2) |> zoom |> brightness "
                     "|> contrast |> cutout(2) |> noise |> crop(3)"),
    "SpecAugment": (SEQUENCE, "spec_augment(x, 2, 2, 1)"),
    "selection": (VECTOR, "sort(x) + f32(argsort(x)) + cumsum(x) + cumprod(x) + cummax(x) + "
                  "one_hot(argmax(x), 4) + value", "    value, _index = top_k(x, 4)\n"),
    "state space": (SEQUENCE, "x |> S4D(4) |> MambaBlock(2)"),
    "attribution": (IMAGE, "a + b + c + d + e + f + g + h + mean(fewer)", """
    one[i < 4, j < 4, k < 4] = x[0, i, j, k]
    block[t < 1, i, j, k] = one[i, j, k]
    group[i < 4, j < 4, k < 4] = (i + j) % 2
    sums = Flatten(repeated(one, 3)) |> Dense(1)
    near = noisy(one, 3)
    score[s < 3] = sum(i, j, k) near[s, i, j, k]^2
    path = straight_path(one, 0 * one, 3)
    along[s < 3] = sum(i, j, k) path[s, i, j, k]^3
    let counts = [1, places(4, 2, 1), 3, 1]
    let window = [1, 2, 2, 4]
    let stride = [1, 1, 1, 4]
    covered = occluded(block, 0 * block, counts, window, stride)
    less[s < 9] = sum(t, i, j, k) covered[s, t, i, j, k]^2
    subsets = coalitions(one, 0 * one, group, 2)
    parts[s < 4] = sum(i, j, k) subsets[s, i, j, k]^2
    order = orders(2, 3)
    added = joining(one, 0 * one, group, order)
    grown[s < 9] = sum(i, j, k) added[s, i, j, k]^2
    exact, _values = shapley(parts, group, 2)
    drawn, _others = sampled_shapley(grown, group, order)
    cam = grad_cam(score, near)
    a = 0 * x + saliency(score, near) + sums[0, 0]
    b = 0 * x + input_x_gradient(score, near)
    c = 0 * x + smooth_gradient(score, near)
    d = 0 * x + integrated_gradients(along, path, one, 0 * one)
    mask = occlusion(less, score[0], block, counts, window, stride)
    e[b, i, j, k] = x[b, i, j, k] * mask[0, i, j, k]
    f = 0 * x + exact
    g = 0 * x + drawn
    h[b, i, j, k] = x[b, i, j, k] + cam[i, j]
    fewer = deleted(one, 0 * one, group, 2)
"""),
    "positions": (SEQUENCE, "x |> LearnedPositions(9) |> SinusoidalPositions |> rotary"),
    "initialisers": (VECTOR, "x * (a + b) + c + mean(d) + mean(e) + mean(f)", """
    param a: [4] ~ uniform
    param b: [4] ~ normal(0, 0.1)
    param c: [4] ~ truncated_normal
    param d: [2, 4] ~ orthogonal
    param e, _e1, _e2: [3, 4] ~ he_normal
    param f, _f1: [3, 4] ~ lecun_normal
    param _g: [3, 4] ~ glorot_normal
    param _h: [3, 4] ~ glorot_uniform
    param _i: [3, 4] ~ he_uniform
    param _j: [3, 4] ~ lecun_uniform
    param _k: [4] ~ ones
    param _l: [4] ~ zeros
    param _m: [4] ~ constant(2)
"""),
}  # fmt: skip

# the loss and the metrics of a model with y: [B], and z, logits [B, 4]
PLAIN = ("mse(y, target)", "adam()", "")
LOSSES = {
    "regression": ("mse(y, target) + mae(y, target) + huber(y, target)", ["r2(y, target)"]),
    "classes": ("cross_entropy(z, label, smoothing = 0.1)",
                ["accuracy(z, label)", "top_k_accuracy(z, label, 2)", "perplexity(z, label)",
                 "recall_at(z, hot, 2)", "ndcg_at(z, hot, 2)",
                 "bits_per_char(z, label)", "cross_entropy_ignoring(z, label)"]),
    "one-hot": ("cross_entropy_onehot(z, hot) + kl(softmax(z), hot)", []),
    "binary": ("binary_cross_entropy_logits(y, chance)",
               ["binary_cross_entropy(1 / (1 + exp(-y)), chance)", "precision(y, chance)",
                "recall(y, chance)", "f1(y, chance)"]),
    "sequences": ("masked_cross_entropy(s, tokens, n)",
                  ["masked_accuracy(s, tokens, n)", "sequence_accuracy(s, tokens, n)"]),
    "imbalance": ("focal(z, label) + multiclass_hinge(z, label) + binary_focal(y, chance) "
                  "+ hinge(y, 2*chance - 1) "
                  "+ weighted_cross_entropy(z, label, softmax(mean_row(z)))",
                  ["confusion(z, label, 0, 1)", "sum(f32(confusion_matrix(z, label)))",
                   "balanced_accuracy(z, label)", "macro_f1(z, label)", "mean_iou(z, label)",
                   "kappa(z, label)", "calibration_error(z, label)", "matthews(y, chance)",
                   "auc(y, chance)", "average_precision(y, chance)",
                   "mean_average_precision(z, hot)"]),
    "quantities": ("rmse(y, target) + smooth_l1(y, target) + log_cosh(y, target) "
                   "+ quantile(y, target, 0.9) + poisson(y, chance) "
                   "+ gaussian_nll(y, exp(y), target)",
                   ["correlation(y, target)", "rank_correlation(y, target)"]),
    "boxes": ("iou_loss(corners(z), corners(hot)) + giou_loss(corners(z), corners(hot))",
              ["box_average_precision(corners(s), scores(s), classes(s), corners(s), "
               "classes(s), n, 2)",
               "coco_average_precision(corners(s), scores(s), classes(s), corners(s), "
               "classes(s), n, 2, [0.5, 0.9])"]),
    "detection": ("detection_loss(grid(s), cell_boxes(grid(s), 4), "
                  "cell_objects(corners(s), n, 2, 2, 4), corners(s), classes(s))",
                  ["surest(grid(s))"]),
    "embeddings": ("triplet(z, hot, -hot) + contrastive(squared(z), chance) + info_nce(z, hot) "
                   "+ symmetric_info_nce(z, hot) + gaussian_kl(z, z)", []),
    "masks": ("dice(1 / (1 + exp(-z)), hot) + tversky(1 / (1 + exp(-z)), hot)",
              ["bleu(short, tokens, lengths, n)"]),
    "ctc": ("ctc(s, short, n, lengths)", ["error_rate(short, tokens, lengths, n)",
                                          "mean(f32(decoded(s, n)))",
                                          "mel_cepstral_distortion(s, 2*s, n, n, count = 3)"]),
}  # fmt: skip
OPTIMIZERS = [d.name for d in standard_library().values() if d.kind == "optimizer"]
SCHEDULES = {
    "step_decay": "step_decay(t, 0.1, 2)",
    "cosine": "cosine(t, 0.1, steps)",
    "warmup": "warmup(t, 0.1, 3)",
    "warmup_cosine": "warmup_cosine(t, 0.1, 1, steps)",
    "one_cycle": "one_cycle(t, 0.1, steps)",
    "decays": "exponential_decay(t, 0.1) + polynomial_decay(t, 0.1, steps) "
    "+ inverse_sqrt(t, 0.1, 2) "
    "+ noam(t, 64, 4) + warmup_linear(t, 0.1, 1, steps) + cosine_restarts(t, 0.1, 3) "
    "+ warmup_stable_decay(t, 0.1, 1, 1, steps)",
}
MORE = {
    "l1": "penalty = l1(0.1)\n    clip = clip_value(0.5)",
    "l2": "penalty = l2(0.1)\n    clip = clip_norm(0.5)",
    "ema": "average = ema(0.9)",
    "ema_warmup": "average = ema_warmup(0.9)",
    "mean_of_steps": "average = mean_of_steps(2)",
}


# functions that the losses and metrics above are applied to
HELPERS = """
fn mixtures(x: [B, h, w, c], z: [B, n], label: i32[B]) -> loss: [] {
    a, partner, share = mixup(x)
    b, other, part = cutmix(x)
    loss = mixed_cross_entropy(z, label, partner, share)
        + mixed_cross_entropy(z, label, other, part) + mean(a) + mean(b)
}
fn mean_row(z: [..., n]) -> m: [n] { m[j] = mean(...) z[..., j] }
fn squared(z: [..., n]) -> d: [...] { d[...] = sum(j) z[..., j]^2 }
fn corners(z: [..., 4]) -> box: [..., 4] {
    box[..., j] = if j < 2 then z[..., j] else z[..., j - 2] + exp(z[..., j])
}
fn sung(x: [..., n]) -> y: [..., n] {
    re, im = stft(x, 8, 4)
    power = mel_powers(mel_energies(re^2 + im^2 + 0.01, 2, 8000), 5, 8000)
    y = griffin_lim(sqrt(power + 0.01), 4, steps = 1)
}
fn scores(s: [B, T, n]) -> y: [B, T] { y[b, t] = s[b, t, 0] }
fn grid(s: [B, T, n]) -> y: [B, 2, 2, n] { y[b, i < 2, j < 2, k] = s[b, 2*i + j, k] }
fn surest(z: [B, h, w, 4]) -> r: [] {
    _, score, _ = detections(z, cell_boxes(z, 4), 3)
    r = mean(score)
}
fn classes(s: [B, T, n]) -> c: i32[B, T] { c[b, t] = i32(s[b, t, 0] > 0) }
"""


def program(
    type: str = VECTOR,
    value: str = "x",
    body: str = "",
    loss: str = PLAIN[0],
    metrics: tuple[str, ...] = (),
    optimizer: str = PLAIN[1],
    more: str = "",
) -> str:
    """A model whose results are y: [B], z: [B, 4] and s: [B, 5, 4], and its train block."""
    lines = "".join(f"    metric m{n} = {m}\n" for n, m in enumerate(metrics))
    return (
        "fn decoded(s: [B, T, n], length: [B]) -> count: [B] {\n"
        "    _, count = ctc_greedy(s, length)\n}\n"
        f"model M(x: {type}, n: i32[B]) -> y: f32[B], z: f32[B, 4], s: f32[B, 5, 4] {{\n"
        f"{body}    whole = {value}\n"
        "    flat = whole |> Flatten\n    z = flat |> Dense(4)\n"
        "    y[b] = z[b, 0] + 0.0*n[b]\n"
        "    s[b, t < 5, j] = z[b, j] * (t + 1)\n}\n"
        f'train M {{\n    data = npz("d.npz")\n    loss = {loss}\n{lines}'
        f"    optimizer = {optimizer}\n    {more}\n    batch = 4\n    epochs = 2\n}}\n"
        f"{HELPERS}"
    )


PROGRAMS = {
    **{f"layer {name}": program(*parts) for name, parts in LAYERS.items()},
    **{f"loss {name}": program(loss=loss, metrics=tuple(metrics))
       for name, (loss, metrics) in LOSSES.items()},
    **{f"optimizer {name}": program(optimizer=f"{name}()") for name in OPTIMIZERS},
    **{f"schedule {name}": program(optimizer=f"sgd(lr = {rate})")
       for name, rate in SCHEDULES.items()},
    "loss mixtures": program(IMAGE, loss="mixtures(x, z, label)"),
    "loss sam": program(loss="mse(y, target) + mean(sam(z, z, 1.0))"),
    **{f"more {name}": program(more=text) for name, text in MORE.items()},
}  # fmt: skip


def arrays(type: str, count: int = 6) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shape = (count, *(int(n) for n in type.strip("]").split(", ")[1:]))
    whole = type.startswith("i32")
    x = random.integers(0, 6, shape) if whole else random.normal(size=shape)
    return {
        "x": np.asarray(x, np.int32 if whole else np.float32),
        "n": np.array([5, 4, 3, 5, 5, 4], np.int32),
        "target": np.float32(random.normal(size=count)),
        "label": np.int32(random.integers(0, 4, count)),
        "hot": np.eye(4, dtype=np.float32)[random.integers(0, 4, count)],
        "chance": np.float32(random.integers(0, 2, count)),
        "tokens": np.int32(random.integers(1, 4, (count, 5))),
        "short": np.int32(random.integers(1, 4, (count, 2))),
        "lengths": np.array([1, 2, 1, 2, 1, 2], np.int32),
    }


def lives(folder: Path, text: str, capsys, device: str) -> None:
    type = text.split("x: ", 1)[1].split("]")[0] + "]"
    given = arrays(type)
    np.savez("d.npz", **given)
    np.savez("in.npz", x=given["x"], n=given["n"])
    (folder / "m.nn").write_text(text)

    def nnc_(*arguments: str) -> str:
        code = cli.run([*arguments, "--device", device])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    nnc_("train", "m.nn", "--out", "run", "--epochs", "1")
    nnc_("train", "--resume", "run", "--set", "epochs=2")
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records] == [1, 2] and np.isfinite(records[-1]["loss"])
    found = json.loads(nnc_("eval", "run"))
    found.pop("reports", None)
    nnc_("predict", "run", "--input", "in.npz", "--output", "out.npz")
    loaded = nnc.load("run", device=device)
    results = loaded.predict(x=given["x"], n=given["n"])
    with np.load("out.npz") as written:
        for name, array in results.items():
            np.testing.assert_array_equal(written[name], array)
    again = loaded.evaluate(**{k: given[k] for k in given if k in needed(text)})
    assert again == pytest.approx(found, rel=1e-5)
    # resuming once more goes on from what was kept
    nnc_("train", "--resume", "run", "--set", "epochs=3")


def needed(text: str) -> set[str]:
    return {"x", "n", *targets(project_of_text(text))}


# One of each kind; all others are for `-m slow`.
QUICK = (
    *("layer Conv", "layer BatchNorm", "layer initialisers", "loss classes", "loss sequences"),
    *("optimizer adamw", "schedule cosine", "more l2", "more ema"),
)


@pytest.mark.parametrize("name", mostly_slow(PROGRAMS, QUICK))
def test_an_entry_lives_through_a_run(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    lives(tmp_path, PROGRAMS[name], capsys, "reference")


@pytest.mark.parametrize("name", one_in(2, ["layer BatchNorm", "layer BiLSTM"]))
def test_in_machine_code(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    lives(tmp_path, PROGRAMS[name], capsys, "cpu")


def test_no_entry_is_left_out() -> None:
    kept = set()
    for text in PROGRAMS.values():
        resolved = project_of_text(text).resolved()
        library = resolved.split("## nnc library\n")[1]
        kept |= {n for n in standard_library() if f" {n}(" in library or f" {n} " in library}
    assert kept == set(standard_library())
