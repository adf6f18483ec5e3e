"""Small programs on the digits inside the package, for tests of the runtime."""

from __future__ import annotations

from pathlib import Path

from nnc.runtime import data
from nnc.runtime.assignments import Assignment
from nnc.runtime.device import DEVICES
from nnc.runtime.project import project_of_text
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.job import Job, prepare
from nnc.runtime.training.loop import train
from nnc.runtime.training.progress import Silent

DIGITS = """
model Small(image: f32[B, 8, 8, 1]) -> logits: f32[B, 10] {
    logits = image |> Flatten |> Dense(12) |> relu |> Dense(10)
}

train Small {
    data      = digits()
    loss      = cross_entropy(logits, label)
    metric      accuracy = accuracy(logits, label)
    optimizer = adam(lr = 1e-2)
    batch     = 100
    epochs    = 2
}
"""


# What a step may be made of: an average, dropout, a state of the model, a schedule, an index.
RICH = """
model Rich(image: f32[B, 8, 8, 1], kind: i32[B]) -> logits: f32[B, 10] {
    h = image |> Flatten |> Dense(12) |> BatchNorm |> relu |> Dropout(0.3)
    param table: [5, 12] ~ normal(0.1)
    mixed[b, n] = h[b, n] + table[kind[b], n]
    logits = mixed |> Dense(10)
}

train Rich {
    input kind: i32[B]
    input image: f32[B, 8, 8, 1]
    input label: i32[B]
    loss      = cross_entropy(logits, label)
    metric      accuracy = accuracy(logits, label)
    optimizer = adamw(lr = cosine(t, 1e-2, 100))
    average   = ema(0.9)
    batch     = 20
}
"""


def write(folder: Path, text: str = DIGITS, name: str = "small.nn") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def prepared(text: str = DIGITS, device: str = "cpu", threads: int = 1, **sets: str) -> Job:
    assignments = [Assignment(key.replace("__", "."), value) for key, value in sets.items()]
    project = project_of_text(text, "small.nn", None, assignments)
    choice = project.settings.data
    dataset = data.load(choice.source, dict(choice.named), data.Search(None, Path(), offline=True))
    return prepare(project, dataset, DEVICES[device](threads))


def trained(text: str = DIGITS, device: str = "cpu", threads: int = 1, **sets: str) -> Job:
    job = prepared(text, device, threads, **sets)
    job.reason = train(job, Silent(), never)
    return job
