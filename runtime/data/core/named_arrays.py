"""Arrays by name become fields and splits, for `npz` and `npy`.

In: names and headers, or names and arrays. Out: a schema, or a dataset. `x_test` is field `x` of
the test split, `x_validation` of the validation split, `x` and `x_train` of the training split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ....dsl.diagnostics.diagnostic import fail
from ..formats.numpy_format import Header
from .dataset import Dataset, Field, Schema, Split, validate
from .source import Request
from .stored import Examples

SPLITS = ("train", "test", "validation")


def split_and_field(name: str) -> tuple[str, str]:
    """`x_test` → `test`, `x`."""
    for split in SPLITS:
        # The length excludes the bare name `_test`, which would leave a field without a name.
        if name.endswith(f"_{split}") and len(name) > len(split) + 1:
            return split, name.removesuffix(f"_{split}")
    return "train", name


def names_by_split(names: Iterable[str], what: str, request: Request) -> dict[str, dict[str, str]]:
    """Split → field → array name. E0607 unless every split has the fields of training."""
    found: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    for name in names:
        split, field = split_and_field(name)
        # `x` and `x_train` mean the same training field.
        if field in found[split]:
            other = found[split][field]
            message = f"`{other}` and `{name}` of {what} are both the training field `{field}`"
            raise fail("E0607", message, request.span_of(name))
        found[split][field] = name
    train = found["train"]
    # The other splits need exactly the fields of training: none that is new, and none missing
    # unless the whole split is. A field that is new is mostly a misspelt name.
    for split in SPLITS[1:]:
        for field, name in found[split].items():
            if field not in train:
                raise fail(
                    "E0607",
                    f"`{name}` of {what} is field `{field}` of the {split} split, but there is no "
                    f"training array `{field}`",
                    request.span_of(name),
                )
        missing = [field for field in train if found[split] and field not in found[split]]
        if missing:
            message = f"the {split} split of {what} has no `{missing[0]}_{split}`"
            raise fail("E0607", message, help=f"it has {', '.join(found[split].values())}")
    if not train:
        raise fail("E0613", f"{what} holds no arrays")
    return found


def joined_header(parts: Mapping[str, Header]) -> Header:
    """The header of arrays, by their names in messages, one after the other; E0607 if they differ
    in more than their length."""
    first, header = next(iter(parts.items()))
    for name, other in parts.items():
        if (other.dtype, other.shape[1:]) != (header.dtype, header.shape[1:]):
            raise fail(
                "E0607",
                f"{name} has examples of {other.dtype.name}{list(other.shape[1:])}, but those of "
                f"{first} are {header.dtype.name}{list(header.shape[1:])}",
                help="all files of one field have one type and one shape",
            )
    count = sum(part.shape[0] for part in parts.values())
    return replace(header, shape=(count, *header.shape[1:]))


def check_parts(lengths: Mapping[str, Sequence[int]], names: Mapping[str, Sequence[str]]) -> None:
    """E0607 if two fields of a split are in as many files, but not in files of the same lengths:
    then examples would be put together that do not belong together."""
    firsts: dict[tuple[str, int], str] = {}
    for name, each in lengths.items():
        other = firsts.setdefault((split_and_field(name)[0], len(each)), name)
        wrong = next((k for k, n in enumerate(each) if n != lengths[other][k]), None)
        if wrong is not None and len(each) > 1:
            raise fail(
                "E0607",
                f"{names[name][wrong]} has {each[wrong]} examples, and {names[other][wrong]} has "
                f"{lengths[other][wrong]}",
                help="the files of two fields follow each other in the same order",
            )


def schema_of(headers: Mapping[str, Header], what: str, request: Request) -> Schema:
    """The schema of the training arrays; E0607 if types or lengths disagree."""
    found = names_by_split(headers, what, request)
    fields = []
    for field, name in found["train"].items():
        header = headers[name]
        fields.append(Field(field, header.field_dtype, header.shape[1:]))
        for split in SPLITS[1:]:
            # Where the split lacks the field, training is compared with itself.
            other = headers.get(found[split].get(field, name), header)
            if other.field_dtype != header.field_dtype:
                raise fail(
                    "E0607",
                    f"`{found[split][field]}` of {what} holds {other.field_dtype} values, but "
                    f"`{name}` holds {header.field_dtype}",
                    request.span_of(found[split][field]),
                )
    return Schema(tuple(fields), headers[next(iter(found["train"].values()))].shape[0])


def dataset_of(
    arrays: Mapping[str, Examples], headers: Mapping[str, Header], what: str, request: Request
) -> Dataset:
    """The dataset of all arrays, validated."""
    schema = schema_of(headers, what, request)
    # In the order of SPLITS: `names_by_split` has an entry for each, empty if it does not exist.
    train, test, validation = (
        Split({field: arrays[name] for field, name in chosen.items()}) if chosen else None
        for chosen in names_by_split(arrays, what, request).values()
    )
    assert train is not None  # else `names_by_split` had raised
    return validate(Dataset(what, schema, train, test, validation))
