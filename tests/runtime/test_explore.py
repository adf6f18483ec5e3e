"""`nnc explore`: what its lines are linked by, and the page in a browser, with its mouse and keys.

The pictures that the tests take are in pytest's folder for temporary files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser
from pseudo_terminal import at_terminal
from small_programs import DIGITS

import nnc
from nnc.runtime import cli

PROGRAM = """
layer Scaled(x: [B, n]) -> y: [B, n] {
    param s: [n] = 1
    y[b, i] = s[i] * x[b, i]
}

model Small(x: f32[B, 24]) -> logits: f32[B, 10] {
    h = x |> Dense(32) |> relu
    logits = h |> Scaled |> Dense(10)
}

train Small {
    input label: i32[B]
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 1e-2)
    batch     = 64
}
"""
SCALED, DENSE, SECOND, LOSS, ADAM = 4, 8, 9, 14, 15  # lines


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


class Explored:
    """What a page says, as its script reads it."""

    def __init__(self, page: str):
        self.page, self.data = page, data_of(page)
        self.panes = {pane["name"]: pane for pane in self.data["panes"]}
        self.sets = self.data["links"]["sets"]

    def texts(self, pane: str) -> list[str]:
        return self.panes[pane]["text"].split("\n")

    def origins(self, pane: str) -> list[set[int]]:
        return [
            set(self.sets[number]) if number >= 0 else set()
            for count, number in self.panes[pane]["sets"]
            for _ in range(count)
        ]

    def linked(self, pane: str, line: int) -> list[str]:
        """The lines of a pane that a line of the source lights."""
        row = self.panes["source"]["numbers"].index(line)
        own = self.origins("source")[row]
        texts, origins = self.texts(pane), self.origins(pane)
        return [text for text, found in zip(texts, origins, strict=True) if found & own]

    def targets(self, pane: str, line: int) -> set[str]:
        """The targets of the equations that it lights."""
        found = (re.match(r"\s+([\w']+)(?:\[.*?\])? = ", text) for text in self.linked(pane, line))
        return {match[1] for match in found if match}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("explore")
    (found / "small.nn").write_text(PROGRAM)
    for name, *options in (["cpu", "--profile", "--steps", "3"], ["cuda", "--device", "cuda"]):
        at = str(found / f"{name}.html")
        assert cli.run(["explore", str(found / "small.nn"), "--output", at, *options]) == 0
    return found


@pytest.fixture(scope="module")
def cpu(folder: Path) -> Explored:
    return Explored((folder / "cpu.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def cuda(folder: Path) -> Explored:
    return Explored((folder / "cuda.html").read_text("utf-8"))


# --- what is linked -------------------------------------------------------------------------------


def test_a_line_leads_to_its_equations_forward_and_backward(cpu: Explored) -> None:
    assert cpu.targets("equations", DENSE) == {"dense1_y_sum", "dense1_y", "h"}
    assert {"dense1_y_sum", "h", "d_dense1_y", "d_dense1_w", "d_dense1_b"} <= cpu.targets(
        "gradients", DENSE
    )
    assert {"dense1_w'", "dense2_b_m'", "scaled1_s_v'"} <= cpu.targets("gradients", ADAM)
    assert not cpu.targets("gradients", ADAM) & cpu.targets("gradients", DENSE)


def test_a_layer_of_ones_own_is_linked_where_it_stands_and_where_it_is_applied(
    cpu: Explored,
) -> None:
    (inside,) = cpu.targets("equations", SCALED)
    assert inside == "scaled1_y" and inside in cpu.targets("equations", SECOND)
    assert "dense2_y_sum" not in cpu.targets("equations", SCALED)


@pytest.mark.parametrize("pane", ["kernels", "loops", "llvm", "asm"])
def test_every_stage_has_lines_of_every_line_that_computes(cpu: Explored, pane: str) -> None:
    for line in (SCALED, DENSE, SECOND, LOSS, ADAM):
        assert cpu.linked(pane, line), line
    # And no stage has all of its lines from one.
    assert len(cpu.linked(pane, DENSE)) < len(cpu.texts(pane)) / 2


def test_instructions_of_a_fused_kernel_are_told_apart(cpu: Explored) -> None:
    texts, origins = cpu.texts("llvm"), cpu.origins("llvm")
    head = next(n for n, text in enumerate(texts) if '.dense1_y_sum"' in text)
    end = texts.index("}", head)
    inside = {frozenset(found) for found in origins[head + 1 : end]}
    # The sum and its relu are of one line, but of two equations: the library's and the user's.
    assert len(inside) > 1 and origins[head] == set().union(*inside)


def test_the_library_shows_the_definitions_that_are_used(cpu: Explored) -> None:
    texts = cpu.texts("library")
    assert "stdlib/layers.nn" in texts and any(t.startswith("layer Dense(") for t in texts)
    assert not any(t.startswith(("layer Conv(", "optimizer sgd(")) for t in texts)
    assert any("sum(i)" in text for text in cpu.linked("library", DENSE))
    # Of an equation of the library, the line that applies it is the user's: `Dense` twice.
    row = next(n for n, text in enumerate(texts) if "sum(i) x" in text)
    users = {cpu.data["links"]["users"][origin] for origin in cpu.origins("library")[row]}
    assert len(users) == 2


def test_memory_is_that_of_the_plan(cpu: Explored) -> None:
    memory = cpu.data["memory"]
    boxes = memory["tensors"]
    assert {box["kind"] for box in boxes} == {"input", "param", "state", "output", "temp"}
    assert max(box["offset"] + box["bytes"] for box in boxes) <= memory["bytes"]
    last = len(memory["items"]) - 1
    for box in boxes:
        assert box["kind"] == "temp" or (box["first"], box["last"]) == (0, last), box
    # Two at the same place and time: one that dies where the next is computed element by element.
    for one in boxes:
        for two in boxes:
            apart = one["offset"] + one["bytes"] <= two["offset"] or one["last"] <= two["first"]
            back = two["offset"] + two["bytes"] <= one["offset"] or two["last"] <= one["first"]
            assert one is two or apart or back, (one, two)


def test_times_of_lines_add_up(cpu: Explored) -> None:
    whole = cpu.data["profile"]["kernels"]
    for pane in ("source", "kernels"):
        times, texts = cpu.panes[pane]["times"], cpu.texts(pane)
        rows = [int(row) for row in times]
        if pane == "kernels":
            rows = [row for row in rows if texts[row].startswith("kernel ")]
        assert sum(sum(times[str(row)]) for row in rows) == pytest.approx(whole)
    numbers = cpu.panes["source"]["numbers"]
    timed = {numbers[int(row)] for row in cpu.panes["source"]["times"]}
    assert {SCALED, DENSE, SECOND, LOSS, ADAM} >= timed >= {DENSE, ADAM}


def test_a_page_for_a_gpu_has_cuda_in_place_of_llvm(cuda: Explored) -> None:
    assert [*cuda.panes] == [
        "source", "library", "equations", "gradients", "kernels", "grids", "cuda",
    ]  # fmt: skip
    for pane in ("kernels", "grids", "cuda"):
        for line in (SCALED, DENSE, SECOND, LOSS, ADAM):
            assert cuda.linked(pane, line), (pane, line)
    heads = [text for text in cuda.linked("cuda", DENSE) if text.startswith(("KERNEL", "DEVICE"))]
    assert any("dense1_y_sum" in head for head in heads)
    assert not any("dense2_y_sum" in head for head in heads)


def test_a_page_needs_no_other_file(cpu: Explored) -> None:
    assert not re.search(r"""(?:src|href|url)\s*[=(]|@import|https?://""", cpu.page)
    assert "Content-Security-Policy" in cpu.page and "default-src 'none'" in cpu.page


# --- the command ----------------------------------------------------------------------------------


def test_a_pipe_gets_the_page_and_a_terminal_a_file(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.nn").write_text("model M(x: f32[4]) -> y: f32[4] { y[i] = 2 * x[i] }\n")
    assert cli.run(["explore", "m.nn"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("<!doctype html>") and "gradients" not in Explored(printed).panes
    assert "kB in m.html" in at_terminal(["explore", "m.nn"], tmp_path)
    assert (tmp_path / "m.html").read_text("utf-8") == printed


def test_what_is_wrong_is_said(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.nn").write_text("model M(x: f32[4]) -> y: f32[4] { y[i] = z[i] }\n")
    (tmp_path / "n.nn").write_text("model N(x: f32[4]) -> y: f32[4] { y[i] = 2 * x[i] }\n")

    def told(*arguments: str) -> tuple[int, str]:
        code = cli.run(["explore", *arguments])
        return code, capsys.readouterr().err

    code, text = told("m.nn")
    assert code == 1 and "`z`" in text and "m.nn:1:42" in text
    code, text = told("n.nn", "--output", "n.pdf")
    assert code == 1 and "E0716" in text and ".html" in text
    code, text = told("n.nn", "--profile")
    assert code == 1 and "E0707" in text and "train N" in text
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.slow
def test_a_run_is_explored_as_its_program(tmp_path: Path) -> None:
    (tmp_path / "small.nn").write_text(DIGITS)
    run, page = tmp_path / "run", tmp_path / "run.html"
    assert cli.run(["train", str(tmp_path / "small.nn"), "--epochs", "1", "--out", str(run)]) == 0
    assert cli.run(["explore", str(run), "--batch", "50", "--output", str(page)]) == 0
    found = Explored(page.read_text("utf-8"))
    assert "batch 50" in found.data["about"] and found.linked("asm", 3)


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found
        assert not found.errors


def lit(page: Browser, pane: str) -> list[str]:
    """The lines that are lit in what is in view."""
    found = page.value(
        f"[...document.querySelectorAll('.pane.{pane} .row.lit')].map((row) => {{"
        f" const box = row.getBoundingClientRect();"
        f" const view = row.closest('.scroll').getBoundingClientRect();"
        f" return box.top >= view.top - 18 && box.top <= view.bottom"
        f" ? row.querySelector('code').textContent : null; }}).filter((text) => text !== null)"
    )
    assert isinstance(found, list)
    return found


def test_a_fragment_opens_a_line(shown: Browser, folder: Path) -> None:
    shown.open(folder / "cpu.html", f"#L{SECOND}&show=source,gradients,kernels,llvm,asm")
    # With the lines of the layer that is applied there.
    assert lit(shown, "source")[1:] == [
        "    y[b, i] = s[i] * x[b, i]",
        "    logits = h |> Scaled |> Dense(10)",
    ]
    # Each of the other panes has scrolled to what belongs to it.
    for pane, word in (("gradients", "scaled1"), ("kernels", "dense2"), ("asm", "vmov")):
        assert any(word in text for text in lit(shown, pane)), pane
    assert not any("dense1_y" in text for text in lit(shown, "gradients"))
    (folder / "opened.png").write_bytes(shown.picture())
    assert shown.requests[-1].startswith("file://") and len(set(shown.requests)) <= 2


def test_pointing_lights_and_a_click_holds(shown: Browser, folder: Path) -> None:
    shown.open(folder / "cpu.html", "#show=source,gradients,kernels,loops,asm")
    assert not lit(shown, "source")
    row = f"#source-{DENSE - 1}"
    shown.point(row)
    shown.wait("document.querySelector('.pane.asm').dataset.lit > 0")
    assert lit(shown, "source") == ["    h = x |> Dense(32) |> relu"]
    # After a moment the others have scrolled.
    shown.wait("document.querySelectorAll('.pane.gradients .row.lit').length > 0")
    counts = "[...document.querySelectorAll('.pane')].map((pane) => pane.dataset.lit)"
    before = shown.value(counts)
    shown.click(row)
    assert shown.value("location.hash").startswith(f"#L{DENSE}&")
    # Held: pointing elsewhere changes nothing; a second click lets go.
    shown.point(f"#source-{ADAM - 1}")
    assert shown.value(counts) == before
    shown.click(row)
    shown.point("#about")
    shown.wait("document.querySelector('.pane.asm').dataset.lit === '0'")


def test_an_instruction_leads_back_to_the_source(shown: Browser, folder: Path) -> None:
    shown.open(folder / "cpu.html", "#show=source,llvm")
    at = 'page.byName.llvm.lines.findIndex((line) => line.includes("dense1_w\'"))'
    shown.value(f"page.byName.llvm.reveal({at})")
    shown.click(f"#llvm-{shown.value(at)}")
    assert lit(shown, "source")[-1].strip().startswith("optimizer")


def test_keys_do_what_the_mouse_does(shown: Browser, folder: Path) -> None:
    shown.open(folder / "cpu.html", "#show=source,gradients,asm")
    shown.value("page.byName.source.scroll.focus()")
    for _ in range(DENSE - 1):
        shown.key("ArrowDown")
    assert lit(shown, "source") == ["    h = x |> Dense(32) |> relu"]
    shown.key("Enter")
    assert shown.value("location.hash").startswith(f"#L{DENSE}&")
    # The next lit lines of the pane in focus.
    shown.value("page.byName.gradients.scroll.focus()")
    first = shown.value("page.byName.gradients.cursor")
    shown.key("n")
    assert shown.value("page.byName.gradients.cursor") > first
    shown.key("Escape")
    shown.value("document.activeElement.blur()")
    assert not lit(shown, "source")
    # The panes by their numbers, and a text in all of them.
    shown.key("3")
    shown.wait("document.querySelector('.pane.equations') !== null")
    shown.key("/")
    for letter in "tanh":
        shown.key(letter)
    assert shown.value("document.getElementById('query').value") == "tanh"
    assert shown.value("page.byName.source.lit.length") == 0
    shown.key("Escape")


def test_memory_is_a_picture_that_is_linked(shown: Browser, folder: Path) -> None:
    shown.open(folder / "cpu.html", "#show=source,memory")
    boxes = shown.value(
        "page.byName.memory.tensors.map((tensor, n) => {"
        " const box = document.querySelector(`.memory rect[data-row='${n}']`).getBBox();"
        " return [tensor.offset, tensor.bytes, box.y, box.height]; })"
    )
    scale = boxes[-1][2] / boxes[-1][0]
    for offset, size, y, height in boxes:
        assert y == pytest.approx(offset * scale, abs=8)
        assert height == pytest.approx(max(1, size * scale), abs=1.5)
    widest = max(range(len(boxes)), key=lambda n: boxes[n][1])
    name = shown.value(f"page.byName.memory.tensors[{widest}].name")
    shown.point(f".memory rect[data-row='{widest}']")
    shown.wait("!document.getElementById('tip').hidden")
    assert shown.value("document.getElementById('tip').textContent").startswith(f"{name}: f32[")
    assert lit(shown, "source")
    assert "bytes for" in shown.value("document.querySelector('.memory .legend').textContent") or (
        "B for" in shown.value("document.querySelector('.memory .legend').textContent")
    )
    (folder / "memory.png").write_bytes(shown.picture())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(shown: Browser, folder: Path, scheme: str) -> None:
    """WCAG AA, 4.5 to 1, of every colour of a word on a line that is lit and on one that is not."""
    shown.scheme(scheme)
    shown.open(folder / "cpu.html", f"#L{DENSE}&show=source,gradients,kernels,llvm,asm,loops")
    ratios = shown.value(
        """(() => {
        const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
        const light = (color) => {
          // A pixel of it: the style may be in other terms than red, green and blue.
          canvas.fillStyle = color;
          canvas.fillRect(0, 0, 1, 1);
          const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255)
            .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const paper = getComputedStyle(document.querySelector('.pane')).backgroundColor;
        const found = {};
        for (const word of document.querySelectorAll('.row code, .row code span')) {
          const row = word.closest('.row'), color = getComputedStyle(word).color;
          const own = getComputedStyle(row).backgroundColor;
          const under = own === 'rgba(0, 0, 0, 0)' ? paper : own;
          const [a, b] = [light(color), light(under)].sort((x, y) => y - x);
          found[`${word.className} ${row.className}`] = (a + 0.05) / (b + 0.05);
        }
        return found; })()"""
    )
    assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}
    (folder / f"{scheme}.png").write_bytes(shown.picture())
    shown.scheme("light")


def test_of_a_long_text_only_what_is_in_view_is_in_the_document(
    shown: Browser, folder: Path
) -> None:
    shown.open(folder / "cpu.html", "#show=source,llvm")
    assert shown.value("page.byName.llvm.size") > 1000
    assert shown.value("document.querySelectorAll('.row').length") < 200
    shown.value("document.querySelector('.pane.llvm .scroll').scrollTop = 1e9")
    shown.wait("document.getElementById(`llvm-${page.byName.llvm.size - 1}`) !== null")


# --- from Python ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_shows_its_page_in_a_notebook(
    shown: Browser, tmp_path: Path, cpu: Explored
) -> None:
    page = nnc.loads(PROGRAM, name="small.nn").explore()
    page.save(tmp_path / "small.html")
    saved = (tmp_path / "small.html").read_text("utf-8")
    assert saved == page.html and Explored(saved).origins("asm") == cpu.origins("asm")
    with pytest.raises(nnc.UserError, match=r"small\.txt"):
        page.save(tmp_path / "small.txt")
    # In a frame of a page, as a notebook shows it.
    (tmp_path / "notebook.html").write_text(
        f"<!doctype html><body>{page._repr_html_()}<script>addEventListener('load', () =>"
        " { document.body.dataset.ready = 'yes'; });</script>"
    )
    shown.open(tmp_path / "notebook.html")
    shown.wait("frames[0]?.document.body.dataset.ready === 'yes'")
    shown.value("frames[0].page.hold(frames[0].page.byName.source, 8)")
    assert shown.value("frames[0].page.byName.asm.lit.length") > 0


def test_a_profile_needs_training() -> None:
    model = nnc.loads("model N(x: f32[4]) -> y: f32[4] { y[i] = 2 * x[i] }\n")
    assert "gradients" not in Explored(model.explore().html).panes
    with pytest.raises(nnc.UserError, match="train N"):
        model.explore(profile=True)


NASTY = """
\"\"\"</script><script>document.title = 'broken'</script><!-- {{data}} </noscript> &lt;\"\"\"
fn half(x) = x / 2  # </script> ü 𝒳

model N(x: f32[4]) -> y: f32[4] { y[i] = if x[i] < 1 then half(x[i]) else 2 }
"""


def test_what_a_program_says_is_shown_and_not_done(shown: Browser, tmp_path: Path) -> None:
    page = nnc.loads(NASTY, name="<b>.nn").explore()
    assert Explored(page.html).texts("source") == NASTY.splitlines()
    page.save(tmp_path / "nasty.html")
    shown.open(tmp_path / "nasty.html", "#L5")
    assert shown.value("document.title") == "N: nnc explore"
    assert lit(shown, "source") == [NASTY.splitlines()[4]]
    told = shown.value(
        "[...document.querySelectorAll('.pane.source code')].map(c => c.textContent)"
    )
    assert told[1:5] == [text or " " for text in NASTY.splitlines()[1:5]]
    assert "<b>.nn" in shown.value("document.getElementById('about').textContent")
