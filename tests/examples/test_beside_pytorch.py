"""Examples whose losses are not those of a plain network, as they are in their files, beside
PyTorch: the loss and the gradient of every parameter in double precision, for random parameters and
data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnc.compiler.pipeline import derive
from nnc.compiler.programs import step_with_gradients
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.assignments import Assignment
from nnc.runtime.data import Search
from nnc.runtime.project import open_project, planned_setup

torch = pytest.importorskip("torch", reason="PyTorch is the second opinion here")
F = torch.nn.functional

FOLDER = Path(__file__).parents[2] / "examples"
BATCH = 4
Tensors = Mapping[str, Any]


def dense(p: Tensors, name: str, x):
    return x @ p[f"{name}_w"] + p[f"{name}_b"]


def conv(p: Tensors, name: str, x):
    """A convolution of images [b, c, h, w] that keeps their size."""
    return F.conv2d(x, p[f"{name}_k"].permute(3, 2, 0, 1), p[f"{name}_b"], padding="same")


def flat(x):
    """[b, c, h, w] as rows in the order of [b, h, w, c]."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1)


def features(p: Tensors, stem: str, image):
    """Two convolutions, pooling and a dense layer."""
    x = F.relu(conv(p, f"{stem}conv1", image.permute(0, 3, 1, 2)))
    x = F.max_pool2d(F.relu(conv(p, f"{stem}conv2", x)), 2)
    return F.relu(dense(p, f"{stem}dense1", flat(x)))


def siamese(p: Tensors):
    u, v = (
        dense(p, "encode_dense2", features(p, "encode_", image))
        for image in (p["image"], p["image"].roll(-1, 0))
    )
    same = p["label"] == p["label"].roll(-1, 0)
    distance = ((u - v) ** 2).sum(1).add(1e-6).sqrt()
    return torch.where(same, distance**2, (1 - distance).clamp(min=0) ** 2).mean()


def finetuned(p: Tensors):
    return F.cross_entropy(dense(p, "dense2", features(p, "", p["image"])), (p["label"] % 2).long())


def vae(p: Tensors):
    """The cloud, a point of it, the picture; the noise is that which the example has drawn."""
    pixels = p["image"].reshape(BATCH, 64)
    h = F.relu(dense(p, "encoder1_dense1", pixels) + p["encoder1_embedding1_table"][p["label"]])
    cloud = torch.distributions.Normal(
        dense(p, "encoder1_dense2", h), dense(p, "encoder1_dense3", h).exp()
    )
    code = cloud.mean + cloud.stddev * p["decoder1_noise"]
    h = F.relu(dense(p, "decoder1_dense1", code) + p["decoder1_embedding1_table"][p["label"]])
    picture = dense(p, "decoder1_dense2", h).sigmoid()
    prior = torch.distributions.Normal(*torch.tensor([0.0, 1.0]).double())
    divergence = torch.distributions.kl_divergence(cloud, prior).sum(1)
    off = torch.distributions.Normal(*torch.tensor([0.0, 0.2], dtype=torch.float64))
    unlikely = off.log_prob(torch.zeros(64).double()) - off.log_prob(picture - pixels)
    return unlikely.sum(1).mean() + divergence.mean()


def heat(p: Tensors):
    place, time = (p["x"][:, k].clone().requires_grad_() for k in (0, 1))
    h = torch.stack([place, time], 1)
    for name in ("dense1", "dense2"):
        h = dense(p, name, h).tanh()
    free = dense(p, "dense3", h)[:, 0]
    temperature = (torch.pi * place).sin() + place * (1 - place) * time * free

    def slope(y, x):
        return torch.autograd.grad(y.sum(), x, create_graph=True)[0]

    return ((slope(temperature, time) - 0.1 * slope(slope(temperature, place), place)) ** 2).mean()


def maml(p: Tensors):
    """A step of gradient descent on the points that the example has drawn, measured on others."""
    names = ("w1", "b1", "w2", "b2", "w3")

    def error(w, points):
        h = F.relu(w["w1"][:, None] * points[..., None] + w["b1"][:, None])
        h = F.relu(torch.einsum("tnh,thg->tng", h, w["w2"]) + w["b2"][:, None])
        wave = p["x"][:, :1] * (points - p["x"][:, 1:]).sin()
        return ((torch.einsum("tng,tg->tn", h, w["w3"]) - wave) ** 2).mean(1)

    start = {n: p[n].expand(BATCH, *p[n].shape) for n in names}
    slopes = torch.autograd.grad(
        error(start, p["seen"]).sum(), list(start.values()), create_graph=True
    )
    after = {n: w - 0.01 * g for (n, w), g in zip(start.items(), slopes, strict=True)}
    return error(after, p["new"]).mean()


@dataclass(frozen=True)
class Beside:
    """The loss by PyTorch of parameters and inputs by name; `drawn` are tensors that the example
    draws, which it is given; `frozen` parameters have no gradient."""

    loss: Callable[[Tensors], Any]
    drawn: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()


EXAMPLES = {
    "siamese_digits": Beside(siamese),
    "finetuned_digits": Beside(finetuned, frozen=("conv1_k", "conv1_b", "conv2_k", "conv2_b")),
    "vae_digits": Beside(vae, drawn=("decoder1_noise",)),
    "heat_equation": Beside(heat),
    "maml_sinusoid": Beside(maml, drawn=("seen", "new")),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_values_and_gradients_are_those_of_pytorch(name: str) -> None:
    beside, path = EXAMPLES[name], FOLDER / f"{name}.nn"
    project = open_project(path, [Assignment("float", "f64")])
    setup = planned_setup(project, Search(None, FOLDER, offline=True))
    step, _, gradients = step_with_gradients(replace(setup, batch=BATCH))
    step = derive(step.replace(outputs=(*step.outputs, *beside.drawn)))
    generator = np.random.default_rng(1)
    given = {
        t.name: generator.normal(size=t.shape) / 3
        if t.dtype == "f64"
        else generator.integers(0, 10, t.shape).astype(np.int32)
        for t in step.tensors.values()
        if t.kind != "temp" and t.name not in ("step", "seed")
    }
    # Two of the same digit, and two of different ones.
    given |= {n: np.array([3, 3, 5, 8], np.int32) for n in ("label",) if n in given}
    scalars = {"step": np.int32(1), "seed": np.int32(5)}
    found = evaluate(step, {**given, **{n: v for n, v in scalars.items() if n in step.tensors}})
    p = {n: torch.tensor(v) for n, v in given.items()} | {
        n: torch.tensor(found[n]) for n in beside.drawn
    }
    parameters = [t.name for t in step.of_kind("param") if t.name not in beside.frozen]
    assert set(gradients) == set(parameters)
    for parameter in parameters:
        p[parameter].requires_grad_()
    expected = beside.loss(p)
    np.testing.assert_allclose(found["loss"], expected.item(), rtol=1e-10)
    slopes = torch.autograd.grad(expected, [p[n] for n in parameters], allow_unused=True)
    for parameter, slope in zip(parameters, slopes, strict=True):
        right = np.zeros(given[parameter].shape) if slope is None else slope.numpy()
        difference = np.abs(found[gradients[parameter]] - right).max()
        assert difference <= 1e-10 * max(np.abs(right).max(), 1e-3), parameter
