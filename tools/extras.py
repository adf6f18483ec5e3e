"""Install every extra of pyproject.toml alone, and use what it is for: `python tools/extras.py`.

Each extra gets a fresh virtual environment, in which `pip install '.[EXTRA]'` must be enough for
its feature; another one has no extra, must not import any of their packages, and says how much disk
it takes. It needs a package registry and some minutes. `cuda` is only resolved, since its wheels
need no GPU to be installed but one to be used.

    python tools/extras.py             # all
    python tools/extras.py images lsp  # some; `core` is none
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = "from nnc.runtime.cli import run\n"
TRAIN = RUN + "assert run(['train', 'line.nn', '--epochs', '2', '--out', 'run'{}]) == 0\n"
LINE = """model Line(x: f32[B, 1]) -> found: f32[B] {
    param w: [1] = 0
    found[b] = sum(i) w[i] * x[b, i]
}

train Line {
    data      = csv("line.csv", target = "z")
    loss      = mse(found, y)
    optimizer = sgd(lr = 0.1)
}
"""
TABLE = "x,z\n" + "".join(f"{n / 10},{n / 5}\n" for n in range(10))

# What must work with an extra alone, as a program that is run beside line.nn and line.csv.
USES = {
    "core": TRAIN.format("") + """
assert run(['predict', 'run', 'line.csv']) == 0
heavy = ('PIL', 'tokenizers', 'matplotlib', 'plotext', 'sklearn', 'tensorboardX', 'trackio',
         'pygls')
assert not [name for name in heavy if name in sys.modules]
""",
    "images": """
from PIL import Image
import pathlib, nnc
for kind in ('a', 'b'):
    pathlib.Path('pictures', kind).mkdir(parents=True)
    for n in range(4):
        Image.new('RGB', (9, 7), (40 * n, 99, 9)).save(f'pictures/{kind}/{n}.png')
m = nnc.loads('''model M(image: f32[B, 4, 4, 3]) -> logits: f32[B, 2] {
    logits = image |> Flatten |> Dense(2)
}

train M {
    data      = images("pictures", size = [4, 4])
    loss      = cross_entropy(logits, label)
    optimizer = sgd(lr = 0.1)
}
''')
m.fit(epochs=1)
assert m.predict('pictures/a/0.png').shape == (1, 2)
""",
    "bpe": """
import pathlib, nnc
pathlib.Path('some.txt').write_text('the cat and the dog and the cat ' * 40)
m = nnc.loads('''model M(token: i32[B, T]) -> logits: f32[B, T, 300] {
    logits = token |> Embedding(300, 8) |> Dense(300)
}

train M {
    data      = text("some.txt", vocabulary = "bpe", length = 8, size = 270)
    loss      = cross_entropy(logits, target)
    optimizer = sgd(lr = 0.1)
}
''')
m.fit(epochs=1)
""",
    "audio": """
import pathlib, numpy as np, soundfile, nnc
t = np.arange(8000) / 16000
for kind, pitch in (('low', 200), ('high', 900)):
    pathlib.Path('sounds', kind).mkdir(parents=True)
    for n in range(4):
        soundfile.write(f'sounds/{kind}/{n}.flac', np.sin(6.28 * pitch * t), 16000)
m = nnc.loads('''model M(frames: f32[B, T, 16], length: i32[B]) -> logits: f32[B, 2] {
    logits = frames |> mean_pool(length) |> Dense(2)
}

train M {
    data      = wav("sounds", pattern = "{kind}/{take}.flac", label = "kind", mels = 16)
    loss      = cross_entropy(logits, label)
    optimizer = sgd(lr = 0.1)
}
''')
m.fit(epochs=1)
""",
    "arrow": """
import nnc, pyarrow as pa, pyarrow.parquet as pq
table = pa.table({'x': [n / 10 for n in range(10)], 'z': [n / 5 for n in range(10)]})
pq.write_table(table, 'line.parquet')
text = open('line.nn').read().replace('csv("line.csv"', 'parquet("line.parquet"')
m = nnc.loads(text)
m.fit(epochs=1)
assert m.predict(table.select(['x'])).shape == (10,)
""",
    "plot": TRAIN.format("") + """
