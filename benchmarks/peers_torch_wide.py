"""The networks of `wide/` in PyTorch, as its users write them.

In: a workload, nnc's first weights in the order of their declaration. Out: a module and its loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from peers_torch import Block, Gpt, linear, norm
from torch import Tensor, nn
from torch.nn import functional as F
from workloads import Workload

Weights = Iterator[Tensor]


def wide_net(workload: Workload, given: list[Tensor]) -> nn.Module:
    """The network, with these weights."""
    weights = iter(given)
    net = NETS[workload.model.removeprefix("wide/")](weights, workload.dropout)
    if next(weights, None) is not None:
        raise ValueError(f"{workload.model} has more weights than PyTorch's network takes")
    return net


# --- layers ---------------------------------------------------------------------------------------


def dense(weights: Weights) -> nn.Linear:
    return linear(next(weights), next(weights))


def embedding(weights: Weights) -> nn.Embedding:
    return nn.Embedding.from_pretrained(next(weights), freeze=False)


def convolution(weights: Weights, stride: int = 1, pad: int = 0, groups: int = 1) -> nn.Conv2d:
    k, b = next(weights), next(weights)  # [height, width, in, out]
    height, width, inputs, filters = k.shape
    layer = nn.Conv2d(inputs * groups, filters, (height, width), stride, pad, groups=groups)
    layer.weight.data, layer.bias.data = k.permute(3, 2, 0, 1).contiguous(), b
    return layer


def batch_norm(weights: Weights, kind: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    scale, shift = next(weights), next(weights)
    layer = kind(len(scale))
    layer.weight.data, layer.bias.data = scale, shift
    return layer


def layer_norm(weights: Weights) -> nn.LayerNorm:
    return norm(next(weights), next(weights))


def attention(weights: Weights) -> list[Tensor]:
    """Queries, keys and values as one matrix [in, 3*out] and bias; the matrix and bias after."""
    matrices, biases = zip(*((next(weights), next(weights)) for _ in range(3)), strict=True)
    width = len(matrices[0])
    joined = torch.cat([w.reshape(width, -1) for w in matrices], 1)
    return [
        joined,
        torch.cat([b.reshape(-1) for b in biases]),
        next(weights).reshape(-1, width),
        next(weights),
    ]


def pre_norm_block(weights: Weights, heads: int, causal: bool) -> Block:
    first = [next(weights), next(weights)]
    middle = attention(weights)
    return Block([*first, *middle, *(next(weights) for _ in range(6))], heads, causal)


class Images(nn.Module):
    """Images come as [batch, height, width, channels]; all is kept in that order in memory."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image.permute(0, 3, 1, 2))


class Sum(nn.Module):
    """f(x) + s(x), or f(x) + x."""

    def __init__(self, f: nn.Module, s: nn.Module | None = None, relu: bool = False):
        super().__init__()
        self.f, self.s, self.relu = f, s or nn.Identity(), relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.f(x) + self.s(x)
        return F.relu(y) if self.relu else y


def pooled(weights: Weights) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense(weights)]


# --- networks -------------------------------------------------------------------------------------


def bnmlp(weights: Weights, dropout: float) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [dense(weights), batch_norm(weights, nn.BatchNorm1d), nn.ReLU()]
        layers += [nn.Dropout(dropout)]
    return nn.Sequential(*layers, dense(weights))


class EncoderBlock(nn.Module):
    """Attention to the steps before the length, then two dense layers; norm after each sum."""

    def __init__(self, weights: Weights, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        qkv, qkv_bias, join, join_bias = attention(weights)
        self.qkv, self.join = linear(qkv, qkv_bias), linear(join, join_bias)
        self.norm1 = layer_norm(weights)
        self.up, self.down, self.norm2 = dense(weights), dense(weights), layer_norm(weights)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, t, d = x.shape
        qkv = self.qkv(x).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(), attn_mask=mask[:, None, None])
        x = self.norm1(x + self.drop(self.join(y.transpose(1, 2).reshape(b, t, d))))
        return self.norm2(x + self.drop(self.down(F.relu(self.up(x)))))


