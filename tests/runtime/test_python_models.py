"""Models of Python as things: saved, loaded, pickled, copied, set, looked at, and in notebooks."""

from __future__ import annotations

import copy
import json
import pickle
import shlex
import subprocess
import sys
import threading

import numpy as np
import pytest
from line_program import PROGRAM, RNG, X, Z, same

import nnc
from nnc.runtime import cli

LABELS = np.arange(10) % 2
# sizes that data decide, states beside the parameters, a field of integers
NORMAL = """
model Net(x: f32[B, F]) -> logits: f32[B, 2] {
    logits = x |> Dense(4) |> BatchNorm |> relu |> Dense(2)
}

train Net {
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 1e-2)
    batch     = 5
    epochs    = 1
}
"""


@pytest.fixture(scope="module")
def trained():
    model = nnc.loads(NORMAL, name="net.nn", threads=1)
    model.fit(X, LABELS, epochs=3, settings={"optimizer.lr": 0.1})
    return model


@pytest.fixture
def model():
    model = nnc.loads(PROGRAM, name="line.nn", threads=1)
    model.init(X)
    return model


# --- on disk and in pickles -----------------------------------------------------------------------


def test_a_model_that_is_saved_untrained_has_the_steps_of_its_data(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i},{i % 3},{i % 2}\n" for i in range(20))
    (tmp_path / "table.csv").write_text("a,b,label\n" + rows)
    text = NORMAL.replace("logits, label", "logits, y").replace(
        "lr = 1e-2", "lr = warmup_cosine(t, 1e-2, 2, steps)"
    )
    text = text.replace("batch ", 'data = csv("table.csv", target = "label")\n    batch ')
    model = nnc.loads(text, name="net.nn", threads=1)
    model.init()
    expected = model.evaluate()
    model.save("saved")
    assert nnc.load("saved", threads=1).evaluate() == expected
    capfd.readouterr()
    assert cli.run(["eval", "saved", "--threads", "1"]) == 0
    assert json.loads(capfd.readouterr().out)["test_loss"] == expected["loss"]


def test_a_saved_model_is_a_run(trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert trained.save(tmp_path / "saved") == tmp_path / "saved"
    again = nnc.load("saved", threads=1)
    assert same(again.parameters, trained.parameters)
    np.testing.assert_array_equal(again.predict(X), trained.predict(X))
    assert again.evaluate(X, LABELS) == trained.evaluate(X, LABELS)
    # The settings are those of the training, the epochs its own.
    assert "epochs = 3" in (tmp_path / "saved" / "model.nn").read_text()
    lines = (tmp_path / "saved" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    # The commands take it as a run.
    np.save("x.npy", X)
    assert cli.run(["predict", "saved", "--input", "x.npy", "--output", "y.npy"]) == 0
    np.testing.assert_array_equal(np.load("y.npy"), trained.predict(X))
    other = nnc.loads(NORMAL, threads=1)
    other.init(X)
    assert other.load_weights("saved").is_complete
    assert same(other.parameters, trained.parameters)
    # It does not go on where nothing was interrupted.
    capfd.readouterr()
    assert cli.run(["train", "--resume", "saved"]) == 1
    assert "E0706" in capfd.readouterr().err
    assert same(nnc.load("saved", threads=1).parameters, trained.parameters)
    with pytest.raises(nnc.UserError, match="new or empty folder") as caught:
        trained.save("saved")
    assert caught.value.diagnostics[0].code == "E0705"
    # Once more, and what was saved goes on as what was not.
    again.save("twice")
    for one in (again, copied := copy.copy(trained)):
        one.fit(X, LABELS, epochs=1, settings={"optimizer.lr": 0.1})
    assert same(again.parameters, copied.parameters)
    assert same(nnc.load("twice").parameters, trained.parameters)


def test_models_without_a_train_block_or_without_data_are_saved(tmp_path):
    bare = nnc.loads(PROGRAM[: PROGRAM.index("train")], threads=1)
    with pytest.raises(nnc.UserError, match="no parameters yet"):
        bare.save(tmp_path / "bare")
    bare.init()
    bare.save(tmp_path / "bare")
    found = nnc.load(tmp_path / "bare", threads=1)
    np.testing.assert_array_equal(found.predict(X), bare.predict(X))
    drawn = nnc.loads(PROGRAM, threads=1)
    drawn.init(seed=7)
    drawn.save(tmp_path / "drawn")
    found = nnc.load(tmp_path / "drawn", threads=1)
    np.testing.assert_array_equal(found.predict(X), drawn.predict(X))
    assert found.evaluate(X, Z) == drawn.evaluate(X, Z)


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "copy", "process"])
def test_copies_compute_the_same_and_are_apart(trained, how, tmp_path):
    calls = {
        "pickle": lambda: pickle.loads(pickle.dumps(trained)),
        "deepcopy": lambda: copy.deepcopy(trained),
        "copy": lambda: copy.copy(trained),
    }
    wanted, before = trained.predict(X), trained.parameters
    if how == "process":
        (tmp_path / "m").write_bytes(pickle.dumps(trained))
        np.save(tmp_path / "x.npy", X)
        code = (
            "import pickle, numpy as np; m = pickle.load(open('m', 'rb'));"
            "np.save('y.npy', m.predict(np.load('x.npy')))"
        )
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), wanted)
        return
    copied = calls[how]()
    np.testing.assert_array_equal(copied.predict(X), wanted)
    assert copied.evaluate(X, LABELS) == trained.evaluate(X, LABELS)
    copied.fit(X, LABELS)
    copied.parameters["dense1_b"] = np.ones(4)
    assert same(trained.parameters, before) and not same(copied.parameters, before)


