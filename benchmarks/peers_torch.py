"""The same models and products in PyTorch, as its users write them: eager, and compiled.

In: a workload and a file with data and nnc's first weights. Out: runners as in `nnc_side.py`.
"""

from __future__ import annotations

import timeit
from functools import partial
from pathlib import Path

import numpy as np
import torch
from products import CONVOLUTIONS
from torch import nn
from torch.nn import functional as F
from workloads import RATE, Workload, canonical


def runner(workload: Workload, path: Path, threads: int, compiled: bool):
    """A runner for the workload."""
    torch.set_num_threads(threads)
    arrays = dict(np.load(path))
    if workload.kind == "product":
        return ProductRunner(workload.model, arrays, compiled)
    make = TrainingRunner if workload.kind == "train" else PredictingRunner
    return make(net(workload, arrays), fields(arrays), compiled)


def net(workload: Workload, arrays: dict[str, np.ndarray]) -> nn.Module:
    """The workload's network with nnc's first weights."""
    given = [torch.from_numpy(w).clone() for w in canonical(workload.model, weights(arrays))]
    if workload.wide:
        from peers_torch_wide import wide_net

        return wide_net(workload, given)
    return NETS[workload.model](given)


def fields(arrays: dict[str, np.ndarray]) -> list[torch.Tensor]:
    """The data; the target is last, if there is one."""
    return [torch.from_numpy(a) for n, a in arrays.items() if not n.startswith("weight")]


def weights(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """nnc's parameters in the order of their declaration."""
    return [arrays[name] for name in sorted(arrays) if name.startswith("weight")]


class TrainingRunner:
    """Cross entropy (of classes, or of probabilities) and Adam."""

    def __init__(self, net: nn.Module, fields: list[torch.Tensor], compiled: bool):
        self.net, (*self.x, target) = net, fields
        self.target = target if target.is_floating_point() else target.long().reshape(-1)
        self.first = {k: v.clone() for k, v in net.state_dict().items()}
        self.forward = torch.compile(self.compute) if compiled else self.compute
        self.reset()

    def compute(self) -> torch.Tensor:
        logits = self.net(*self.x)
        if self.target.is_floating_point():
            return F.binary_cross_entropy_with_logits(logits, self.target)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), self.target)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.last = self.forward()
        self.last.backward()
        self.optimizer.step()

    def loss(self) -> float:
        return self.last.item()

    def reset(self) -> None:
        self.net.load_state_dict(self.first)
        learnt = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learnt, lr=RATE, fused=True)


class PredictingRunner:
    """The model's result."""

    def __init__(self, net: nn.Module, fields: list[torch.Tensor], compiled: bool):
        net.eval()
        self.x = fields
        self.net = torch.compile(net) if compiled else net

    @torch.inference_mode()
    def step(self) -> None:
        self.last = self.net(*self.x)

    def loss(self) -> float:
        return self.last.abs().mean().item()

    def reset(self) -> None:
        """Nothing changes."""


# --- models ---------------------------------------------------------------------------------------