class Encoder(nn.Module):
    def __init__(self, weights: Weights, dropout: float):
        super().__init__()
        self.table, self.places = embedding(weights), nn.Parameter(next(weights))
        self.blocks = nn.ModuleList(EncoderBlock(weights, 8, dropout) for _ in range(4))
        self.head = dense(weights)

    def forward(self, token: Tensor, length: Tensor) -> Tensor:
        x = self.table(token) + self.places
        mask = torch.arange(token.shape[1]) < length[:, None]
        for block in self.blocks:
            x = block(x, mask)
        return self.head((x * mask[..., None]).sum(1) / length[:, None].clamp(min=1))


def gpt384(weights: Weights, dropout: float) -> nn.Module:
    return Gpt(list(weights), heads=6)


class Gru(nn.Module):
    def __init__(self, weights: Weights, dropout: float):
        super().__init__()
        self.table = embedding(weights)
        w, u, b, c = (next(weights) for _ in range(4))  # [in, 3, units] twice, [3, units], [units]
        self.cell = nn.GRU(len(w), len(u), batch_first=True)
        self.cell.weight_ih_l0.data = w.flatten(1).t().contiguous()
        self.cell.weight_hh_l0.data = u.flatten(1).t().contiguous()
        self.cell.bias_ih_l0.data = b.flatten()
        # the only bias inside the product with the reset gate is that of the candidate
        inner = torch.zeros_like(b)
        inner[2] = c
        self.cell.bias_hh_l0.data = inner.flatten()
        kept = (torch.arange(inner.numel()) >= 2 * len(c)).float()
        self.cell.bias_hh_l0.register_hook(lambda gradient: gradient * kept)
        self.head = dense(weights)

    def forward(self, token: Tensor) -> Tensor:
        return self.head(self.cell(self.table(token))[0])


def inverted(weights: Weights, channels: int, stride: int = 1) -> nn.Module:
    """MobileNet's block: wider by a 1x1, depthwise 3x3, narrower by a 1x1."""
    wide = 4 * channels
    up = [convolution(weights), batch_norm(weights), nn.ReLU()]
    along = [convolution(weights, stride, 1, groups=wide), batch_norm(weights), nn.ReLU()]
    return nn.Sequential(*up, *along, convolution(weights), batch_norm(weights))


def mobile(weights: Weights, dropout: float) -> nn.Module:
    layers: list[nn.Module] = [convolution(weights, 2, 1), batch_norm(weights), nn.ReLU()]
    # channels before, stride, and whether the input is added
    for channels, stride, keep in (
        (16, 1, False), (24, 1, True), (24, 2, False), (40, 1, True), (40, 1, True),
        (40, 2, False), (80, 1, True), (80, 1, True),
    ):  # fmt: skip
        block = inverted(weights, channels, stride)
        layers.append(Sum(block) if keep else block)
    layers += [convolution(weights), batch_norm(weights), nn.ReLU()]
    return Images(*layers, *pooled(weights))


class TwoTowers(nn.Module):
    def __init__(self, weights: Weights, dropout: float):
        super().__init__()
        self.user, self.item = (
            nn.Sequential(embedding(weights), dense(weights), nn.ReLU(), dense(weights))
            for _ in range(2)
        )

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.user(user) @ self.item(item).t()


def residual(weights: Weights, stride: int = 1, changed: bool = False) -> nn.Module:
    """ResNet's block; `changed` when the shape is, so that the input takes a convolution too."""
    f = nn.Sequential(
        convolution(weights, stride, 1),
        batch_norm(weights),
        nn.ReLU(),
        convolution(weights, 1, 1),
        batch_norm(weights),
    )
    s = nn.Sequential(convolution(weights, stride), batch_norm(weights)) if changed else None
    return Sum(f, s, relu=True)


