"""Python's interface as people call it: keywords of other libraries, frames and tensors, callbacks,
progress, and mistakes that show the place in the program."""

from __future__ import annotations

import io
import os
import pickle
import pty
import subprocess
import sys
import traceback

import numpy as np
import pytest
from line_program import PROGRAM, X, Z, same

import nnc
from nnc.runtime.api import errors
from nnc.runtime.api.parameters import ParameterError


@pytest.fixture
def model():
    return nnc.loads(PROGRAM, name="line.nn", threads=1)


def reference(**settings):
    model = nnc.loads(PROGRAM, threads=1)
    model.fit(X, Z, **settings)
    return model.parameters


# --- names of arguments ---------------------------------------------------------------------------

HABITS = {
    "batch_size": "did you mean `batch`?",
    "batchsize": "did you mean `batch`?",
    "epoch": "did you mean `epochs`?",
    "n_epochs": "did you mean `epochs`?",
    "epohcs": "did you mean `epochs`?",
    "max_steps": "did you mean `steps`?",
    "random_state": "did you mean `seed`?",
    "validation_data": "did you mean `validation`? it is `(x, y)`",
    "validation_split": "did you mean `validation`? `validation=0.1`",
    "eval_set": "did you mean `validation`?",
    "verbos": "did you mean `verbose`?",
    "callback": "did you mean `callbacks`?",
    "config": "did you mean `settings`?",
    "lr": '`settings={"optimizer.lr": …}` sets it',
    "learning_rate": '`settings={"optimizer.lr": …}` sets it',
    "shuffle": '`settings={"shuffle": …}` sets it',
    "patience": '`settings={"patience": …}` sets it',
    "optimizer": '`settings={"optimizer": …}` sets it',
    "metrics": "it stands in the program",
    "n_jobs": "`nnc.load(…, threads=…)`",
    "device": "`nnc.load(…, device=…)`",
    "zz": "there are `x`, `z`, `epochs`",
}


def test_an_argument_of_another_library_is_answered_with_its_name_here(model):
    with pytest.raises(nnc.UserError) as caught:
        model.fit(X, Z, **dict.fromkeys(HABITS, 1))
    assert isinstance(caught.value, TypeError)
    found = {d.message: d.help for d in caught.value.diagnostics}
    for name, help in HABITS.items():
        assert (
            found[f"fit() has no argument `{name}`"].startswith(help)
            or help in found[f"fit() has no argument `{name}`"]
        )
    assert len(found) == len(HABITS)


def test_every_method_knows_its_arguments(model, tmp_path):
    (tmp_path / "line.nn").write_text(PROGRAM)
    model.init(X)
    cases = [
        (lambda: nnc.load(tmp_path / "line.nn", thread=1), "did you mean `threads`?"),
        (lambda: nnc.load(tmp_path / "line.nn", batch_size=1), 'settings={"batch": …}'),
        (lambda: nnc.loads(PROGRAM, lr=1), 'settings={"optimizer.lr": …}'),
        (lambda: model.predict(X, batch_size=1), "leave it out"),
        (lambda: model.predict(X, verbose=0), "leave it out"),
        (lambda: model.predict(X, tensors="y"), "did you mean `tensor`?"),
        (lambda: model.evaluate(X, Z, verbose=0), "leave it out"),
        (lambda: model.init(X, random_state=3), "did you mean `seed`?"),
        (lambda: model.load_weights({}, strict=False), "did you mean `partial`?"),
    ]
    for call, help in cases:
        with pytest.raises(TypeError) as caught:
            call()
        assert help in str(caught.value), caught.value


def test_dir_shows_the_interface_alone():
    assert dir(nnc) == sorted(nnc.__all__)
    assert all(hasattr(nnc, name) for name in dir(nnc))
    # What is called a class of `nnc` is found there: pickles and test runners look for it.
    classes = [errors.UserError, errors.ArgumentError, errors.ProgramWarning, ParameterError]
    assert all(getattr(nnc, one.__name__) is one for one in classes if one.__module__ == "nnc")
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        nnc.trian  # noqa: B018