def test_an_untrained_model_and_its_parameters_pickle(model):
    fresh = pickle.loads(pickle.dumps(nnc.loads(PROGRAM, threads=1)))
    assert fresh.parameters == {} and repr(fresh).startswith("<nnc model Line")
    found = pickle.loads(pickle.dumps(model.parameters))
    assert type(found) is dict and same(found, model.parameters)


# --- parameters -----------------------------------------------------------------------------------


def test_parameters_can_be_set(model):
    w = RNG.normal(size=(3, 2))
    model.parameters["dense1_w"] = w
    model.parameters["dense1.b"] = [1, 2]
    wanted = X @ w.astype(np.float32) + np.float32([1, 2])
    np.testing.assert_allclose(model.predict(X), wanted, rtol=1e-5)
    np.testing.assert_array_equal(model.parameters["dense1.w"], w.astype(np.float32))
    model.parameters["dense1_b"] += 1
    assert model.parameters["dense1_b"].tolist() == [2, 3]
    model.parameters.update(dense1_b=[0, 0], dense1_w=np.zeros((3, 2)))
    assert not model.predict(X).any()
    model.parameters |= {"dense1_b": [5, 5]}
    assert (model.predict(X) == 5).all()
    before = model.parameters
    model.parameters = {n: a * 2 for n, a in before.items()}
    assert (model.predict(X) == 10).all() and before["dense1_b"].tolist() == [5, 5]
    # training begins with them
    model.fit(X, Z, settings={"optimizer.lr": 0})
    assert model.parameters["dense1_b"].tolist() == [10, 10]


def test_parameters_that_do_not_fit(model):
    before = model.parameters
    cases = [
        ({"dens1_w": w} if (w := np.zeros((3, 2))) is not None else {}, "did you mean `dense1_w`?"),
        ({"dense1_w": w.T}, "`dense1_w` is float32[3, 2], and float64[2, 3] is given"),
        ({"dense1_w": w + 1j}, "cannot become float32"),
        ({"dense1_w": [["a"]]}, "cannot become float32"),
        ({"dense1_w": np.full((3, 2), np.nan)}, "would be nan at [0, 0]"),
        ({"dense1_b": [0, 1e300]}, "would be 1e+300 at [1]"),
    ]
    for given, text in cases:
        for set_them in (model.parameters.update, lambda g: model._set(g)):
            with pytest.raises(nnc.UserError) as caught:
                set_them({**given, "dense1.b" if "dense1_b" not in given else "zz": [9, 9]})
            assert text in str(caught.value)
            assert {d.code for d in caught.value.diagnostics} == {"E0714"}
    with pytest.raises(nnc.UserError, match="`dense1_b` are missing"):
        model.parameters = {"dense1_w": w}
    assert same(model.parameters, before)
    with pytest.raises(KeyError, match="did you mean `dense1_w`"):
        model.parameters["dense1_v"]
    for call in (lambda p: p.pop("dense1_w"), lambda p: p.clear(), lambda p: p.__delitem__("b")):
        with pytest.raises(TypeError, match="not removed"):
            call(model.parameters)
    with pytest.raises(nnc.UserError, match="no parameters yet"):
        nnc.loads(PROGRAM).parameters["dense1_w"] = w