assert run(['plot', 'run']) == 0
for name in ('c.png', 'c.svg', 'c.html'):
    assert run(['plot', 'run', '--output', name]) == 0
""",
    "sklearn": """
import numpy as np
from nnc.sklearn import Classifier, Regressor
x = np.random.default_rng(0).normal(size=(60, 3))
assert Classifier(epochs=20, random_state=0).fit(x, x[:, 0] > 0).score(x, x[:, 0] > 0) > 0.8
assert Regressor(epochs=2).fit(x, x[:, 1]).predict(x).shape == (60,)
""",
    "tensorboard": TRAIN.format(", '--tensorboard', 'board'") + """
import pathlib
assert list(pathlib.Path('board').rglob('events*'))
""",
    "trackio": TRAIN.format(", '--track', 'project'"),
    "link": RUN + """
for kind, name, first in (('dll', 'line.dll', b'MZ'), ('dylib', 'libline.dylib', b'\\xcf\\xfa')):
    assert run(['export', 'line.nn', '--to', kind, '--as', kind]) == 0
    assert open(kind + '/' + name, 'rb').read(2) == first
""",
    "lsp": """
import subprocess, json
first = {'jsonrpc': '2.0', 'id': 1, 'method': 'initialize',
         'params': {'processId': None, 'rootUri': None, 'capabilities': {}}}
last = [{'jsonrpc': '2.0', 'id': 2, 'method': 'shutdown'}, {'jsonrpc': '2.0', 'method': 'exit'}]
sent = b''.join(b'Content-Length: %d\\r\\n\\r\\n%s' % (len(t), t) for t in
                (json.dumps(m).encode() for m in [first, *last]))
server = [sys.executable, '-m', 'nnc.runtime.language_server.main']
done = subprocess.run(server, input=sent, capture_output=True, timeout=60)
assert b'hoverProvider' in done.stdout, done.stderr.decode()[-2000:]
""",
}  # fmt: skip
# They are sets of other extras and of tools, for those who work on nnc.
FOR_DEVELOPERS = {"test", "cuda-tests", "python-tests", "dev", "docs", "bench"}
RESOLVED = {"cuda"}


def extras() -> set[str]:
    """The extras that users install. SystemExit if one is not tried here."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = set(tomllib.loads(text)["project"]["optional-dependencies"]) - FOR_DEVELOPERS
    untried = listed - set(USES) - RESOLVED
    if untried:
        raise SystemExit(f"tools/extras.py does not try {', '.join(sorted(untried))}")
    return listed


def try_out(extra: str, wheel: Path, folder: Path) -> str:
    """Installs an extra in an environment of its own and uses it; a line about it."""
    where = folder / extra
    venv.create(where / "venv", with_pip=False)
    python = where / "venv" / "bin" / "python"
    target = f"nnc-lang[{extra}] @ {wheel.as_uri()}" if extra != "core" else str(wheel)
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    dry = ["--dry-run"] if extra in RESOLVED else []
    # Byte code counts for the size, which is that of the core alone.
    compiled = [] if extra == "core" else ["--no-compile"]
    _call([*install, *dry, *compiled, target], where)
    if dry:
        return f"{extra}: resolved"
    (where / "line.nn").write_text(LINE)
    (where / "line.csv").write_text(TABLE)
    (where / "use.py").write_text("import sys\n" + USES[extra])
    _call([str(python), "use.py"], where)
    size = sum(p.stat().st_size for p in (where / "venv" / "lib").rglob("*") if p.is_file())
    return f"{extra}: works, {size / 1e6:.0f} MB of packages"


def _call(command: list[str], folder: Path) -> None:
    """Runs a command in a folder, with none of the packages of this process."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    own = {**kept, "NNC_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def main(names: list[str]) -> None:
    chosen = names or ["core", *sorted(extras())]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", name]
        _call([*build, str(ROOT)], folder)
        (wheel,) = folder.glob("*.whl")
        for extra in chosen:
            print(try_out(extra, wheel, folder), flush=True)


if __name__ == "__main__":
    extras()
    main(sys.argv[1:])