def test_importing_costs_nothing_heavy():
    code = (
        "import sys, nnc; print(sorted({'numpy', 'rich', 'IPython', 'sklearn'} & {*sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


# --- mistakes -------------------------------------------------------------------------------------


def test_a_mistake_shows_file_line_and_caret_and_no_insides(model):
    with pytest.raises(nnc.UserError) as caught:
        nnc.loads(PROGRAM.replace("Dense", "Dens"), name="line.nn")
    text = str(caught.value)
    assert "--> line.nn:3:14\n" in text and "^^^^" in text and "did you mean `Dense`?" in text
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [f.name for f in frames] == [
        "test_a_mistake_shows_file_line_and_caret_and_no_insides",
        "call",
    ]
    printed = "".join(traceback.format_exception(caught.value))
    assert printed.count('File "') == 2 and f"nnc.UserError: {text}" in printed
    # What a worker process raises arrives pickled.
    assert str(pickle.loads(pickle.dumps(caught.value))) == text
    # An argument is no deeper than a program.
    with pytest.raises(nnc.UserError) as caught:
        model.fit(X, Z, bad=1)
    assert len(traceback.extract_tb(caught.value.__traceback__)) == 2
    assert type(pickle.loads(pickle.dumps(caught.value))) is nnc.ArgumentError


def test_ipython_shows_the_text_alone(monkeypatch):
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell.instance()
    said = []
    monkeypatch.setattr(shell, "_showtraceback", lambda kind, value, lines: said.extend(lines))
    monkeypatch.setenv("NO_COLOR", "1")
    shell.run_cell(f"import nnc; nnc.loads({PROGRAM.replace('mse', 'msee')!r})")
    assert said[0] == "error[E0203]: unknown layer or function `msee`", said
    assert "Traceback" not in "\n".join(said)


def test_warnings_show_the_place_and_stand_at_the_users_line(tmp_path):
    doubtful = """
model M(x: f32[B, 3]) -> p: f32[B, 2] {
    p = x |> Dense(2) |> softmax
}

train M {
    loss      = cross_entropy(p, label)
    optimizer = sgd()
    epochs    = 1
}
"""
    (tmp_path / "m.nn").write_text(doubtful)
    with pytest.warns(UserWarning) as seen:
        nnc.loads(doubtful, name="m.nn").fit(X, [0, 1] * 5)
        nnc.load(tmp_path / "m.nn").fit(X, [0, 1] * 5)
    texts = [str(one.message) for one in seen]
    assert (
        len([text for text in texts if "warning[W0401]" in text and "^ these are" in text]) == 2
    ), texts
    assert {one.filename for one in seen} == {__file__}


# --- arrays ---------------------------------------------------------------------------------------


def test_arrays_by_position_by_name_and_in_dictionaries(model):
    wanted = reference()
    for arrays, named in [
        ((X, Z), {}),
        ((X,), {"z": Z}),
        ((), {"z": Z, "x": X}),
        (({"x": X, "z": Z},), {}),
        (({"z": Z}, {"x": X}), {}),
        ((X, {"z": Z}), {}),
        ((X.tolist(), Z.tolist()), {}),
        ((list(X), tuple(Z)), {}),
    ]:
        one = nnc.loads(PROGRAM, threads=1)
        one.fit(*arrays, **named)
        assert same(one.parameters, wanted)
        np.testing.assert_array_equal(one.predict({"x": X}), one.predict(x=X))


@pytest.mark.parametrize("library", ["torch", "pandas", "polars", "pyarrow"])
def test_tensors_and_frames(library):
    module = pytest.importorskip(library)
    columns = {f"c{k}": X[:, k] for k in range(3)}
    x = {
        "torch": lambda: module.tensor(X, requires_grad=True),
        "pandas": lambda: module.DataFrame(columns),
        "polars": lambda: module.DataFrame(columns),
        "pyarrow": lambda: module.table(columns),
    }[library]()
    model = nnc.loads(PROGRAM, threads=1)
    model.fit(x, Z)
    assert same(model.parameters, reference())
    np.testing.assert_array_equal(model.predict(x), model.predict(X))


class Only:
    """An object with one protocol and no other."""

    def __init__(self, name, call):
        self.found = call
        setattr(type(self), name, lambda self, *of, **more: self.found(*of, **more))


def test_protocols_alone_are_enough():
    class Tensor(Only):
        __dlpack_device__ = staticmethod(lambda: (1, 0))

    class Frame(Only):
        pass

    class Convertible(Only):
        pass

    model = nnc.loads(PROGRAM, threads=1)
    model.init(X)
    wanted = model.predict(X)
    given = [Tensor("__dlpack__", X.__dlpack__), Convertible("__array__", lambda *of, **more: X)]
    if pyarrow := sys.modules.get("pyarrow") or _imported("pyarrow"):
        table = pyarrow.table({f"c{k}": X[:, k] for k in range(3)})
        given.append(Frame("__arrow_c_stream__", table.__arrow_c_stream__))
    for one in given:
        np.testing.assert_array_equal(model.predict(one), wanted)


def _imported(name):
    try:
        return __import__(name)
    except ImportError:
        return None


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_missing_values_of_frames_are_refused(model, library):
    module = pytest.importorskip(library)
    column = [1.0, 2.0, None, *range(7)]
    make = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "table"}[library]
    frame = getattr(module, make)({"a": [0.5] * 10, "b": column})
    with pytest.raises(nnc.UserError, match=r"`z` holds a missing value at \[2, 1\]"):
        model.fit(X, frame)