def test_threads_see_parameters_before_or_after_they_are_set(model):
    model.parameters = {"dense1_w": np.zeros((3, 2)), "dense1_b": np.zeros(2)}
    seen, ends = [], threading.Event()

    def watch():
        while not ends.is_set():
            seen.append(model.predict(X))

    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(20):
        model.parameters.update(dense1_w=np.zeros((3, 2)), dense1_b=[n, n])
    ends.set()
    for thread in threads:
        thread.join()
    # one of the values, whole: never a part of one and of the next
    assert seen and all((found == found[0, 0]).all() for found in seen)


# --- looking --------------------------------------------------------------------------------------


def test_summary_and_stages_are_those_of_the_commands(trained, tmp_path, capfd):
    (tmp_path / "line.nn").write_text(PROGRAM.replace("loss ", "input z: f32[B, 2]\n    loss "))
    model = nnc.load(tmp_path / "line.nn")

    def printed(command):
        assert cli.run(shlex.split(f"{command} {tmp_path / 'line.nn'}")) == 0
        return capfd.readouterr().out

    def planned(summary):
        """Without what the process itself has in memory by now."""
        return [line for line in summary.splitlines() if "itself" not in line]

    assert planned(printed("summary")) == planned(model.summary())
    assert planned(repr(model.summary())) == planned(str(model.summary()))
    for stage in ("ast", "equations", "gradients", "kernels", "llvm"):
        assert printed(f"compile --emit {stage}") == str(model.compile(stage))
    assert model.compile(emit="gradients") == model.compile("gradients")
    plain = model.compile("equations", without=["common-subexpressions", "inline"])
    assert plain == printed("compile --emit equations --without common-subexpressions,inline")
    assert "dense1" in trained.summary()
    with pytest.raises(nnc.UserError, match="did you mean `gradients`") as caught:
        model.compile("gradient", without=["fuze", "differentiate"])
    assert len(caught.value.diagnostics) == 3


def test_curves(trained, tmp_path):
    with pytest.raises(nnc.UserError, match="has measured nothing yet"):
        nnc.loads(PROGRAM).plot()
    with pytest.raises(ValueError, match="there are step, epoch, time"):
        trained.plot(against="steps")
    pytest.importorskip("matplotlib", reason="curves need matplotlib (the extra `plot`)")
    shown = trained.plot()
    (axes,) = shown.figure.axes
    ((x, y),) = [line.get_data() for line in axes.lines]
    assert x.tolist() == [2, 4, 6]
    trained.save(tmp_path / "saved")
    (axes,) = nnc.load(tmp_path / "saved").plot("loss", against="epoch", log=True).figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), np.stack([[1, 2, 3], y], 1))
    assert shown._repr_svg_().lstrip().startswith("<?xml")
    for ending, head in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("html", b"<!")):
        shown.save(tmp_path / f"curves.{ending}")
        assert (tmp_path / f"curves.{ending}").read_bytes().startswith(head)
    for call, code in (
        (lambda: shown.save("curves.gif"), "E0716"),
        (lambda: trained.plot("los"), "E0740"),
    ):
        with pytest.raises(nnc.UserError) as caught:
            call()
        assert caught.value.diagnostics[0].code == code


def test_html_has_the_layers(trained, model):
    html = trained._repr_html_()
    assert "<b>Net</b> of net.nn" in html and "dense1" in html and "<table>" in html
    assert "after 6 steps" in html
    assert "as they are drawn" in model._repr_html_()
    # sizes that only data say
    assert nnc.loads(NORMAL, name="<b>.nn")._repr_html_().count("<") == 4
    assert "&lt;b&gt;.nn" in nnc.loads(NORMAL, name="<b>.nn")._repr_html_()


def test_the_cell_magic(tmp_path, monkeypatch):
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell.instance()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    said = []
    monkeypatch.setattr(shell, "_showtraceback", lambda kind, value, lines: said.extend(lines))
    shell.run_cell("%load_ext nnc").raise_error()
    done = shell.run_cell(f"%%nn net batch=2 optimizer.lr=0 threads=1\n{PROGRAM}")
    assert isinstance(done.result, nnc.Model) and shell.user_ns["net"] is done.result
    assert done.result.fit(X, Z, epochs=1)[0]["step"] == 5
    shell.run_cell(f"%%nn\n{PROGRAM}").raise_error()
    assert isinstance(shell.user_ns["model"], nnc.Model)
    shell.run_cell("%%nn net\n" + PROGRAM.replace("mse", "msee"))
    assert said[0].startswith("error[E0203]") and "--> net.nn:7:" in "\n".join(said)
    for line, text in (("a b", "not one name"), ("a batchh=3", "did you mean `batch`?")):
        said.clear()
        shell.run_cell(f"%%nn {line}\n{PROGRAM}")
        assert text in "\n".join(said)
