"""What other languages and frameworks call what is here, or do not have here.

In: a name that is not known. Out: the help text for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from .diagnostic import did_you_mean

# Layers, functions, initialisers and optimizers.
_CALLED_HERE = {
    "Linear": "Dense", "FullyConnected": "Dense", "Conv2d": "Conv", "Conv2D": "Conv",
    "MaxPool2d": "MaxPool", "MaxPooling2D": "MaxPool", "AvgPool2d": "AvgPool",
    "AveragePooling2D": "AvgPool", "GlobalAveragePooling2D": "GlobalAvgPool",
    "BatchNorm2d": "BatchNorm", "BatchNorm1d": "BatchNorm", "BatchNormalization": "BatchNorm",
    "LayerNormalization": "LayerNorm", "ReLU": "relu", "Sigmoid": "sigmoid", "Softmax": "softmax",
    "CrossEntropyLoss": "cross_entropy", "MSELoss": "mse", "mean_squared_error": "mse",
    "categorical_crossentropy": "cross_entropy", "sparse_categorical_crossentropy": "cross_entropy",
    "SGD": "sgd", "Adam": "adam", "AdamW": "adamw", "xavier": "glorot_uniform",
    "xavier_uniform": "glorot_uniform", "xavier_normal": "glorot_normal",
    "kaiming_uniform": "he_uniform", "kaiming_normal": "he_normal", "pow": "x^2",
    "power": "x^2", "matmul": "a @ b", "dot": "a @ b", "where": "if … then … else …",
    "cat": "concat(x, y)", "concatenate": "concat(x, y)", "MultiHeadAttention": "Attention",
    "MultiheadAttention": "Attention", "SelfAttention": "Attention",
    "scaled_dot_product_attention": "attend", "TransformerEncoderLayer": "EncoderBlock",
    "TransformerDecoderLayer": "DecoderBlock", "PositionalEncoding": "SinusoidalPositions",
    "PositionalEmbedding": "LearnedPositions", "PositionEmbedding": "LearnedPositions",
    "RoPE": "rotary", "rope": "rotary", "Conv1d": "Conv1D", "SimpleRNN": "RNN", "CTCLoss": "ctc",
    "ctc_loss": "ctc", "flip": "reverse(x, length)", "True": "true", "False": "false", "Inf": "inf",
    "NaN": "nan", "shape": "count(x)", "len": "count(x)", "size": "count(x)",
}  # fmt: skip

# What is done in another way.
_DONE_OTHERWISE = {
    "Sequential": "layers are joined with `|>`: `x |> Dense(8) |> relu |> Dense(3)`",
    "reshape": "`Flatten` makes one dimension of all after the batch; any other shape is an "
    "equation: `y[b, i, j] = x[b, i*3 + j]`",
    "view": "`Flatten` makes one dimension of all after the batch; any other shape is an "
    "equation: `y[b, i, j] = x[b, i*3 + j]`",
    "permute": "an equation exchanges dimensions: `y[b, i, j] = x[b, j, i]`",
    "squeeze": "an equation drops a dimension: `y[b] = x[b, 0]`",
    "unsqueeze": "an equation adds a dimension: `y[b, i < 1] = x[b]`",
    "Bidirectional": "here they are `BiRNN`, `BiLSTM` and `BiGRU`",
    "LSTMCell": "`LSTM` runs over the whole sequence; one step is an equation that reads `h[t-1]`",
    "GRUCell": "`GRU` runs over the whole sequence; one step is an equation that reads `h[t-1]`",
    "RNNCell": "`RNN` runs over the whole sequence; one step is an equation that reads `h[t-1]`",
    "scan": "a recurrence is an equation that reads itself: `h[t] = … (h[t-1] else 0)`",
    "cumsum": "a running sum is a recurrence: `s[t] = (s[t-1] else 0) + x[t]`",
    "TimeDistributed": "a layer applies to the last dimension, and to all places before it",
    "einsum": "write the equation itself: `y[b, o] = sum(i) x[b, i] * w[i, o]`",
    "checkpoint": "equations whose results are computed again stand in `remat { … }`",
    "None": "every value is there; what is missing outside a tensor is `(x[i - 1] else 0)`",
    "null": "every value is there; what is missing outside a tensor is `(x[i - 1] else 0)`",
    "self": "a body reads its parameters by their names",
    "print": "`nnc compile FILE --emit equations` shows what is computed",
    "range": "an index has its range beside it: `sum(i < 3) …`",
}

_SETTINGS = {
    "activation": "apply it to the result: `… |> relu`",
    "learning_rate": "here it is `lr`",
    "betas": "here they are `beta1` and `beta2`",
    "beta_1": "here it is `beta1`",
    "beta_2": "here it is `beta2`",
    "epsilon": "here it is `eps`",
    "weight_decay": "use `adamw`, or `penalty = l2(1e-4)` in the train block",
    "kernel_size": "here it is `kernel`",
    "out_channels": "here it is `filters`",
    "num_heads": "here it is `heads`",
    "num_kv_heads": "here it is `kv_heads`",
    "nonlinearity": "here it is `f`",
    "hidden_size": "here it is `units`",
    "hidden_dim": "here it is `units`",
    "hidden": "here it is `units`",
    "go_backwards": "here it is `reverse`",
    "is_causal": "here it is `causal`",
    "embedding_dim": "here it is `width`",
    "num_embeddings": "here it is `vocabulary`",
    "vocab_size": "here it is `vocabulary`",
    "dim_feedforward": "here it is `hidden`",
    "ignore_index": "`cross_entropy_ignoring` leaves such labels out",
    "label_smoothing": "here it is `smoothing`",
    "bidirectional": "here they are layers of their own: `BiRNN`, `BiLSTM` and `BiGRU`",
    "num_layers": "here they are layers of their own: `StackedRNN`, `StackedLSTM`, `StackedGRU`",
    "return_sequences": "all steps are given; the last one is `|> last`",
    "batch_first": "the batch always stands first, and time last but one",
    "input_size": "the size of the input is known from the input",
    "embed_dim": "the size of the input is known from the input",
    "padding": "here it is `pad`",
    "strides": "here it is `stride`",
    "rate": "here it is `p`",
    "bias": "this layer always has a bias; one without is four lines of your own",
    "in_features": "the size of the input is known from the input",
    "in_channels": "the size of the input is known from the input",
    "input_shape": "the size of the input is known from the input",
    "input_dim": "the size of the input is known from the input",
}

_FIELDS = {
    "lr": "it is a setting of the optimizer: `optimizer = adam(lr = 1e-3)`",
    "learning_rate": "it is a setting of the optimizer: `optimizer = adam(lr = 1e-3)`",
    "momentum": "it is an optimizer: `optimizer = momentum(lr = 0.1)`",
    "metrics": "each metric has a name: `metric accuracy = …`",
    "accuracy": "a metric is written `metric accuracy = …`",
    "model": "the model stands after `train`: `train Net { … }`",
    "dataset": "here it is `data`",
    "criterion": "here it is `loss`",
    "dtype": "the type computed in is `float`, that of products is `precision`",
    "mixed_precision": "here it is `precision = bf16`",
    "amp": "here it is `precision = bf16`",
    "device": "what it runs on is said on the command line",
    "weight_decay": "use `adamw`, or `penalty = l2(1e-4)`",
    "regularizer": "here it is `penalty`",
    "early_stopping": "here it is `patience`",
    "callbacks": "see `patience`, `until`, `keep` and `checkpoint_steps`",
}

_TYPES = {
    "float": "f32", "float32": "f32", "single": "f32", "real": "f32", "double": "f64",
    "float64": "f64", "int": "i32", "int32": "i32", "long": "i64", "int64": "i64",
    "integer": "i32", "uint8": "u8", "byte": "u8", "boolean": "bool", "Bool": "bool",
}  # fmt: skip
_HALF = ("float16", "half", "f16", "bf16", "bfloat16", "fp16", "float8", "f8")


def suggest(name: str, known: Iterable[str]) -> str:
    """For a layer, function or value: what it is called here, how it is done, or a near name."""
    if name in _CALLED_HERE:
        return f"here it is `{_CALLED_HERE[name]}`"
    return _DONE_OTHERWISE.get(name) or did_you_mean(name, known)


def suggest_setting(name: str, known: Iterable[str]) -> str:
    """For the name of an argument."""
    known = list(known)
    if name == "activation" and "f" in known:  # inside a recurrence, not after it
        name = "nonlinearity"
    told = _SETTINGS.get(name, "")
    called = told.removeprefix("here it is `").removesuffix("`")
    if told.startswith("here it is") and called not in known:
        told = ""
    return told or did_you_mean(name, known)


def suggest_field(name: str, known: Iterable[str]) -> str:
    """For a field of a train block."""
    return (
        _FIELDS.get(name)
        or did_you_mean(name, known)
        or f"a value of your own is a `let {name} = …`"
    )


def suggest_dtype(name: str, known: Iterable[str]) -> str:
    """For an element type."""
    if name in _TYPES:
        return f"here it is `{_TYPES[name]}`"
    if name in _HALF:
        return "no tensor is smaller than f32; for products there is `precision = bf16`"
    return did_you_mean(name, known) or f"a shape is written in brackets: `[{name}]`"