def resnet(weights: Weights, dropout: float) -> nn.Module:
    layers: list[nn.Module] = [convolution(weights, 1, 1), batch_norm(weights), nn.ReLU()]
    layers += [residual(weights), residual(weights)]
    for _ in range(3):
        layers += [residual(weights, 2, changed=True), residual(weights)]
    return Images(*layers, *pooled(weights))


class Unet(nn.Module):
    def __init__(self, weights: Weights, dropout: float):
        super().__init__()
        self.down = nn.ModuleList(self.twice(weights) for _ in range(4))
        ups, self.joined = nn.ModuleList(), nn.ModuleList()
        for _ in range(3):
            k, b = next(weights), next(weights)  # [height, width, in, out]
            up = nn.ConvTranspose2d(k.shape[2], k.shape[3], 2, 2)
            up.weight.data, up.bias.data = k.permute(2, 3, 0, 1).contiguous(), b
            ups.append(up)
            self.joined.append(self.twice(weights))
        self.ups, self.last = ups, convolution(weights)
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def twice(weights: Weights) -> nn.Module:
        first = convolution(weights, 1, 1)
        return nn.Sequential(first, nn.ReLU(), convolution(weights, 1, 1), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        x, kept = image.permute(0, 3, 1, 2), []
        for number, layer in enumerate(self.down):
            x = layer(F.max_pool2d(x, 2) if number else x)
            kept.append(x)
        for up, joined, skip in zip(self.ups, self.joined, kept[-2::-1], strict=True):
            x = joined(torch.cat([up(x), skip], 1))
        return self.last(x).permute(0, 2, 3, 1)


class Vit(nn.Module):
    def __init__(self, weights: Weights, dropout: float):
        super().__init__()
        self.patches = convolution(weights, 4).to(memory_format=torch.channels_last)
        self.places = nn.Parameter(next(weights))
        self.blocks = nn.Sequential(*(pre_norm_block(weights, 3, False) for _ in range(6)))
        self.norm, self.head = layer_norm(weights), dense(weights)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
        return self.head(self.norm(self.blocks(x + self.places)).mean(1))


class Gate(nn.Module):
    """WaveNet's block: two causal convolutions, one the gate of the other."""

    def __init__(self, weights: Weights, dilation: int):
        super().__init__()
        self.f, self.g, self.out = (
            conv1d(weights, dilation),
            conv1d(weights, dilation),
            conv1d(weights),
        )
        self.pad = dilation

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x, (self.pad, 0))
        return x + self.out(torch.tanh(self.f(before)) * torch.sigmoid(self.g(before)))


def conv1d(weights: Weights, dilation: int = 1) -> nn.Conv1d:
    k, b = next(weights), next(weights)  # [taps, in, out]
    layer = nn.Conv1d(k.shape[1], k.shape[2], len(k), dilation=dilation)
    layer.weight.data, layer.bias.data = k.permute(2, 1, 0).contiguous(), b
    return layer


class Wavenet(nn.Module):
    def __init__(self, weights: Weights, dropout: float):
        super().__init__()
        self.table = embedding(weights)
        self.gates = nn.Sequential(*(Gate(weights, 2**n) for n in range(8)))
        self.last = conv1d(weights)

    def forward(self, sample: Tensor) -> Tensor:
        x = self.gates(self.table(sample).transpose(1, 2))
        return self.last(F.relu(x)).transpose(1, 2)


NETS: dict[str, Callable[[Weights, float], nn.Module]] = {
    "bnmlp": bnmlp,
    "encoder": Encoder,
    "gpt384": gpt384,
    "gru": Gru,
    "mobile": mobile,
    "recsys": TwoTowers,
    "resnet": resnet,
    "unet": Unet,
    "vit": Vit,
    "wavenet": Wavenet,
}