@pytest.mark.parametrize(
    ("z", "text"),
    [
        (["a"] * 10, "np.unique(labels, return_inverse=True)"),
        ([[0, None]] * 10, "a missing value at [0, 1]"),
        ([[0, "b"]] * 10, "expected numbers"),
        ([[1], [1, 2]] * 5, "entry 0 has 1 numbers, and entry 1 has 2"),
        (Z + 1j, "expected numbers"),
        (3.0, "one entry per example"),
        (None, "`z` is None"),
        (Z.astype("M8[s]"), "times as numbers"),
        (np.ones((10, 2), np.uint64), "nnc has no u64"),
    ],
)
def test_what_is_no_array_of_numbers(model, z, text):
    with pytest.raises(nnc.UserError) as caught:
        model.fit(X, z)
    assert caught.value.diagnostics[0].code == "E0708"
    assert "`z`" in str(caught.value) and text in str(caught.value)


def test_an_array_that_is_not_given_is_told_as_that(model):
    for call in ("fit", "evaluate"):
        with pytest.raises(nnc.UserError) as caught:
            getattr(model, call)(X)
        (found,) = caught.value.diagnostics
        assert found.message == f"{call}() is given no `z`" and found.span.text == "z"
        assert found.help == "it takes `x`, `z`, in this order or by name"
    with pytest.raises(nnc.UserError, match=r"unknown name `None`"):
        model.fit(X, Z, settings={"optimizer.lr": None})


def test_values_of_another_kind_are_mistakes_with_a_fix(model, tmp_path):
    cases = [
        (lambda: model.fit(X, Z, settings="lr=3"), 'like `settings={"optimizer.lr"'),
        (lambda: model.init(seed="a"), "a whole number from 0"),
        (lambda: model.init("x.npy"), "np.load"),
        (lambda: nnc.load(tmp_path), "is not the folder of a run"),
    ]
    for call, text in cases:
        with pytest.raises(nnc.UserError) as caught:
            call()
        assert text in str(caught.value)
    with pytest.raises(ValueError, match="did you mean `cuda`"):
        nnc.load("x.nn", device="gpu")


def test_all_mistakes_of_a_call_are_told_at_once(model):
    with pytest.raises(nnc.UserError) as caught:
        model.fit({"x": X, "w": Z}, [["a"]], x=X)
    # the list is for `x`, which is given twice more; `w` is unknown
    assert len(caught.value.diagnostics) == 3
    assert {d.code for d in caught.value.diagnostics} == {"E0708"}


# --- validation -----------------------------------------------------------------------------------


def test_validation_is_measured_and_chooses_the_weights(model):
    held = X[:4] + 1, Z[:4] + 1
    for given in (held, list(held), {"x": held[0], "z": held[1]}):
        one = nnc.loads(PROGRAM, threads=1)
        history = one.fit(X, Z, validation=given, epochs=3)
        best = min(r["validation_loss"] for r in history)
        assert one.evaluate(*held)["loss"] == pytest.approx(best, rel=1e-6)
        assert len(history) == 3 and "validation_far" in history[0]
    share = nnc.loads(PROGRAM, threads=1).fit(X, Z, validation=0.2, epochs=1)
    assert share[0]["step"] == 2 and "validation_loss" in share[0]  # 8 examples in batches of 4
    # a share that the program says gives way to arrays
    told = nnc.loads(PROGRAM.replace("epochs", "validation = 0.2\n    epochs"), threads=1)
    assert told.fit(X, Z, validation=held, epochs=1)[0]["step"] == 3


@pytest.mark.parametrize(
    ("validation", "code"),
    [((X,), "E0708"), ((X, Z, Z), "E0708"), ("a", "E0708"), (X, "E0708"), (True, "E0708"),
     (1.5, "E0703"), ((X[:, :2], Z), "E0607"), ((X[:3], Z[:2]), "E0607"), ((X[:0], Z[:0]), "E0613"),
     ({"x": X, "zz": Z}, "E0708")],
)  # fmt: skip
def test_validation_that_does_not_fit(model, validation, code):
    with pytest.raises(nnc.UserError) as caught:
        model.fit(X, Z, validation=validation)
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert model.parameters == {}


def test_settings_are_for_one_call(model):
    model.fit(X, Z, settings={"optimizer.lr": 0, "epochs": 5}, epochs=1)
    before = model.parameters
    assert len(model.fit(X, Z, settings={"optimizer.lr": 0})) == 2
    assert same(before, model.parameters)
    model.fit(X, Z)
    assert not same(before, model.parameters)


# --- callbacks ------------------------------------------------------------------------------------


