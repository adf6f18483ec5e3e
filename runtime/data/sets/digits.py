"""`digits()`: 1,797 handwritten digits of 8x8, inside the package, so that anything can be tried.

In: `digits.npz` beside this file. Out: `image` f32[8, 8, 1] from 0 to 1, stored as bytes 0 to 16,
and `label` i32. The data is the test set of the UCI set "Optical Recognition of Handwritten
Digits" (E. Alpaydin and C. Kaynak, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), in the form
that scikit-learn bundles; it was written here once as `image` u8[1797, 8, 8] and `label`
u8[1797], in the original order. See `digits.LICENSE.txt`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.source import DataSource, Request, Setting
from ..core.splitting import split_rows, training_size
from ..formats.images import ImageReader

FILE = Path(__file__).with_name("digits.npz")
COUNT, BRIGHTEST = 1797, 16
READER = ImageReader(8, 8, 1, is_dark=True)
FIELDS = (Field("image", "f32", (8, 8, 1)), Field("label", "i32", (), 10))


def describe(request: Request) -> Schema:
    """Known without reading the file."""
    return Schema(FIELDS, training_size(COUNT, request["test"]))


def load(request: Request) -> Dataset:
    """Both splits. The choice of test digits is fixed and stratified by class."""
    with np.load(FILE, allow_pickle=False) as stored:
        images, labels = stored["image"][..., None], stored["label"]
    # A fixed seed, not a setting: everyone's figures on this set are on the same test digits.
    parts = split_rows(COUNT, request["test"], seed=0, labels=labels)
    arrays = {"image": images, "label": labels}
    scale = {"image": 1 / BRIGHTEST}
    return split_dataset("digits", FIELDS, arrays, parts, scale=scale, reader=READER)


DIGITS = DataSource(
    "digits",
    "handwritten digits, 8x8, inside the package: image f32[8, 8, 1], label i32",
    (Setting("test", "fraction", "the share that tests", 0.2),),
    describe,
    load,
)
