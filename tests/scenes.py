"""For every code of a run or of data: a command that is refused with it, and one that is not.

In: nothing. Out: `SCENES`. A scene's files are written to an empty folder, its `first` commands run
there, then both commands. `marked` is what the message marks, in a program or on the command line.
"""

from __future__ import annotations

import io
import json
import sys
import wave
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from small_programs import DIGITS
from support import with_pass

from nnc.compiler import pipeline
from nnc.compiler.codegen.llvm.instructions import SPELLING
from nnc.compiler.ir.build import rewrite
from nnc.compiler.ir.derivatives import DERIVATIVES
from nnc.compiler.ir.expr import Apply
from nnc.runtime import memory
from nnc.runtime.data.sets import mnist
from nnc.runtime.device.cuda import program as gpu
from nnc.runtime.device.cuda.discovery import Found
from nnc.runtime.training import set_measures
from nnc.runtime.training.run_folder import RunFolder


@dataclass(frozen=True)
class Scene:
    """`broken` spoils the machine or nnc itself while the wrong command runs; `spoil` the files."""

    wrong: str
    right: str
    marked: str = ""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    first: tuple[str, ...] = ()
    broken: Callable[[pytest.MonkeyPatch], None] = lambda patch: None
    spoil: Callable[[Path], None] = lambda folder: None
    package: str = ""  # without which there is nothing to see


# --- files ----------------------------------------------------------------------------------------

ROWS = "a,b,price\n" + "".join(f"{k},{k % 3},{k}.5\n" for k in range(20))
TIMES = "time,b,price\n" + "".join(f"{1_700_000_000 + k},{k % 3},{k}.5\n" for k in range(20))
MODEL = """
model M(x: f32[B, 2]) -> guess: f32[B] {
    h = x |> Dense(1)
    guess[b] = h[b, 0]
}

train M {
    data      = DATA
    loss      = mse(guess, y)
    optimizer = sgd(lr = 1e-4)
    epochs    = 1
}
"""
NORMAL = (
    MODEL.replace("DATA", 'csv("rows.csv", target = "price", test = 0)')
    .replace("guess", "y_guess")
    .replace("x |> Dense(1)", "x |> BatchNorm |> Dense(1)")
)
DEVIATION = MODEL.replace("DATA", 'csv("rows.csv", target = "price")').replace(
    "    optimizer", "    metric spread = mean((guess - mean(y))^2)\n    optimizer"
)
CLASSES = """
model M(x: f32[B, 2]) -> logits: f32[B, 3] {
    logits = x |> Dense(3)
}

train M {
    data      = npy(x = "x.npy", label = "FILE")
    loss      = cross_entropy(logits, label)
    optimizer = sgd(lr = 0.1)
    epochs    = 1
}
"""
TRAIN_RIGHT, TRAIN_WRONG = "train right.nn --offline", "train wrong.nn --offline"


def table(right: str | bytes, wrong: str | bytes) -> Scene:
    """A file of rows that is wrong."""
    program = MODEL.replace("DATA", 'csv("FILE", target = "price")')
    return Scene(
        TRAIN_WRONG,
        TRAIN_RIGHT,
        'csv("wrong.csv", target = "price")',
        {
            "right.nn": program.replace("FILE", "right.csv"),
            "right.csv": right,
            "wrong.nn": program.replace("FILE", "wrong.csv"),
            "wrong.csv": wrong,
        },
    )


def settings(wrong: str, right: str, marked: str, text: str = MODEL, **files: str | bytes) -> Scene:
    """A source that is described wrongly."""
    return Scene(
        TRAIN_WRONG,
        TRAIN_RIGHT,
        marked,
        {
            "right.nn": text.replace("DATA", right),
            "wrong.nn": text.replace("DATA", wrong),
            "right.csv": ROWS,
            **{name.replace("_", "."): content for name, content in files.items()},
        },
    )


def lines(wrong: str, right: str, marked: str, text: str = DIGITS) -> Scene:
    """A train block with one line or value exchanged for another."""
    assert right in text
    return Scene(
        TRAIN_WRONG, TRAIN_RIGHT, marked, {"right.nn": text, "wrong.nn": text.replace(right, wrong)}
    )


def flags(wrong: str, right: str, marked: str = "", text: str = DIGITS, **more) -> Scene:
    """A command that is wrong, over a program that is right."""
    return Scene(wrong, right, marked, {"small.nn": text}, **more)


def npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array, allow_pickle=True)
    return held.getvalue()


def sound(rate: int = 8000) -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.zeros(1600, np.int16).tobytes())
    return held.getvalue()


def arrays(right: bytes, wrong: bytes, marked: str = '"wrong.npy"') -> Scene:
    """A file of one array that is wrong."""
    program = MODEL.replace("DATA", 'npy(x = "x.npy", y = "PRICE")')
    return Scene(
        TRAIN_WRONG,
        TRAIN_RIGHT,
        marked,
        {
            "right.nn": program.replace("PRICE", "right.npy"),
            "right.npy": right,
            "wrong.nn": program.replace("PRICE", "wrong.npy"),
            "wrong.npy": wrong,
            "x.npy": npy(np.ones((20, 2), np.float32)),
        },
    )


PRICES = npy(np.arange(20, dtype=np.float32))

WRITER = """
model Writer(token: i32[B, 8]) -> logits: f32[B, 8, 16] {
    logits = token |> Embedding(16, 4) |> RNN(4) |> Dense(16)
}

train Writer {
    data      = text("words.txt", length = 8)
    loss      = cross_entropy(logits, target)
    optimizer = adam(lr = 0.01)
    batch     = 4
    epochs    = 1
}
"""
WORDS = "abc def ghi jkl mno " * 40
SPOKEN = """
model Spoken(frames: f32[B, T, 40]) -> logits: f32[B, 2] {
    logits = frames |> RNN(4) |> last |> Dense(2)
}

train Spoken {
    data      = wav("DIR", pattern = "{word}_{take}.wav", label = "word")
    loss      = cross_entropy(logits, label)
    optimizer = sgd(lr = 0.01)
    epochs    = 1
}
"""
PETS = """
model Pets(image: f32[B, 4, 4, 3]) -> logits: f32[B, 2] {
    logits = image |> Flatten |> Dense(2)
}

train Pets {
    data      = images("DIR", size = [4, 4])
    loss      = cross_entropy(logits, label)
    optimizer = sgd(lr = 0.01)
    epochs    = 1
}
"""
MNIST = DIGITS.replace("8, 8, 1", "28, 28, 1").replace("digits", "mnist")
IDX = {
    f"{part}-{kind}": content
    for part in ("train", "t10k")
    for kind, content in (
        (
            "images-idx3-ubyte",
            b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (4, 28, 28)) + bytes(4 * 784),
        ),
        ("labels-idx1-ubyte", b"\0\0\x08\x01" + (4).to_bytes(4, "big") + bytes(range(4))),
    )
}


def picture() -> bytes:
    """A black PNG of 4x4 pixels."""
    parts = (
        (b"IHDR", (4).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])),
        (b"IDAT", zlib.compress(bytes(4 * 13))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        for name, data in parts
    )


def sounds(*names: str, rate: int = 8000) -> Scene:
    """A folder of sounds of which those that are named are wrong."""
    good = {f"good/{word}_{k}.wav": sound() for word in "ab" for k in range(8)}
    bad = {name.replace("good", "bad"): content for name, content in good.items()}
    return Scene(
        TRAIN_WRONG,
        TRAIN_RIGHT,
        'wav("bad", pattern = "{word}_{take}.wav", label = "word")',
        {
            "right.nn": SPOKEN.replace("DIR", "good"),
            "wrong.nn": SPOKEN.replace("DIR", "bad"),
            **good,
            **bad,
            **{f"bad/{name}": sound(rate) for name in names},
        },
    )


def pets(*loose: str) -> dict[str, str | bytes]:
    good = {f"good/{kind}/{k}.png": picture() for kind in ("cat", "dog") for k in range(4)}
    bad = {name.replace("good", "bad"): content for name, content in good.items()}
    return {
        "right.nn": PETS.replace("DIR", "good"),
        "wrong.nn": PETS.replace("DIR", "bad"),
        **good,
        **bad,
        **{f"bad/{name}": picture() for name in loose},
    }


# --- what is broken -------------------------------------------------------------------------------


