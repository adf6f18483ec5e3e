"""`nnc-lsp`, driven over its protocol on standard input and output, as an editor does."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nnc.dsl.check.library import standard_library

pytest.importorskip("pygls", reason="the language server needs pygls (pip install -e '.[lsp]')")

WAIT = 120  # seconds for an answer, on a computer that is busy
TEXT = '''"""Of tests."""

fn half(x) = x / 2

layer Twice(units, slope = 1)(x: [..., n]) -> y: [..., units] {
    param w: [n, units] ~ glorot_uniform
    y[..., o] = slope * sum(i) x[..., i] * w[i, o]
}

model Digits(image: f32[B, 8, 8, 1]) -> logits: f32[B, 10] {
    # logits are no image
    flat = image |> Flatten
    hidden = flat |> Twice(12, slope = 2) |> relu
    logits = half(hidden) |> Dense(10)
}

train Digits {
    data      = digits()
    loss      = cross_entropy(logits, label)
    metric right = mean(argmax(logits) == label)
    optimizer = adam(lr = 1e-2)
    batch     = 20
    epochs    = 1
    until right > 0.5
}
'''


class Editor:
    """The other end of the protocol: requests with their answers, and what comes unasked."""

    def __init__(self, folder: Path):
        path = os.pathsep.join(filter(None, sys.path))
        start = "from nnc.runtime.language_server.main import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            cwd=folder,
        )
        self.folder, self.number, self.version = folder, 0, 0
        self.answers: dict[int, queue.Queue] = {}
        self.shown: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        capabilities = {"textDocument": {"publishDiagnostics": {}}}
        self.can = self.ask("initialize", processId=None, rootUri=None, capabilities=capabilities)
        self.tell("initialized")

    def _read(self) -> None:
        out = self.process.stdout
        while line := out.readline():
            length = int(line.split(b":")[1])
            while out.readline().strip():
                pass
            message = json.loads(out.read(length))
            if "method" not in message:
                self.answers[message["id"]].put(message)
            elif message["method"] == "textDocument/publishDiagnostics":
                self.shown.put(message["params"])

    def _send(self, message: dict) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        self.process.stdin.flush()

    def tell(self, method: str, **params) -> None:
        self._send({"method": method, "params": params})

    def ask(self, method: str, **params):
        """The result; of a refusal `{"error": …}`."""
        self.number += 1
        answer = self.answers[self.number] = queue.Queue()
        self._send({"id": self.number, "method": method, "params": params})
        found = answer.get(timeout=WAIT)
        return {"error": found["error"]["message"]} if "error" in found else found["result"]

    # --- a document -------------------------------------------------------------------------------

    def open(self, text: str, name: str = "m.nn") -> list[dict]:
        """Show a text; the diagnostics that it gets."""
        self.text, self.uri = text, (self.folder / name).as_uri()
        self.version += 1
        about = {"uri": self.uri, "languageId": "nn", "version": self.version, "text": text}
        self.tell("textDocument/didOpen", textDocument=about)
        return self.diagnostics()

    def change(self, text: str) -> list[dict]:
        """Type a text in place of the other; nothing is saved."""
        self.version += 1
        self.text = text
        about = {"uri": self.uri, "version": self.version}
        self.tell("textDocument/didChange", textDocument=about, contentChanges=[{"text": text}])
        return self.diagnostics()

    def diagnostics(self) -> list[dict]:
        while True:
            found = self.shown.get(timeout=WAIT)
            if found["uri"] == self.uri and found.get("version") == self.version:
                return found["diagnostics"]

    def place(self, marked: str, after: int = 0) -> dict:
        """The position in the text of the `¦` in a part of it."""
        offset = self.text.index(marked.replace("¦", "", 1), after) + marked.index("¦")
        before = self.text[:offset]
        column = len(before[before.rfind("\n") + 1 :].encode("utf-16-le")) // 2
        return {"line": before.count("\n"), "character": column}

    def at(self, method: str, marked: str, **more):
        about = {"uri": self.uri}
        return self.ask(
            f"textDocument/{method}", textDocument=about, position=self.place(marked), **more
        )

    def applied(self, edits: list[dict]) -> str:
        """The text with some edits."""
        lines = [*self.text.splitlines(keepends=True), ""]

        def offset(position: dict) -> int:
            line = lines[position["line"]].encode("utf-16-le")[: 2 * position["character"]]
            return sum(map(len, lines[: position["line"]])) + len(line.decode("utf-16-le"))

        text = self.text
        for edit in sorted(edits, key=lambda e: -offset(e["range"]["start"])):
            begin, end = offset(edit["range"]["start"]), offset(edit["range"]["end"])
            text = text[:begin] + edit["newText"] + text[end:]
        return text


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    found = Editor(tmp_path_factory.mktemp("server"))
    yield found
    assert found.ask("shutdown") is None
    found.tell("exit")
    assert found.process.wait(WAIT) == 0


def named(completions: dict) -> dict[str, dict]:
    return {item["label"]: item for item in completions["items"]}


# --- diagnostics ----------------------------------------------------------------------------------


def test_diagnostics_as_one_types(editor):
    assert editor.open(TEXT) == []
    (found,) = editor.change(TEXT.replace("Flatten", "Flaten"))
    line = TEXT.splitlines().index("    flat = image |> Flatten")
    assert found["code"] == "E0203" and found["severity"] == 1 and found["source"] == "nnc"
    assert found["range"]["start"] == {"line": line, "character": 20}
    assert found["range"]["end"] == {"line": line, "character": 26}
    assert "did you mean `Flatten`?" in found["message"]
    # Nothing was saved.
    assert not (editor.folder / "m.nn").exists()
    # Sizes need the whole program; a mistake in the library is shown where it is asked for.
    (found,) = editor.change(TEXT.replace("Dense(10)", "Dense(9)"))
    assert found["code"].startswith("E0") and found["range"]["start"]["line"] > 8
    assert len(editor.change("model {\n\nfn f(x) = \n")) == 2
    assert editor.change("") == [] and editor.change(TEXT) == []


def test_warnings_and_characters_beyond_ascii(editor):
    text = "fn f(x) = x  # 𝒳\nlayer L()(x: [n]) -> y { let ü = 1; y = x }\n"
    found = editor.open(text, "wide.nn")
    assert found and found[0]["range"]["start"]["line"] == 1
    text = 'model M(x: f32[B, 3]) -> y {\n    """𝒳𝒳"""\n    z = x; y = x\n}\n'
    (found,) = editor.change(text)
    assert found["severity"] == 2 and found["code"] == "W0204"
    text = 'model M(x: f32[B, 3]) -> y { """𝒳"""; y = x + nothing }\n'
    found = editor.change(text)
    at = next(d for d in found if "nothing" in d["message"])["range"]
    # UTF-16 code units, as the protocol counts: 𝒳 is two of them.
    assert at["start"]["character"] == text.index("nothing") + 1


def test_used_files(editor):
    (editor.folder / "parts.nn").write_text("fn third(x) = x / 3\n")
    assert editor.open('use "parts.nn"\nfn f(x) = third(x)\n', "use.nn") == []
    found = editor.at("definition", "third¦(x)")
    assert found["uri"] == (editor.folder / "parts.nn").as_uri()
    assert found["range"]["start"] == {"line": 0, "character": 3}
    assert "third" in named(editor.at("completion", "th¦ird(x)"))
    places = editor.at("references", "third¦(x)", context={"includeDeclaration": True})
    assert {place["uri"] for place in places} == {found["uri"], editor.uri}


# --- hover ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("fl¦at |>", "flat: f32[20, 64]"),
        ("¦hidden = ", "hidden: f32[20, 12]"),
        ("half(hidden¦)", "hidden: f32[20, 12]"),
        ("cross_entropy(log¦its", "logits: f32[20, 10]"),
        ("mo¦del Digits", ""),
        ("D¦igits(image", "model Digits(image: f32[B, 8, 8, 1]) -> logits: f32[B, 10]"),
        ("D¦ense(10)", standard_library()["Dense"].doc.strip().splitlines()[0]),
        ("D¦ense(10)", "layer Dense("),
        ("h¦alf(hidden)", "fn half(x) = x / 2"),
        ("param ¦w", "w: f32[64, 12]"),
        ("param ¦w", "768 parameters"),
        ("a¦rgmax(logits)", "Built in; takes 1 argument."),
        ("dig¦its()", "data = digits(test = 0.2)"),
        ("ad¦am(lr", "optimizer adam("),
        ("# logits ar¦e", ""),
    ],
)
def test_hover(editor, place, told):
    editor.open(TEXT)
    found = editor.at("hover", place)
    if not told:
        assert found is None
    else:
        assert told in found["contents"]["value"] and found["contents"]["kind"] == "markdown"


def test_sizes_stay_known_while_one_types(editor):
    editor.open(TEXT)
    editor.change(TEXT.replace("Dense(10)\n", "Dense(10) |> \n"))
    assert "f32[20, 12]" in editor.at("hover", "¦hidden = ")["contents"]["value"]
    assert "mend it" in editor.at("rename", "¦hidden = ", newName="h")["error"]


# --- definitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "declared"),
    [
        ("half(¦hidden)", "¦hidden = "),
        ("¦half(hidden)", "fn ¦half"),
        ("Tw¦ice(12", "layer ¦Twice"),
        ("slope¦ = 2", "¦slope = 1"),
        ("* w¦[i, o]", "param ¦w"),
        ("x[..., ¦i] *", "sum(¦i)"),
        ("cross_entropy(¦logits", "-> ¦logits"),
        ("until ¦right", "metric ¦right"),
        ("train D¦igits", "model ¦Digits"),
        ("[n, un¦its] ~", "Twice(¦units"),
        ("param w: [¦n,", "[..., ¦n])"),
    ],
)
def test_definitions(editor, use, declared):
    editor.open(TEXT)
    found = editor.at("definition", use)
    assert found["uri"] == editor.uri and found["range"]["start"] == editor.place(declared)


def test_definitions_of_the_library(editor):
    editor.open(TEXT)
    found = editor.at("definition", "Dense¦(10)")
    path = Path(found["uri"].removeprefix("file://"))
    line = path.read_text().splitlines()[found["range"]["start"]["line"]]
    assert path.parent.name == "stdlib" and line.startswith("layer Dense(")
    assert editor.at("definition", "data  ¦    =") is None
    assert editor.at("definition", "lab¦el)") is None


# --- completion -----------------------------------------------------------------------------------


def test_completion(editor):
    editor.open(TEXT)
    found = named(editor.at("completion", "flat |> Tw¦ice"))
    assert {"Twice", "Dense", "Conv", "half", "hidden", "image", "softmax", "max"} <= set(found)
    assert found["Dense"]["detail"].startswith("layer Dense(") and found["Dense"]["documentation"]
    # What is near comes first.
    order = sorted(("hidden", "Twice", "Dense", "max"), key=lambda n: found[n]["sortText"])
    assert order == ["hidden", "Twice", "Dense", "max"]
    found = named(editor.at("completion", "    ¦batch"))
    assert {"batch", "epochs", "patience", "metric", "until"} <= set(found)
    assert {"mnist", "csv", "digits"} <= set(named(editor.at("completion", "= dig¦its()")))
    found = named(editor.at("completion", "= ad¦am("))
    assert "adamw" in found and "Dense" not in found
    assert "slope = " in named(editor.at("completion", "Twice(12, sl¦ope"))
    assert {"logits", "image"} <= set(named(editor.at("completion", "argmax(lo¦gits)")))


def test_completion_in_what_is_not_finished(editor):
    editor.open(TEXT)
    text = TEXT.replace("half(hidden) |> Dense(10)", "half(hidden) |> Den")
    editor.change(text)
    found = named(editor.at("completion", "half(hidden) |> De¦n"))
    assert {"Dense", "hidden", "Twice"} <= set(found)
    editor.change(TEXT.replace("    epochs    = 1\n", "    ep\n"))
    assert "epochs" in named(editor.at("completion", "    ep¦\n"))


# --- formatting, renaming -------------------------------------------------------------------------


def test_formatting(editor):
    options = {"tabSize": 4, "insertSpaces": True}

    def formatting() -> list:
        about = {"uri": editor.uri}
        return editor.ask("textDocument/formatting", textDocument=about, options=options)

    editor.open(TEXT)
    assert formatting() == []
    editor.change(TEXT.replace("x / 2", "x/2").replace("12, slope", "12,slope") + "\n\n")
    assert editor.applied(formatting()) == TEXT
    editor.change("model {")
    assert formatting() == []


@pytest.mark.parametrize(
    ("place", "name", "changes"),
    [
        ("¦hidden = ", "h", [("hidden = flat", "h = flat"), ("half(hidden)", "half(h)")]),
        ("¦half(hidden)", "halve", [("fn half", "fn halve"), ("half(hidden)", "halve(hidden)")]),
        ("train ¦Digits", "Net", [("model Digits", "model Net"), ("train Digits", "train Net")]),
        ("¦slope * ", "s", [("slope", "s")]),
        ("sum(¦i)", "k", [("sum(i) x[..., i] * w[i, o]", "sum(k) x[..., k] * w[k, o]")]),
        ("metric ¦right", "hits", [("right", "hits")]),
        (
            "-> ¦logits",
            "z",
            [
                ("-> logits", "-> z"), ("    logits = half", "    z = half"),
                ("cross_entropy(logits", "cross_entropy(z"), ("argmax(logits", "argmax(z"),
            ],
        ),
    ],
)  # fmt: skip
def test_renaming(editor, place, name, changes):
    editor.open(TEXT)
    wanted = TEXT
    for before, after in changes:
        wanted = wanted.replace(before, after)
    found = editor.at("rename", place, newName=name)
    assert editor.applied(found["changes"][editor.uri]) == wanted
    # The renamed program is right, too.
    assert editor.change(wanted) == []


@pytest.mark.parametrize(
    ("place", "name", "told"),
    [
        ("¦hidden = ", "flat", "taken"),
        ("¦hidden = ", "let", "cannot be a name"),
        ("¦hidden = ", "2x", "cannot be a name"),
        ("¦hidden = ", "a b", "cannot be a name"),
        ("¦Dense(10)", "D", "the library"),
        ("lab¦el)", "y", "the data"),
        ("mod¦el Digits", "y", "nothing to rename"),
    ],
)
def test_what_cannot_be_renamed(editor, place, name, told):
    editor.open(TEXT)
    assert told in editor.at("rename", place, newName=name)["error"]


def test_only_names_can_be_renamed(editor):
    editor.open(TEXT)
    assert editor.at("prepareRename", "hid¦den = ")["start"] == editor.place("¦hidden = ")
    assert "nothing to rename" in editor.at("prepareRename", "tr¦ain Digits")["error"]


PARTS = """\
layer Block(units, slope = 1)(x: [..., n]) -> y: [..., units] {
    y = slope * Dense(units)(x)
}

