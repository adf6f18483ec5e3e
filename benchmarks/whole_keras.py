"""The convolutional network of `examples/cnn_mnist.nn` in Keras, as its tutorial writes it.

In: a folder with MNIST's four files, or one that has it as `mnist`. Out: loss and accuracy.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers


def read(folder: Path, name: str, header: int) -> np.ndarray:
    """The bytes after an IDX file's header."""
    with gzip.open(folder / f"{name}.gz") as file:
        return np.frombuffer(file.read(), np.uint8)[header:]


def split(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images from 0 to 1, and labels."""
    images = read(folder, f"{name}-images-idx3-ubyte", 16).reshape(-1, 28, 28, 1)
    return images.astype(np.float32) / 255, read(folder, f"{name}-labels-idx1-ubyte", 8)


def main() -> None:
    folder = Path(sys.argv[1])
    folder = folder / "mnist" if (folder / "mnist").is_dir() else folder
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(*split(folder, "train"), batch_size=32, epochs=1, verbose=0)
    print(model.evaluate(*split(folder, "t10k"), batch_size=32, verbose=0))


if __name__ == "__main__":
    main()
