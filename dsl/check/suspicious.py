"""Suspicious programs: what compiles and is hardly meant. Reports W0401 to W0409, but for W0407.

Only plain cases are warned of. Settings that are given by name are meant as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..diagnostics.diagnostic import Note, Report
from ..syntax import ast as s
from .calls import invocation
from .names import Scope, names_in

_ACTIVATED = ("softmax", "log_softmax", "sigmoid", "relu")  # whose results are no logits
_UNBOUNDED = ("Dense", "Conv", "Conv1D", "ConvTranspose")  # whose results are no probabilities
_CHANNELS = (1, 3, 4)  # of images
MOST_KERNEL = 11  # of usual convolutions
_NAMED_FIRST = ("c", "channels", "ch")


def check_training(train: s.Train, model: s.Definition, scope: Scope, report: Report) -> None:
    """Warn of what is lost: by a wrong kind of prediction, or by the missing batch."""
    _check_batch(train, model, report)
    for call in s.walk(tuple(loss.value for loss in train.losses)):
        if not isinstance(call, s.Call) or not isinstance(call.function, s.Name):
            continue
        function = scope.find(call.function.id)
        _check_exchanged(call, function, model, report)
        inputs = function.inputs if function else ()
        for parameter, argument in zip(inputs, call.arguments, strict=False):
            last = None if argument.name else _last_function(model, argument.value)
            if last is not None:
                _check_prediction(
                    parameter.name, argument.value, last, call.function, scope, report
                )


def check_layers(definition: s.Definition, scope: Scope, report: Report) -> None:
    """Warn of layers that are given what another framework gives them."""
    for applied, value in _applications(definition):
        call = invocation(applied)
        layer = scope.find(call.callee.id) if isinstance(call.callee, s.Name) else None
        if layer is None or not layer.span.source.library:
            continue
        if definition.kind == "model" and isinstance(value, s.Name):
            _check_channels(definition, layer, value, applied, report)
        if layer.name == "Embedding":
            _check_vocabulary(call.first, applied, report)
        _check_size_of_norm(layer, call.first, report)
        _check_size_of_input(layer, call.first, applied, report)


def _check_prediction(
    parameter: str, value: s.Expr, last: s.Name, function: s.Name, scope: Scope, report: Report
) -> None:
    """`cross_entropy(y, label)` of a softmax, `binary_cross_entropy(y, target)` of logits."""
    said, notes = value.span.text, (Note(last.span, "applied here"),)
    if parameter in ("logits", "logit") and last.id in _ACTIVATED:
        report.add(
            "W0401",
            f"`{function.id}` expects logits, and `{said}` is the result of `{last.id}`",
            value.span,
            label="these are no logits",
            notes=notes,
            help=f"end the model before `|> {last.id}`",
        )
    if parameter == "probability" and last.id in _UNBOUNDED:
        of_logits = f"{function.id}_logits"
        other = f"`{of_logits}` takes logits; " if scope.find(of_logits) else ""
        report.add(
            "W0402",
            f"`{function.id}` expects probabilities, and `{said}` is the result of `{last.id}`",
            value.span,
            label="these may be below 0 and above 1",
            notes=notes,
            help=f"{other}`sigmoid({said})` is a probability",
        )


def _check_exchanged(
    call: s.Call, function: s.Definition | None, model: s.Definition, report: Report
) -> None:
    """`binary_cross_entropy(label, p)` of what the model computes and what it should."""
    names = [a.value.id for a in call.arguments if isinstance(a.value, s.Name) and a.name is None]
    if function is None or len(names) < 2 or len(function.inputs) < 2:
        return
    first, second = names[:2]
    computed = {r.name for r in model.results}
    for statement in s.walk(model.body):
        if isinstance(statement, s.Equation):
            computed |= {target.id for target in statement.targets if isinstance(target, s.Name)}
    predicted, wanted = function.inputs[0].name, function.inputs[1].name
    if predicted not in ("probability", "logit") or wanted != "target":
        return
    if second in computed and first not in computed:
        report.add(
            "W0409",
            f"`{function.name}` takes the `{predicted}` first and then the `{wanted}`",
            call.span,
            label=f"`{model.name}` computes `{second}`",
            help=f"exchange them: `{function.name}({second}, {first})`",
        )


def _check_channels(
    model: s.Definition, layer: s.Definition, image: s.Name, applied: s.Expr, report: Report
) -> None:
    """An input [B, 3, 32, 32] that goes into a layer for [..., h, w, c]."""
    given = next((p for p in model.inputs if p.name == image.id), None)
    taken = layer.inputs[0].type if layer.inputs else None
    if given is None or given.type is None or taken is None:
        return
    expected = [e.id for e in taken.shape or () if isinstance(e, s.Name)]
    shape = given.type.shape or ()
    if expected != ["h", "w", "c"] or len(shape) != 4 or not _channels_first(shape):
        return
    batch, channels, height, width = (e.span.text for e in shape)
    dtype = given.type.dtype or "f32"
    report.add(
        "W0403",
        f"`{image.id}` has its channels first, it seems",
        given.span,
        label=f"`{layer.name}` reads height {channels}, width {height} and {width} channels",
        notes=(Note(applied.span, "it goes in here"),),
        help=f"images are [batch, height, width, channels]: "
        f"`{image.id}: {dtype}[{batch}, {height}, {width}, {channels}]`",
    )


def _channels_first(shape: tuple[s.Expr, ...]) -> bool:
    _, first, second, third = shape
    if isinstance(first, s.Name):
        return first.id.lower() in _NAMED_FIRST
    sizes = [e.value for e in (second, third) if isinstance(e, s.Number)]
    small = isinstance(first, s.Number) and first.value in _CHANNELS
    return small and len(sizes) == 2 and min(sizes) > max(_CHANNELS)


def _check_size_of_norm(
    layer: s.Definition, settings: tuple[s.Argument, ...], report: Report
) -> None:
    """`LayerNorm(64)`: the size of the input where `eps` stands."""
    for parameter, argument in zip(layer.settings, settings, strict=False):
        value = argument.value.value if isinstance(argument.value, s.Number) else 0
        if argument.name or parameter.name not in ("eps", "momentum") or value < 1:
            continue
        needed = [p.name for p in layer.settings if p.default is None]
        written = f"{layer.name}({', '.join(needed)})" if needed else layer.name
        report.add(
            "W0406",
            f"`{parameter.name}` of `{layer.name}` is {argument.value.span.text}",
            argument.span,
            label="a small number stands here",
            help=f"the size of the input follows from the input: `{written}`; if it is meant so, "
            f"`{parameter.name} = {argument.value.span.text}`",
        )


def _check_size_of_input(
    layer: s.Definition, settings: tuple[s.Argument, ...], applied: s.Expr, report: Report
) -> None:
    """`Conv(3, 16, 3)` and `LSTM(8, 16)`: the size of the input before that of the result."""
    given = [a.value.value for a in settings if isinstance(a.value, s.Number) and a.name is None]
    written = [p.name for p in layer.settings[: len(given)]]
    if not 2 <= len(given) == len(settings) <= len(layer.settings):
        return
    flag = isinstance(layer.settings[1].default, s.Boolean) and given[1] not in (0, 1)
    window = written[1:3] == ["kernel", "stride"] and _input_first(*given[:3])
    if not (flag or window):
        return
    others = ", ".join(f"{n} = {v}" for n, v in zip(written[1:], given[1:], strict=True))
    meant = f"{layer.name}({', '.join(map(str, given[1:]))})"
    help = f"; if it is meant so, `{layer.name}({given[0]}, {others})`" if window else ""
    report.add(
        "W0408",
        f"this `{layer.name}` has {written[0]} = {given[0]}, {others}",
        applied.span,
        label="the size of the input seems to stand first",
        help=f"that follows from the input: `{meant}`{help}",
    )


def _input_first(first: float, second: float, third: float) -> bool:
    """Whether numbers look like channels of the input, channels of the result, and a kernel, rather
    than filters, a kernel and a stride."""
    patches = second == third  # of an image, side by side
    return not patches and ((second > first and third > 2) or second > MOST_KERNEL)


def _check_vocabulary(settings: tuple[s.Argument, ...], applied: s.Expr, report: Report) -> None:
    """`Embedding(64, 10000)`, with the width first."""
    values = [a.value.value for a in settings if isinstance(a.value, s.Number) and a.name is None]
    if len(values) != 2 or not _width_first(*values):
        return
    vocabulary, width = values
    report.add(
        "W0404",
        f"an embedding of {vocabulary} tokens in vectors of {width}",
        applied.span,
        label=f"{vocabulary} is the vocabulary, {width} the width",
        help=f"the vocabulary stands first: `Embedding({width}, {vocabulary})`; if it is meant so, "
        f"`Embedding(vocabulary = {vocabulary}, width = {width})`",
    )


def _width_first(vocabulary: float, width: float) -> bool:
    """Whether the first number looks like a width, a multiple of 8, and the second one, which is
    much larger, does not: few widths exceed 4096, and most are multiples of 32."""
    if vocabulary % 8 or width < 64 or width < 2 * vocabulary:
        return False
    return width > 4096 or width % 32 != 0


def _check_batch(train: s.Train, model: s.Definition, report: Report) -> None:
    """A model of one example, `x: f32[784]`, whose inputs and results have no size in common."""
    shapes = [p.type.shape for p in (*model.inputs, *model.results) if p.type and p.type.shape]
    sizes = [e.value for shape in shapes for e in shape[:1] if isinstance(e, s.Number)]
    parts = [e for shape in shapes for e in shape]
    if not all(isinstance(e, s.Number) for e in parts) or len(set(sizes)) < 2:
        return
    first = next((p for p in model.inputs if p.type and p.type.shape), None)
    if first is None or first.type is None:
        return
    written = ", ".join(("B", *(e.span.text for e in first.type.shape or ())))
    report.add(
        "W0405",
        f"`{model.name}` has no dimension for the batch, it seems",
        first.span,
        label="its first size is not that of the results: is this one example?",
        help=f"declare it `{first.name}: {first.type.dtype or 'f32'}[{written}]`, and `B` first in "
        "every result",
    )


def _applications(definition: s.Definition) -> Iterator[tuple[s.Expr, s.Expr | None]]:
    """Every application with settings in a definition, and the value that it is applied to."""
    for node in s.walk(definition.body):
        if isinstance(node, s.Pipe):
            yield node.stage, node.value
        elif isinstance(node, s.Call) and isinstance(node.function, s.Call):
            yield node.function, node.arguments[0].value if node.arguments else None
        # `emb = Embedding(1000, 64)`, a layer with a name
        elif isinstance(node, s.Equation) and isinstance(node.value, s.Call):
            named = isinstance(node.value.function, s.Name)
            yield from [(node.value, None)] * named


def _last_function(model: s.Definition, value: s.Expr) -> s.Name | None:
    """The function or layer that computes a value: softmax of `x |> Dense(10) |> softmax`."""
    if isinstance(value, s.Name | s.Index):
        name = value.id if isinstance(value, s.Name) else value.tensor.id
        for statement in s.flatten_remat(model.body):
            if not isinstance(statement, s.Equation) or statement.targets[-1].id != name:
                continue
            # `y[b] = s[b, 0]`, not a recurrence
            if name not in names_in(statement.value):
                return _last_function(model, statement.value)
        return None
    if not isinstance(value, s.Pipe | s.Call):
        return None
    callee = invocation(value.stage if isinstance(value, s.Pipe) else value).callee
    return callee if isinstance(callee, s.Name) else None