model Shared(x: f32[B, 4]) -> z: f32[B, 2] {
    z = x |> Block(2, slope = 3)
}
"""
MAIN = """\
use "blocks/parts.nn"

model Main(x: f32[B, 4]) -> y: f32[B, 3] {
    h = x |> Block(8, slope = 2) |> relu
    y = h |> Block(3)
}
"""
TRAINED = """\
use "main.nn"
use "blocks/parts.nn"

layer Own(x: [n]) -> y: [n] { Cell = x; y = Cell }

train Shared {
    input target: f32[B, 2]
    loss      = mean((z - target)^2)
    optimizer = sgd(lr = 0.1)
    batch     = 4
}
"""


@pytest.fixture
def files(editor, tmp_path_factory):
    """Three files that use each other, one that uses none, a run; the editor shows `main.nn`."""
    folder = editor.folder = tmp_path_factory.mktemp("files")
    for name, text in (
        ("blocks/parts.nn", PARTS), ("main.nn", MAIN), ("trained.nn", TRAINED),
        ("other.nn", PARTS), ("run/model.nn", MAIN), ("run/settings.json", "{}"),
    ):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    assert editor.open(MAIN, "main.nn") == []
    return folder


def changed(editor: Editor, folder: Path, edit: dict) -> dict[str, str]:
    """The files that an edit changes, with their new texts."""
    found, shown = {}, editor.text
    for uri, edits in edit["changes"].items():
        names = ("blocks/parts.nn", "main.nn", "trained.nn", "other.nn")
        (name,) = (name for name in names if (folder / name).as_uri() == uri)
        editor.text = (folder / name).read_text()
        found[name] = editor.applied(edits)
    editor.text = shown
    return found


def test_a_definition_is_renamed_in_all_files_that_use_it(editor, files):
    wanted = {
        name: text.replace("Block", "Piece")
        for name, text in (("blocks/parts.nn", PARTS), ("main.nn", MAIN))
    }
    found = editor.at("rename", "|> B¦lock(3)", newName="Piece")
    assert changed(editor, files, found) == wanted
    # From the file that defines it, too.
    editor.open(PARTS, "blocks/parts.nn")
    found = editor.at("rename", "layer ¦Block", newName="Piece")
    assert changed(editor, files, found) == wanted
    # What the other file would then have twice.
    assert "taken" in editor.at("rename", "layer ¦Block", newName="Main")["error"]


def test_a_setting_is_renamed_where_calls_give_it(editor, files):
    found = editor.at("rename", "Block(8, sl¦ope = 2)", newName="gain")
    assert changed(editor, files, found) == {
        "blocks/parts.nn": PARTS.replace("slope", "gain"), "main.nn": MAIN.replace("slope", "gain"),
    }  # fmt: skip


def test_a_result_of_a_model_is_renamed_in_the_train_block_of_another_file(editor, files):
    editor.open(PARTS, "blocks/parts.nn")
    found = editor.at("rename", "-> ¦z", newName="result")
    assert changed(editor, files, found) == {
        "blocks/parts.nn": PARTS.replace("z", "result"),
        "trained.nn": TRAINED.replace("(z -", "(result -"),
    }
    # A name of that train block.
    assert "taken" in editor.at("rename", "-> ¦z", newName="target")["error"]


def test_a_file_that_is_not_saved_is_renamed_in_as_it_is_open(editor, files):
    editor.open(PARTS, "blocks/parts.nn")
    typed = PARTS.replace("slope * Dense", "2 * slope * Dense")
    editor.change(typed)
    found = editor.at("rename", "layer ¦Block", newName="Piece")
    uri = editor.uri
    editor.text = typed
    assert editor.applied(found["changes"][uri]) == typed.replace("Block", "Piece")
    # What another file has read of it is not what it is.
    editor.open(MAIN, "main.nn")
    assert "save it first" in editor.at("rename", "|> B¦lock(3)", newName="Piece")["error"]
    editor.tell("textDocument/didClose", textDocument={"uri": uri})


# --- the command ----------------------------------------------------------------------------------


def test_it_says_what_it_does():
    path = os.pathsep.join(filter(None, sys.path))
    start = "from nnc.runtime.language_server.main import main; main()"

    def call(code: str, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    assert "version" in call(start, "--version").stdout
    assert "Language Server Protocol" in call(start, "--help").stdout
    assert call(start, "--tcp").returncode == 2
    # Without the extra it says how to get it.
    found = call(f"import sys; sys.modules['pygls'] = None; {start}")
    assert found.returncode == 1 and "pip install 'nnc-lang[lsp]'" in found.stderr
