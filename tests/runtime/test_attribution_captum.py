"""Attributions are those of Captum, on a convolutional network and a transformer with the same
weights."""

from __future__ import annotations

import numpy as np
import pytest

import nnc

torch = pytest.importorskip("torch", reason="attributions are compared with Captum, on PyTorch")
attr = pytest.importorskip("captum.attr", reason="attributions are compared with Captum")

CNN = """
model Net(image: f32[B, 10, 9, 2]) -> logits: f32[B, 4] {
    h = image |> Conv(5, 3) |> gelu
    logits = h |> Conv(6, 3, stride = 2) |> relu |> Flatten |> Dense(4)
}
train Net {
    input label: i32[B]
    loss      = cross_entropy(logits, label)
    optimizer = adam()
}
"""
TRANSFORMER = """
model Net(token: i32[B, 6]) -> logits: f32[B, 3] {
    param place: [6, 8] ~ normal
    words = (token |> Embedding(11, 8)) + place
    read = words |> TransformerBlock(2, 12)
    logits = read |> last |> Dense(3)
}
train Net {
    input label: i32[B]
    loss      = cross_entropy(logits, label)
    optimizer = adam()
}
"""
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


class Cnn(torch.nn.Module):
    def __init__(self, p):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(2, 5, 3), torch.nn.Conv2d(5, 6, 3, stride=2)
        self.dense = torch.nn.Linear(6 * 3 * 3, 4)
        with torch.no_grad():
            for layer, name in ((self.conv1, "conv1"), (self.conv2, "conv2")):
                layer.weight.copy_(torch.tensor(p[f"{name}.k"]).permute(3, 2, 0, 1))
                layer.bias.copy_(torch.tensor(p[f"{name}.b"]))
            self.dense.weight.copy_(torch.tensor(p["dense1.w"]).T)
            self.dense.bias.copy_(torch.tensor(p["dense1.b"]))

    def forward(self, image):
        h = torch.nn.functional.gelu(self.conv1(image))
        h = torch.relu(self.conv2(h))
        return self.dense(h.permute(0, 2, 3, 1).flatten(1))


class Turned(torch.nn.Module):
    """Channels before places, as Captum's Grad-CAM expects them."""

    def forward(self, x):
        return x.transpose(1, 2)


class Transformer(torch.nn.Module):
    def __init__(self, p):
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 8)
        self.block = torch.nn.TransformerEncoderLayer(
            8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.turned, self.dense = Turned(), torch.nn.Linear(8, 3)
        self.place = torch.nn.Parameter(torch.tensor(p["place"]))
        inner = "transformerblock1_"
        own = {n.removeprefix(inner): torch.tensor(a) for n, a in p.items() if n.startswith(inner)}
        weights = dict(self.block.state_dict())
        heads = [f"attention1_heads{n}" for n in (1, 2, 3)]
        weights["self_attn.in_proj_weight"] = torch.cat(
            [own[f"{h}_W"].reshape(8, 8).T for h in heads]
        )
        weights["self_attn.in_proj_bias"] = torch.cat([own[f"{h}_b"].reshape(8) for h in heads])
        weights["self_attn.out_proj.weight"] = own["attention1_join1_W"].reshape(8, 8).T
        weights["self_attn.out_proj.bias"] = own["attention1_join1_b"]
        for n in (1, 2):
            weights[f"norm{n}.weight"] = own[f"layernorm{n}_scale"]
            weights[f"norm{n}.bias"] = own[f"layernorm{n}_shift"]
            weights[f"linear{n}.weight"] = own[f"dense{n}_w"].T
            weights[f"linear{n}.bias"] = own[f"dense{n}_b"]
        self.block.load_state_dict(weights)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.tensor(p["embedding1.table"]))
            self.dense.weight.copy_(torch.tensor(p["dense1.w"]).T)
            self.dense.bias.copy_(torch.tensor(p["dense1.b"]))

    def forward(self, token):
        h = self.block(self.embedding(token) + self.place)
        return self.dense(self.turned(h).transpose(1, 2)[:, -1])


def first_channels(found):
    return found.detach().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def cnn():
    model = nnc.loads(CNN)
    model.init(np.zeros((1, 10, 9, 2), np.float32), seed=1)
    x = np.random.default_rng(0).normal(size=(2, 10, 9, 2)).astype(np.float32)
    return model, x, Cnn(model.parameters).eval(), torch.tensor(x).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def transformer():
    model = nnc.loads(TRANSFORMER)
    model.init(np.zeros((1, 6), np.int32), seed=1)
    rng = np.random.default_rng(0)
    model.parameters.update({n: a + rng.normal(scale=0.3, size=a.shape).astype(a.dtype)
                             for n, a in model.parameters.items()})  # fmt: skip
    token = rng.integers(1, 11, (2, 6)).astype(np.int32)
    return model, token, Transformer(model.parameters).eval(), torch.tensor(token)


def test_a_convolutional_networks_scores_are_the_same(cnn):
    model, x, net, t = cnn
    np.testing.assert_allclose(model.predict(x), net(t).detach().numpy(), **TOLERANCE)


