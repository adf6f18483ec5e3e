"""Every entry of the library has a formula and a source, and a test that it takes part in."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from nnc.dsl.check.library import standard_library
from nnc.dsl.check.names import callees

LIBRARY = standard_library()
# what is arithmetic or a matter of definition, and what only helps others
WITHOUT_SOURCE = {
    "activations": "",
    "attention": "hidden steps_of slope_among softmax_until softmax_or_zero is_turned one_each",
    "augmentation": "chance flipped flipped_vertically shifted whole_below spare cropped part_of"
    " turned at_places cut brightened contrasted masked_range mixed_loss partners own_places"
    " whole_shares mixture mixing direct_draws accepted_draws boxes no_boxes pasted",
    "attribution": "repeated noisy straight_path places is_within covers occluded is_member"
    " coalitions orders joining",
    "averages": "below_one",
    "clipping": "positive",
    "convolution": "along window_margin window_count equal_part transposed_size early lead taps",
    "ctc": "error_rate log_sum_exp3 log_sum_exp3_from",
    "detection": "",
    "experts": "",
    "graphs": "joined edge_weight",
    "initializers": "zeros ones constant uniform symmetric",
    "layers": "share drop Flatten merge transpose",
    "losses": "bend level_of example_sum area overlap ratio distance norm_of similarities",
    "metrics": "accuracy flat rows merge_leading crossed_iou runs_found mean_ranks"
    " boxes_right precision_by_recall",
    "normalization": "running",
    "optimizers": "unbiased trust FactoredAverage ElementAverage root_mean_square OrthogonalStep"
    " AdamStep quintic",
    "penalties": "",
    "pooling": "window_inside share_start share_end share_bound in_share",
    "recurrent": "bent odd_half",
    "resampling": "interpolated nearest before between pixels_of equal_rows",
    "schedules": "falling part anneal",
    "selection": "comes_before at_most is_after one_hot",
    "sequence": "last last_of reverse concat present mean_pool pairs_of masked_cross_entropy"
    " cross_entropy_ignoring masked_accuracy sequence_accuracy bits_per_char",
    "spectra": "phase_of overlap_add frames_in frequencies_of",
    "state_space": "",
}


def test_no_file_is_left_out():
    sources = {d.name_span.source.name for d in LIBRARY.values()}
    assert {f"stdlib/{file}.nn" for file in WITHOUT_SOURCE} == sources


@pytest.mark.parametrize("file", WITHOUT_SOURCE)
def test_formulas_and_sources(file):
    plain = WITHOUT_SOURCE[file].split()
    for name, definition in LIBRARY.items():
        if definition.name_span.source.name != f"stdlib/{file}.nn":
            continue
        doc = definition.doc or ""
        assert re.search("[=><:]", doc), f"{name} has no formula"
        assert name in plain or re.search(r"\b(1[89]|20)\d\d\b", doc), f"{name} has no source"


def test_every_entry_takes_part_in_a_test():
    from .test_verify import CASES  # which imports this module

    # what a train block names (`average = ema(0.999)`) is tested in other folders
    paths = Path(__file__).parents[1].rglob("test_*.py")
    texts = [path.read_text("utf-8") for path in paths if path != Path(__file__)]
    words = set(re.findall(r"\w+", " ".join([*texts, *(case.text for case in CASES.values())])))
    used, left = set(), [name for name in LIBRARY if name in words]
    while left:
        name = left.pop()
        used.add(name)
        definition = LIBRARY[name]
        called = {c.id for c in callees((definition.body, definition.value)) if c.id in LIBRARY}
        left += called - used
    assert used == set(LIBRARY)


def test_no_name_is_given_twice():
    folder = resources.files("nnc.dsl.stdlib")
    texts = [f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".nn")]
    names = re.findall(r"^(?:fn|layer|optimizer) (\w+)", "\n".join(texts), re.MULTILINE)
    assert sorted(names) == sorted(LIBRARY)