def no_derivative(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(DERIVATIVES, "tanh", lambda f, x: (1.0 - f,))
    patch.setenv("NNC_CACHE", "off")  # its code would be that of the right derivative


def other_code(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(SPELLING, "tanh", SPELLING["sin"])
    patch.setenv("NNC_CACHE", "off")


def no_gpu() -> Found:
    return Found(problem="no driver", remedy="install one")


def forgetful_pass(patch: pytest.MonkeyPatch) -> None:
    def forget(system):
        def change(node):
            return node.args[0] if isinstance(node, Apply) and node.fn == "add" else None

        last = next(e for e in system.equations if e.target == "y")
        fresh = last.with_body(rewrite(last.body, change))
        return system.replace(equations=tuple(fresh if e is last else e for e in system.equations))

    patch.setattr(pipeline, "CPU", with_pass("forget", forget))


def begun_elsewhere(folder: Path) -> None:
    run = RunFolder(folder / "run")
    run.write_texts({"settings.json": json.dumps(run.settings | {"target": "generic-sse"})})


def cut_short(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (path,) = sorted(folder.glob(name))[-1:]
        path.write_bytes(path.read_bytes()[:-5])

    return spoil


TANH = "model M(x: f32[B, 6]) -> y: f32[B, 6] {\n    param w: [6] = 1\n    y = 2*tanh(x) + w*x\n}\n"
ONE_HOT = """
model M(x: f32[B, 2]) -> logits: f32[B, 3] {
    logits = x |> Dense(3)
}

fn chosen(logits: [b, n], label: i32[b, k]) -> y: [] {
    z = log_softmax(logits)
    picked[b, k] = z[b, label[b, k]]
    y = -mean(picked)
}

train M {
    data      = npy(x = "x.npy", label = "FILE")
    loss      = chosen(logits, label)
    optimizer = sgd(lr = 0.1)
    epochs    = 1
}
"""
TRAINED = "train small.nn --out run --epochs 1"
MORE = "train --resume run --epochs 3"
TWICE = TRAINED.replace("1", "2")

SCENES: dict[str, Scene] = {
    "E0109": Scene("check wrong.nn", "check right.nn", "", {
        "wrong.nn": "# café\nfn half(x) = x / 2\n".encode("latin-1"),
        "right.nn": "# café\nfn half(x) = x / 2\n"}),
    "E0316": flags("summary small.nn", "summary small.nn --set T=16", "T",
                   "model M(x: f32[B, T]) -> y: f32[B, T] { y = x }\n"),
    # data
    "E0601": settings('csv("huoses.csv", target = "price")', 'csv("right.csv", target = "price")',
                      'csv("huoses.csv", target = "price")'),
    "E0602": arrays(PRICES, b"<html>not found</html>"),
    "E0603": arrays(PRICES, PRICES[:-9]),
    "E0604": table(ROWS, ROWS + "1,2\n"),
    "E0605": table(ROWS, ROWS + "twelve,2,3\n"),
    "E0606": Scene(TRAIN_WRONG, TRAIN_RIGHT, "label", {
        "right.nn": CLASSES.replace("FILE", "right.npy"),
        "wrong.nn": CLASSES.replace("FILE", "wrong.npy"),
        "x.npy": npy(np.ones((20, 2), np.float32)),
        "right.npy": npy(np.arange(20, dtype=np.int32) % 3),
        "wrong.npy": npy(np.arange(20, dtype=np.int32) % 4)}),
    "E0607": arrays(PRICES, npy(np.ones(19, np.float32)), 'npy(x = "x.npy", y = "wrong.npy")'),
    "E0608": settings('csv("right.csv", taget = "price")', 'csv("right.csv", target = "price")',
                      "taget"),
    "E0609": Scene(TRAIN_WRONG, TRAIN_RIGHT, 'images("bad", size = [4, 4])', pets(),
                   broken=lambda patch: patch.setitem(__import__("sys").modules, "PIL", None),
                   package="PIL"),
    "E0610": Scene("train wrong.nn", "train right.nn --data here --batch 2", "mnist()",
                   {"wrong.nn": MNIST, "right.nn": MNIST,
                    **{f"here/{name}": content for name, content in IDX.items()}},
                   broken=lambda patch: patch.setattr(mnist.SET, "address", "http://127.0.0.1:9/")),
    "E0611": arrays(PRICES, npy(np.array([None, *"abc"], dtype=object))),
    "E0612": table(ROWS, ROWS.encode() + b"caf\xe9,1,2\n"),
    "E0613": table(ROWS, "a,b,price\n"),
    "E0614": settings('csv("right.csv", target = "prize")', 'csv("right.csv", target = "price")',
                      '"prize"'),
    "E0615": settings('csv("right.csv", target = "price", test = 1.5)',
                      'csv("right.csv", target = "price", test = 0.5)', "1.5"),
    "E0616": table(ROWS, ROWS + "3,,1\n"),
    "E0617": settings('csv("here", target = "price")', 'csv("right.csv", target = "price")',
                      'csv("here", target = "price")', **{"here/file": "a folder"}),
    "E0618": Scene(TRAIN_WRONG, TRAIN_RIGHT, 'images("bad", size = [4, 4])', pets("extra.png"),
                   package="PIL"),
    "E0619": Scene("generate run --prompt é", "generate run --prompt abc --length 3", "",
                   {"writer.nn": WRITER, "words.txt": WORDS}, ("train writer.nn --out run",)),
    "E0620": sounds("a_9.wav", rate=999),
    "E0621": sounds("seven.wav"),
    # runs
    "E0701": lines("sgd(lr = 1e30)", "adam(lr = 1e-2)", "Dense(10)"),
    "E0702": lines("until acuracy > 0.5", "epochs    = 2", "acuracy"),
    "E0703": lines("batch     = 0", "batch     = 100", "0"),
    "E0704": flags("train small.nn --set bacth=64", "train small.nn --set batch=64", "bacth"),
    "E0705": flags(TRAINED, TRAINED.replace("run", "other"), first=(TRAINED,)),
    "E0706": flags("eval rnu", "eval run", first=(TRAINED,)),
    "E0707": Scene("train layers.nn", "train small.nn", "",
                   {"small.nn": DIGITS, "layers.nn": "layer Same(x: [n]) -> y: [n] { y = x }\n"}),
    "E0708": Scene("predict run --input wide.npy --output y.npy",
                   "predict run --input x.npy --output y.npy", "image: f32[B, 8, 8, 1]",
                   {"small.nn": DIGITS, "x.npy": npy(np.ones((5, 8, 8, 1), np.float32)),
                    "wide.npy": npy(np.ones((5, 64), np.float32))}, (TRAINED,)),
    "E0709": Scene("predict run --input x.npy --output none/y.npy",
                   "predict run --input x.npy --output y.npy", "",
                   {"small.nn": DIGITS, "x.npy": npy(np.ones((5, 8, 8, 1), np.float32))},
                   (TRAINED,)),
    "E0710": Scene(TRAIN_WRONG, TRAIN_RIGHT, "x: i32[B, 2]", {
        "right.nn": MODEL.replace("DATA", 'csv("rows.csv", target = "price")'),
        "wrong.nn": MODEL.replace("DATA", 'csv("rows.csv", target = "price")').replace(
            "x: f32[B, 2]", "x: i32[B, 2]").replace("h = x", "h = 1.5 * x"), "rows.csv": ROWS}),
    "E0711": lines("", "data      = digits()\n", "train Small {",
                   DIGITS.replace("loss ", "input label: i32[B]\n    loss ")),
    "E0712": Scene("generate classes --prompt abc", "generate run --prompt abc --length 3", "",
                   {"writer.nn": WRITER, "words.txt": WORDS, "small.nn": DIGITS},
                   ("train writer.nn --out run", "train small.nn --out classes --epochs 1")),
    "E0713": flags(TRAINED, TRAINED.replace("run", "other"), "image: f32[B, 8, 8, 1]",
                   broken=lambda patch: patch.setattr(memory, "free_bytes", lambda: 50_000)),
    "E0714": Scene("train wide.nn --init run", "train small.nn --init run", "run",
                   {"small.nn": DIGITS, "wide.nn": DIGITS.replace("12", "13")}, (TRAINED,)),
    "E0715": Scene("predict run --tensor dense --input x.npy --output y.npy",
                   "predict run --tensor dense1.y --input x.npy --output y.npy", "",
                   {"small.nn": DIGITS, "x.npy": npy(np.ones((5, 8, 8, 1), np.float32))},
                   (TRAINED,)),
    "E0716": Scene("predict run --input x.npy --output y.txt",
                   "predict run --input x.npy --output y.csv", "",
                   {"small.nn": DIGITS, "x.npy": npy(np.ones((5, 8, 8, 1), np.float32))},
                   (TRAINED,)),
    "E0717": Scene("predict run notes.txt", "predict run x.npy", "",
                   {"small.nn": DIGITS, "x.npy": npy(np.ones((5, 8, 8, 1), np.float32)),
                    "notes.txt": "the digits of today"}, (TRAINED,)),
    "W0303": Scene(TRAIN_WRONG, TRAIN_RIGHT, "label", {
        "right.nn": ONE_HOT.replace("FILE", "two.npy"),
        "wrong.nn": ONE_HOT.replace("FILE", "one.npy"),
        "x.npy": npy(np.ones((12, 2), np.float32)),
        "one.npy": npy(np.eye(3, dtype=np.int32)[np.arange(12) % 3]),
        "two.npy": npy(np.ones((12, 3), np.int32))}),
    "W0305": Scene("train small.nn --batch 19", "train small.nn --batch 10",
                   "BatchNorm", {"rows.csv": ROWS, "small.nn": NORMAL}),
    "W0307": flags("train small.nn --batch 4096", "train small.nn --batch 400", "4096"),
    "W0601": settings('csv("wrong.csv", target = "price")', 'csv("right.csv", target = "price")',
                      "x: f32[B, 2]", MODEL.replace("1e-4", "1e-30"), wrong_csv=TIMES),
    "W0701": flags(MORE, MORE.replace("run", "whole"),
                   first=(TWICE, TWICE.replace("run", "whole")),
                   spoil=cut_short("run/checkpoints/*")),
    "W0702": flags(MORE, MORE.replace("run", "whole"),
                   first=(TWICE, TWICE.replace("run", "whole")), spoil=begun_elsewhere),
    "W0703": Scene("train small.nn", "train small.nn", "mean((guess - mean(y))^2)",
                   {"rows.csv": ROWS, "small.nn": DEVIATION},
                   broken=lambda patch: patch.setattr(set_measures, "MOST_BYTES", 100)),
    "W0704": Scene("train wrong.nn", "train right.nn", 'partial("run")', {
        "small.nn": DIGITS,
        "right.nn": DIGITS.replace("    loss", '    weights = partial("run")\n    loss').replace(
            "    batch", "    freeze dense1.*\n    batch"),
        "wrong.nn": DIGITS.replace("    loss", '    weights = partial("run")\n    loss').replace(
            "    batch", "    freeze dense1.*\n    batch").replace("12", "13")}, (TRAINED,)),
    "E0720": flags("train small.nn --device cuda", "train small.nn --device cpu",
                   broken=lambda patch: patch.setattr(gpu, "look", no_gpu)),
    "E0721": flags("compile small.nn --emit llvm", "compile small.nn --emit llvm",
                   broken=lambda patch: patch.setenv("NNC_TARGET", "zen9")),
    "E0724": flags("export small.nn --to lib --target apple-m1 --as so",
                   "export small.nn --to lib --target apple-m1 --as o"),
    "E0725": flags("export small.nn --to lib --weights f16 --functions predict,train_step",
                   "export small.nn --to lib --weights f16 --functions predict,evaluate"),
    "E0730": lines("mean(b) (7 // label[b])", "accuracy(logits, label)",
                   "mean(b) (7 // label[b])"),
    "E0740": Scene("plot run --metric los --output y.svg", "plot run --metric loss --output y.svg",
                   "", {"small.nn": DIGITS}, (TRAINED,), package="matplotlib"),
    "E0741": Scene("plot run --output y.svg", "plot run --output y.svg", "",
                   {"small.nn": DIGITS}, (TRAINED,), package="matplotlib",
                   broken=lambda patch: patch.setitem(sys.modules, "matplotlib.figure", None)),
    "E0750": Scene("attribute run --input x.npy --method salency",
                   "attribute run --input x.npy --method saliency", "",
                   {"small.nn": DIGITS, "x.npy": npy(np.ones((1, 8, 8, 1), np.float32))},
                   (TRAINED,)),
    "E0801": flags("verify small.nn", "verify small.nn", "y = 2*tanh(x) + w*x", TANH,
                   broken=other_code),
    "E0802": flags("verify small.nn", "verify small.nn", "y = 2*tanh(x) + w*x", TANH,
                   broken=no_derivative),
    "E0803": flags("verify small.nn", "verify small.nn", "y = 2*tanh(x) + w*x", TANH,
                   broken=forgetful_pass),
    "E0804": Scene("verify wrong.nn", "verify right.nn", "mean(log(y - 500))", {
        "right.nn": TANH + "train M { loss = mean(y^2); optimizer = sgd() }\n",
        "wrong.nn": TANH + "train M { loss = mean(log(y - 500)); optimizer = sgd() }\n"}),
}  # fmt: skip
