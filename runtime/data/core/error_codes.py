"""The mistakes that data can hold: one row per code, for the catalogue of `nnc explain`.

In: nothing. Out: `DATA_ERRORS`, and `SEQUENCE_ERRORS` for text and sound. This file raises nothing;
the readers beside it do.
"""

from __future__ import annotations

from typing import NamedTuple


class DataError(NamedTuple):
    """One row: what the code is called, what it means and how to put it right, and one example."""

    code: str
    title: str
    explanation: str
    example: str


DATA_ERRORS: list[DataError] = [
    DataError(
        "E0601",
        "data not found",
        "A file or folder that the train block names is in none of the places that are searched: "
        "the folder given by `--data`, the folder of the `.nn` file and its `data/`, and "
        "`$NNC_DATA`. The message lists each place. Known sets are also looked for in the user's "
        "cache and downloaded unless `--offline` is given.",
        '`data = csv("huoses.csv")` beside a file `houses.csv`.',
    ),
    DataError(
        "E0602",
        "not the kind of file that was expected",
        "The first bytes of a file (its magic number) say that it is something else: a web page "
        "saved under the data's name, labels where images belong, an archive that is no `.npz`.",
        "`train-images-idx3-ubyte` begins with the label magic 0x00000801.",
    ),
    DataError(
        "E0603",
        "truncated or corrupt file",
        "The file begins well but ends early, goes on too long, or does not unpack. An interrupted "
        "copy or download is the usual cause: fetch it again.",
        "An `.npy` header that promises 4,000 bytes, followed by 3,100.",
    ),
    DataError(
        "E0604",
        "row with the wrong number of cells",
        "Every row of a CSV file must have as many cells as its header (or its first row). An "
        "unquoted delimiter inside a cell is the usual cause. A line of text with its label, or of "
        "a pair, needs the delimiter between the two.",
        "Three columns, and line 7 reads `1,2`.",
    ),
    DataError(
        "E0605",
        "not a number",
        "A cell in a column of numbers holds something else. The columns that become `x` are all "
        "numbers; a target column is numbers when its first cell is one. Leave a column of words "
        "out with `columns = [...]`.",
        "`twelve` in column `rooms`; `1e99`, which is too large for f32.",
    ),
    DataError(
        "E0606",
        "label out of range",
        "A class label must be a whole number from 0 up to, not including, the number of classes. "
        "Labels counted from 1 are the usual cause.",
        "The label 10 where there are 10 classes, 0 to 9.",
    ),
    DataError(
        "E0607",
        "shapes or lengths disagree",
        "All fields of one split have the same number of examples, and a field has the same shape, "
        "type and classes in every split.",
        "100 rows in `x.npy` and 99 in `y.npy`.",
    ),
    DataError(
        "E0608",
        "unknown data source or setting",
        "The name after `data =`, or the name of one of its settings, is not known, is given "
        "twice, or is missing.",
        "`data = minst()`; `mnist(normalise = true)`.",
    ),
    DataError(
        "E0609",
        "a package is needed for this data",
        "Reading this data needs a package that `nnc` does not install by itself.",
        "`images(...)` without Pillow: `pip install 'nnc[images]'`; byte pairs without tokenizers.",
    ),
    DataError(
        "E0610",
        "download failed",
        "A known set could not be fetched, or what came has the wrong checksum; nothing was kept. "
        "Fetch the files by other means and name their folder with `--data`.",
        "No network; a proxy that answers with its own page.",
    ),
    DataError(
        "E0611",
        "values of a type that the language does not have",
        "Fields hold booleans, integers up to 64 bits signed, or real numbers. Text, complex "
        "numbers, records and pickled Python objects cannot be fields; pickles are never loaded.",
        "An `.npz` saved from a ragged list, which NumPy stores as objects.",
    ),
    DataError(
        "E0612",
        "text that is not UTF-8",
        "Text and CSV files must be UTF-8. Save the file again with that encoding.",
        "A file exported as Latin-1 with an `é` in line 3.",
    ),
    DataError(
        "E0613",
        "no examples",
        "The file, the array or the folder is there but holds nothing to train on.",
        "A CSV file with only a header; a class folder with no images.",
    ),
    DataError(
        "E0614",
        "column not found or not unique",
        "`target` and `columns` name columns of the CSV header, spelt exactly; the header names "
        "every column once. Without a header the columns are called `1`, `2`, …",
        '`target = "prize"` where the header says `price`.',
    ),
    DataError(
        "E0615",
        "a setting of the data has the wrong value",
        "The value of a setting has the wrong type or is outside what the setting allows.",
        "`csv(..., test = 1.5)`; `images(..., channels = 2)`.",
    ),
    DataError(
        "E0616",
        "missing value",
        "A cell is empty or says `nan`, `NA`, `null` or `?`. Nothing is filled in silently: remove "
        "the row, or fill the cell before training.",
        "`3,,1` in a file of three columns.",
    ),
    DataError(
        "E0617",
        "data cannot be read or kept",
        "The operating system refused: no permission, a folder in place of a file, a full disk.",
        "A data file that belongs to another user.",
    ),
    DataError(
        "E0618",
        "folder of images in no known layout",
        "A folder of images holds one folder per class, or `train/` and `test/` with one folder "
        "per class each. Images beside the class folders belong to no class.",
        "`pets/cat/`, `pets/dog/` and a loose `pets/extra.png`.",
    ),
]

SEQUENCE_ERRORS: list[DataError] = [
    DataError(
        "E0619",
        "not in the vocabulary",
        "A model reads only the characters or words of the vocabulary that it was trained with. "
        "The message names the first one that is not among them and its place. A vocabulary of "
        "bytes or byte pairs reads everything.",
        "A prompt with `é` for a model trained on English text.",
    ),
    DataError(
        "E0620",
        "sound of another kind than expected",
        "Sound files are WAV with 16-bit samples, one channel, and as many samples per second as "
        "the setting `rate` says. Nothing is resampled or mixed silently: convert the files.",
        "A stereo file; 44,100 samples per second where `rate = 8000`.",
    ),
    DataError(
        "E0621",
        "file name that does not follow the pattern",
        "`pattern` says how the names of all sound files are built: text in braces stands for any "
        "text without `/` and gives it a name, all else for itself. Files with another ending are "
        "passed over.",
        '`seven.wav` under `pattern = "{digit}_{speaker}_{take}.wav"`.',
    ),
]