@pytest.mark.parametrize(
    ("method", "theirs"),
    [("saliency", "Saliency"), ("input-x-gradient", "InputXGradient")],
)
def test_gradients(cnn, method, theirs):
    model, x, net, t = cnn
    expected = getattr(attr, theirs)(net).attribute(t.clone().requires_grad_(), target=2)
    found = model.attribute(x, method=method, of=2)
    np.testing.assert_allclose(found.values, first_channels(expected), **TOLERANCE)


def test_integrated_gradients(cnn):
    model, x, net, t = cnn
    base = np.random.default_rng(1).normal(size=x.shape[1:]).astype(np.float32)
    expected, delta = attr.IntegratedGradients(net).attribute(
        t, torch.tensor(base).permute(2, 0, 1)[None].expand_as(t), target=1, n_steps=64,
        method="riemann_middle", return_convergence_delta=True,
    )  # fmt: skip
    found = model.attribute(x, of=1, baseline=base)
    np.testing.assert_allclose(found.values, first_channels(expected), **TOLERANCE)
    gap = found.values.sum(axis=(1, 2, 3)) - (found.scores - found.baseline_scores)
    np.testing.assert_allclose(gap, delta.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("window", "stride"), [((3, 3), (2, 2)), ((4, 3), (3, 1)), ((2, 5), (2, 5))]
)
def test_occlusion(cnn, window, stride):
    model, x, net, t = cnn
    expected = attr.Occlusion(net).attribute(t, (2, *window), (2, *stride), baselines=0.5, target=3)
    found = model.attribute(x, method="occlusion", of=3, window=window, stride=stride, baseline=0.5)
    np.testing.assert_allclose(found.values, first_channels(expected), **TOLERANCE)


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_grad_cam(cnn, layer):
    model, x, net, t = cnn
    cam = attr.LayerGradCam(net, getattr(net, layer))
    expected = cam.attribute(t, target=0, relu_attributions=True)
    found = model.attribute(x, method="grad-cam", of=0, at=layer)
    np.testing.assert_allclose(found.values, expected[:, 0].detach().numpy(), **TOLERANCE)


def test_integrated_gradients_at_a_layer(cnn):
    model, x, net, t = cnn
    expected = attr.LayerIntegratedGradients(net, net.conv2).attribute(
        t, target=0, n_steps=20, method="riemann_middle"
    )
    found = model.attribute(x, of=0, at="conv2", steps=20, baseline=model.predict(
        np.zeros_like(x), tensor="conv2"))  # fmt: skip
    np.testing.assert_allclose(found.values, first_channels(expected), **TOLERANCE)


@pytest.mark.slow
def test_shapley_values(cnn):
    model, x, net, t = cnn
    features = (np.arange(90).reshape(10, 9, 1) * 5 // 90).repeat(2, axis=2)
    expected = attr.ShapleyValues(net).attribute(
        t, target=1, feature_mask=torch.tensor(features).permute(2, 0, 1)[None].contiguous()
    )
    found = model.attribute(x, method="shapley", of=1, features=features)
    np.testing.assert_allclose(found.values, first_channels(expected), **TOLERANCE)
    assert (found.gaps < 1e-5).all()


def test_a_transformers_scores_are_the_same(transformer):
    model, token, net, t = transformer
    np.testing.assert_allclose(model.predict(token), net(t).detach().numpy(), **TOLERANCE)


def test_integrated_gradients_of_tokens(transformer):
    model, token, net, t = transformer
    base = np.zeros_like(token)
    expected = attr.LayerIntegratedGradients(net, net.embedding).attribute(
        t, torch.tensor(base), target=1, n_steps=64, method="riemann_middle"
    )
    found = model.attribute(token, of=1, baseline=base)
    np.testing.assert_allclose(found.values, expected.sum(-1).detach().numpy(), **TOLERANCE)
    assert found.values.shape == (2, 6)


def test_gradients_of_tokens(transformer):
    model, token, net, t = transformer
    expected = attr.LayerGradientXActivation(net, net.embedding).attribute(t, target=2)
    found = model.attribute(token, method="input-x-gradient", of=2)
    np.testing.assert_allclose(found.values, expected.sum(-1).detach().numpy(), **TOLERANCE)


def of_vectors(net):
    """The network as a function of its embeddings."""
    return lambda vectors: net.dense(net.block(vectors + net.place)[:, -1])


def test_saliency_and_occlusion_of_vectors(transformer):
    model, token, net, t = transformer
    vectors = net.embedding(t).detach()
    expected = attr.Saliency(of_vectors(net)).attribute(vectors.requires_grad_(), target=0)
    found = model.attribute(token, method="saliency", of=0, at="embedding1")
    np.testing.assert_allclose(found.values, expected.detach().numpy(), **TOLERANCE)
    hidden = attr.Occlusion(of_vectors(net)).attribute(vectors, (2, 8), (1, 8), target=0)
    found = model.attribute(token, method="occlusion", of=0, window=2, stride=1, at="embedding1")
    np.testing.assert_allclose(found.values, hidden.detach().numpy(), **TOLERANCE)


def test_grad_cam_of_a_transformer(transformer):
    model, token, net, t = transformer
    expected = attr.LayerGradCam(net, net.turned).attribute(t, target=1, relu_attributions=True)
    found = model.attribute(token, method="grad-cam", of=1, at="transformerblock1")
    np.testing.assert_allclose(found.values, expected[:, 0].detach().numpy(), **TOLERANCE)