def test_a_function_is_called_after_every_epoch_and_may_stop(model):
    seen = []
    history = model.fit(X, Z, epochs=9, callbacks=lambda t: seen.append(dict(t.values)))
    assert [{"epoch": k + 1, **v} for k, v in enumerate(seen)] == [
        {n: v for n, v in r.items() if n not in ("step", "seconds")} for r in history
    ]
    assert len(model.fit(X, Z, epochs=9, callbacks=[lambda t: t.epoch == 3])) == 3
    assert len(model.fit(X, Z, epochs=9, callbacks=[lambda t: 3])) == 9  # which is not True
    assert len(model.fit(X, Z, epochs=9, callbacks=[lambda t: t.stop()])) == 1


class Watch(nnc.Callback):
    def __init__(self, stop_at=None):
        self.calls, self.stop_at = [], stop_at

    def on_begin(self, training):
        self.calls.append(("begin", training.step, training.values, training.epochs))

    def on_step(self, training):
        self.calls.append((training.epoch, training.step, training.losses["loss"]))
        assert training.loss == training.losses["loss"]
        if training.step == self.stop_at:
            self.parameters = training.parameters()
            training.stop()

    def on_end(self, training):
        self.calls.append(("end", training.step))


def test_an_object_sees_every_step_and_may_stop_in_the_midst_of_an_epoch(model):
    watch = Watch()
    model.fit(X, Z, epochs=2, callbacks=[watch])
    assert watch.calls[0] == ("begin", 0, {}, 2)
    assert [c[:2] for c in watch.calls[1:-1]] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    assert watch.calls[-1] == ("end", 6)
    watch, one = Watch(stop_at=5), nnc.loads(PROGRAM, threads=1)
    history = one.fit(X, Z, epochs=9, callbacks=watch, settings={"keep": "last"})
    assert [r["step"] for r in history] == [3, 5] and watch.calls[-1] == ("end", 5)
    assert same(one.parameters, watch.parameters)


def test_callbacks_that_fail_or_are_none_change_nothing(model):
    def fails(training):
        raise RuntimeError("mine")

    ended = Watch()
    with pytest.raises(RuntimeError, match="mine"):
        model.fit(X, Z, callbacks=[fails, ended])
    assert model.parameters == {} and ended.calls[-1][0] == "end"

    class Misspelt:
        def on_epoch_ended(self, training): ...
        def on_train_begin(self, training): ...

    with pytest.raises(nnc.UserError) as caught:
        model.fit(X, Z, callbacks=[Misspelt(), 3, Watch])
    helps = [d.help for d in caught.value.diagnostics]
    assert helps[:2] == ["did you mean `on_epoch_end`?", "did you mean `on_begin`?"]
    assert "on_step" in helps[2] and helps[3] == "give an object of it: `Watch()`"


# --- progress -------------------------------------------------------------------------------------


def test_a_script_is_quiet_unless_it_asks(model, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    model.fit(X, Z)
    assert capfd.readouterr().out == ""
    for verbose in (True, 1, 2):
        model.fit(X, Z, verbose=verbose)
        assert capfd.readouterr().out.count("epoch") == 2
    for verbose in (False, 0):
        model.fit(X, Z, verbose=verbose)
        assert capfd.readouterr().out == ""


def test_a_terminal_shows_lines(tmp_path):
    (tmp_path / "line.nn").write_text(PROGRAM)
    code = "import nnc, numpy as np; nnc.load('line.nn').fit(np.ones((8, 3)), np.ones((8, 2)))"
    here, there = pty.openpty()
    done = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=there, stderr=there)
    os.close(there)
    said = b""
    try:
        while part := os.read(here, 4096):
            said += part
    except OSError:  # Linux says so at the end
        pass
    assert done.wait() == 0, said
    assert b"epoch 1/2  loss" in said and b"epoch 2/2  loss" in said


def test_a_notebook_has_one_output_that_is_replaced(model, monkeypatch, capfd):
    display = pytest.importorskip("IPython.display")
    from nnc.runtime.api import bars

    shown = []

    class Handle:
        def update(self, content, raw):
            shown.append(content)

    def fake(content, raw, display_id):
        shown.append(content)
        return Handle()

    monkeypatch.setattr(bars, "in_notebook", lambda: True)
    monkeypatch.setattr(bars, "REFRESH", 0)
    monkeypatch.setattr(display, "display", fake)
    model.fit(X, Z)
    assert capfd.readouterr().out == ""
    assert (
        "<progress" in shown[0]["text/html"]
        and "epoch 1/2  step 1/6  loss" in shown[0]["text/plain"]
    )
    assert "<progress" not in shown[-1]["text/html"] and "<td>2</td>" in shown[-1]["text/html"]