def linear(w: torch.Tensor, b: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(*w.shape)
    layer.weight.data, layer.bias.data = w.t().contiguous(), b
    return layer


def mlp(given: list[torch.Tensor]) -> nn.Module:
    w1, b1, w2, b2, w3, b3 = given
    return nn.Sequential(linear(w1, b1), nn.ReLU(), linear(w2, b2), nn.ReLU(), linear(w3, b3))


class Cnn(nn.Module):
    """The data comes as [batch, height, width, channels]; all is kept in that order."""

    def __init__(self, given: list[torch.Tensor]):
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(3):
            k, b = given[2 * number : 2 * number + 2]
            conv = nn.Conv2d(k.shape[2], k.shape[3], 3)
            conv.weight.data = k.permute(3, 2, 0, 1).contiguous()
            conv.bias.data = b
            layers += [conv, nn.ReLU()] + [nn.MaxPool2d(2)] * (number < 2)
        self.features = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.head = nn.Sequential(linear(*given[6:8]), nn.ReLU(), linear(*given[8:]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.features(image.permute(0, 3, 1, 2))
        return self.head(x.permute(0, 2, 3, 1).flatten(1))


class Recurrent(nn.Module):
    """Embedding, RNN or LSTM, head."""

    def __init__(self, kind: type[nn.RNNBase], given: list[torch.Tensor]):
        super().__init__()
        table, w, u, b, head_w, head_b = given
        self.embedding = nn.Embedding.from_pretrained(table, freeze=False)
        self.cell = kind(w.shape[0], u.shape[0], batch_first=True)
        self.cell.weight_ih_l0.data = w.t().contiguous()
        self.cell.weight_hh_l0.data = u.t().contiguous()
        self.cell.bias_ih_l0.data = b
        self.cell.bias_hh_l0.data = torch.zeros_like(b)
        self.cell.bias_hh_l0.requires_grad_(False)  # there is one bias
        self.head = linear(head_w, head_b)

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(self.embedding(token))[0])


def norm(scale: torch.Tensor, shift: torch.Tensor) -> nn.LayerNorm:
    layer = nn.LayerNorm(len(scale))
    layer.weight.data, layer.bias.data = scale, shift
    return layer


class Block(nn.Module):
    def __init__(self, given: list[torch.Tensor], heads: int, causal: bool = True):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.qkv = norm(*given[:2]), linear(*given[2:4])
        self.join, self.norm2 = linear(*given[4:6]), norm(*given[6:8])
        self.up, self.down = linear(*given[8:10]), linear(*given[10:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(), is_causal=self.causal)
        x = x + self.join(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self, given: list[torch.Tensor], heads: int = 4):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(given[0], freeze=False)
        self.places = nn.Parameter(given[1])
        blocks = range(2, len(given) - 4, 12)
        self.blocks = nn.Sequential(*(Block(given[n : n + 12], heads) for n in blocks))
        self.norm, self.head = norm(*given[-4:-2]), linear(*given[-2:])

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        x = self.table(token) + self.places[: token.shape[1]]
        return self.head(self.norm(self.blocks(x)))


NETS = {
    "mlp": mlp,
    "cnn": Cnn,
    "rnn": lambda given: Recurrent(nn.RNN, given),
    "lstm": lambda given: Recurrent(nn.LSTM, given),
    "gpt": Gpt,
    "gpt2": lambda given: Gpt(given, 12),
}


# --- products -------------------------------------------------------------------------------------


def conv(a: torch.Tensor, b: torch.Tensor, pad: int = 0) -> torch.Tensor:
    return F.conv2d(a, b, padding=pad)


def conv_data(a: torch.Tensor, b: torch.Tensor, pad: int = 0) -> torch.Tensor:
    sides = (n + b.shape[2] - 1 - 2 * pad for n in a.shape[2:])
    return torch.nn.grad.conv2d_input((len(a), b.shape[1], *sides), b, a, padding=pad)


def conv_weight(a: torch.Tensor, b: torch.Tensor, pad: int = 0) -> torch.Tensor:
    side = a.shape[2] - b.shape[2] + 1 + 2 * pad
    shape = (b.shape[1], a.shape[1], side, side)
    return torch.nn.grad.conv2d_weight(a, shape, b, padding=pad)


OPERATIONS = {
    "square1024": lambda a, b: a @ b,
    "mlp_forward": lambda a, b: a @ b,
    "mlp_data": lambda a, b: a @ b.t(),
    "mlp_weight": lambda a, b: a.t() @ b,
    "mlp_scores": lambda a, b: a @ b,
    "cnn_forward": conv,
    "cnn_data": conv_data,
    "cnn_weight": conv_weight,
    "cnn_first": conv,
}


ROLES = {"forward": conv, "data": conv_data, "weight": conv_weight}


class ProductRunner:
    """One product by the library that PyTorch calls (MKL or oneDNN). Of a convolution that keeps
    the size of its images, with channels first or last in memory, whichever is faster."""

    def __init__(self, name: str, arrays: dict[str, np.ndarray], compiled: bool):
        self.a, self.b = (torch.from_numpy(arrays[n]) for n in "ab")
        role = name.rpartition("_")[2]
        if name.startswith("c"):
            self.a = self.a.permute(0, 3, 1, 2)  # keeps its order in memory: channels last
            places = (0, 3, 1, 2) if role == "weight" else (3, 2, 0, 1)
            self.b = self.b.permute(*places).contiguous(memory_format=torch.channels_last)
        operation = OPERATIONS.get(name) or partial(ROLES[role], pad=int("_3x3_" in name))
        self.operation = torch.compile(operation) if compiled else operation
        if name in CONVOLUTIONS:
            self.choose_layout()

    def choose_layout(self) -> None:
        layouts = [(self.a, self.b), (self.a.contiguous(), self.b.contiguous())]
        times = []
        for self.a, self.b in layouts:
            self.step()
            times.append(min(timeit.repeat(self.step, number=1, repeat=10)))
        self.a, self.b = layouts[times.index(min(times))]

    @torch.inference_mode()
    def step(self) -> None:
        self.last = self.operation(self.a, self.b)

    def loss(self) -> float:
        return self.last.abs().mean().item()

    def reset(self) -> None:
        """Nothing changes."""
