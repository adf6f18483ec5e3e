"""Can one tell who was in the training data? A membership inference attack, with and without
`private = dp(…)`.

    python -m nnc.examples.membership

Half of 800 made-up records train a network; their classes are drawn, so that whatever it knows of
them it knows by heart. The attack guesses that a record took part if its loss is small (Yeom et al.
2018, arXiv:1709.01604). Its advantage is the share of members that it finds less that of others
that it takes for members, at the best threshold: 0 is guessing. With (epsilon, delta)-differential
privacy no attack's advantage is above (e^epsilon - 1 + 2*delta) / (e^epsilon + 1) on average.
"""

from __future__ import annotations

from math import exp

import numpy as np

import nnc

PROGRAM = """
model Net(x: f32[B, 16]) -> logits: f32[B, 2] {
    logits = x |> Dense(128) |> relu |> Dense(2)
}

train Net {
    input label: i32[B]
    loss      = cross_entropy(logits, label)
    optimizer = OPTIMIZER
    keep      = "last"
    batch     = 200
    epochs    = 60
}
"""
PLAIN = PROGRAM.replace("OPTIMIZER", "adam(lr = 1e-2)")
DELTA = 1e-4
DP = f"private   = dp(clip = 1.0, noise = 8.0, delta = {DELTA}, rate = 0.25)"
PRIVATE = PLAIN.replace('keep      = "last"', f'{DP}\n    keep      = "last"')


def losses(model: nnc.Model, x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The cross entropy of each record."""
    logits = np.asarray(model.predict(x), np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    return np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(x)), label]


def advantage(members: np.ndarray, others: np.ndarray) -> float:
    """The largest difference between the shares of members and of others below a threshold."""
    thresholds = np.sort(np.concatenate([members, others]))
    found, mistaken = (
        np.searchsorted(np.sort(own), thresholds, "right") / len(own) for own in (members, others)
    )
    return float((found - mistaken).max())


def attack(text: str, seed: int) -> tuple[float, float]:
    """The advantage of the attack on a network trained by a program, and the epsilon that the
    training spent; infinite if it was not private."""
    draws = np.random.default_rng(seed)
    x = draws.normal(size=(800, 16)).astype(np.float32)
    label = draws.integers(0, 2, 800).astype(np.int32)
    model = nnc.loads(text)
    history = model.fit(x=x[:400], label=label[:400], seed=seed, verbose=False)
    found = advantage(losses(model, x[:400], label[:400]), losses(model, x[400:], label[400:]))
    return found, history[-1].get("epsilon", float("inf"))


def main() -> None:
    for name, text in (("plain", PLAIN), ("private", PRIVATE)):
        runs = [attack(text, seed) for seed in range(3)]
        spent = runs[0][1]
        bound = (exp(spent) - 1 + 2 * DELTA) / (exp(spent) + 1) if spent < 700 else 1.0
        mean = np.mean([found for found, _ in runs])
        print(f"{name:<8} advantage {mean:.2f}, at most {bound:.2f} (epsilon {spent:.2f})")


if __name__ == "__main__":
    main()
