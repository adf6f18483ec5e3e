"""`fashion_mnist()`: 70,000 photographs of clothes in ten classes, grey, 28x28.

In: four IDX files called as those of `mnist.py`, downloaded or found: in a folder `fashion_mnist`,
in that of `--data`, or where Debian's package `dataset-fashion-mnist` puts them. MIT licence; Xiao,
Rasul and Vollgraf 2017, arXiv:1708.07747. Out: as `mnist.py`, with the names of the classes.
"""

from __future__ import annotations

from pathlib import Path

from .idx_set import IdxSet

# canonical name → SHA-256 of the unpacked file
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte":  "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte":  "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}  # fmt: skip

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

SET = IdxSet(
    "fashion_mnist",
    "Fashion-MNIST",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    FILES,
    Path("/usr/share/datasets/fashion-mnist"),
    CLASSES,
    own_folder=True,
)

FASHION_MNIST = SET.source("clothes, grey, 28x28: image f32[28, 28, 1], label i32")
