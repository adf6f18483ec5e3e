"""`mnist()`: 70,000 handwritten digits of 28x28.

In: the four canonical IDX files, found on disk or downloaded (LeCun, Cortes, Burges; CC BY-SA 3.0).
Out: `image` f32[28, 28, 1], stored as bytes, and `label` i32. A user's own file is checked for its
format but not its checksum, so that other sets in the same format can replace it; a downloaded file
is checked for both.
"""

from __future__ import annotations

from .idx_set import IdxSet

# canonical name → SHA-256 of the unpacked file
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte":  "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte":  "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}  # fmt: skip

SET = IdxSet(
    "mnist",
    "MNIST",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    FILES,
)

MNIST = SET.source("handwritten digits, 28x28: image f32[28, 28, 1], label i32")
