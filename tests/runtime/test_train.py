"""Training promises: it learns, one seed gives the same bits, every example counts once, it stops
when it should, keeps what it should, and goes on as if it had never stopped."""

from __future__ import annotations

import numpy as np
import pytest
from small_programs import DIGITS, prepared, trained

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.training.atomic_files import load_arrays
from nnc.runtime.training.batch_inputs import batches, epoch_order, split_examples
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.loop import INTERRUPTED, measure, train
from nnc.runtime.training.progress import Silent
from nnc.runtime.training.run_folder import create_run
from nnc.runtime.training.set_measures import Totals


def same_bits(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def code(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return caught.value.diagnostics[0].code


def test_it_learns():
    job = trained(optimizer__lr="0.05")
    first, last = job.records
    assert last.values["loss"] < first.values["loss"]
    assert last.values["test_accuracy"] > 0.7
    assert last.step == 2 * 15  # 1438 examples: 14 batches of 100 and one of 38


def test_one_seed_gives_the_same_bits():
    one, two, other = trained(), trained(threads=2), trained(seed="1")
    assert same_bits(one.executor.values, two.executor.values)
    assert [r.values for r in one.records] == [r.values for r in two.records]
    assert not same_bits(one.executor.values, other.executor.values)


def test_the_short_last_batch_is_exact():
    """One step on 1400 examples and one on 38 agree with the reference evaluator."""
    kept = {"batch": "1400", "epochs": "1", "optimizer": "sgd(lr = 0.1)"}
    fast, slow = trained(**kept), trained(device="reference", **kept)
    assert fast.position.step == 2
    for name, value in slow.executor.values.items():
        np.testing.assert_allclose(fast.executor.values[name], value, rtol=2e-4, atol=2e-6)
    assert fast.records[0].values["loss"] == pytest.approx(slow.records[0].values["loss"], 1e-5)


def test_evaluation_does_not_depend_on_the_batch():
    job = trained(epochs="1")
    examples, measures = job.parts["test"], job.executor.measures["evaluate"]
    whole = measure(job.executor, examples, 1)
    totals = Totals()
    for rows in batches(examples.rows, 100):
        with job.executor.evaluation(len(rows)) as program:
            _, parts = program.run(examples, rows, 1)
        measures.add(totals, parts, len(rows), len(examples))
    assert totals.count == len(examples)
    assert measures.values(totals) == pytest.approx(whole, rel=1e-6)
    assert whole["accuracy"] * len(examples) % 1 == 0


def test_every_epoch_has_its_own_order():
    rows = np.arange(50)
    one, again, two = (epoch_order(rows, 3, epoch, True) for epoch in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, two)
    assert sorted(one) == sorted(two) == list(rows)
    assert epoch_order(rows, 3, 1, False) is rows


def test_validation_takes_a_share_of_the_training_set():
    job = prepared(validation="0.25")
    taken, left = job.parts["validation"].rows, job.parts["train"].rows
    assert len(taken) == round(1438 * 0.25) and not set(taken) & set(left)
    assert job.monitor.name == "validation_loss"


def test_labels_are_used_as_classes():
    assert prepared().executor.system.index_inputs == {"label": 10}


# --- when to stop, what to keep -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "epochs", "reason"),
    [
        ({}, 2, "2 epochs done"),
        ({"steps": "20"}, 2, "20 steps done"),
        ({"epochs": "9", "monitor": "-accuracy", "patience": "2"}, 3, "accuracy has not improved"),
    ],
)
def test_it_stops(sets, epochs, reason):
    job = trained(**sets)
    assert len(job.records) == epochs and job.reason.startswith(reason)


def test_it_stops_when_a_condition_holds():
    text = DIGITS.replace("epochs    = 2", "until accuracy > 0.5 and test_loss < 2")
    job = trained(text)
    assert job.reason == "`until accuracy > 0.5 and test_loss < 2` holds"
    assert all(r.values["accuracy"] <= 0.5 or r.values["test_loss"] >= 2 for r in job.records[:-1])


def test_steps_may_end_an_epoch_early():
    job = trained(steps="20")
    assert [r.step for r in job.records] == [15, 20]


def test_best_and_last_weights():
    worse = {"epochs": "3", "monitor": "-accuracy"}  # accuracy rises, so the first is the best
    best, last = trained(**worse), trained(**worse, keep='"last"')
    first = trained(epochs="1")
    assert best.position.best_epoch == 1
    assert same_bits(best.best, first.executor.weights())
    assert same_bits(last.best, last.executor.weights())
    assert not same_bits(best.best, last.best)


def test_weights_are_the_models_own():
    job = trained(epochs="1")
    assert job.executor.weight_names == ("dense1_w", "dense1_b", "dense2_w", "dense2_b")
    assert "dense1_w_m" in job.executor.values


# --- folders --------------------------------------------------------------------------------------


def test_going_on_gives_the_bits_of_never_stopping(tmp_path):
    whole = trained(epochs="2")
    job = prepared(epochs="2")
    job.folder = create_run(tmp_path / "run", "small", "", {})
    assert train(job, Silent(), lambda: job.position.step == 20) == INTERRUPTED
    later = prepared(epochs="2")
    later.resume(job.folder)
    assert (later.position.step, later.position.epoch, later.position.done) == (20, 2, 500)
    train(later, Silent(), never)
    assert same_bits(later.executor.values, whole.executor.values)
    assert [r.values for r in later.records] == [r.values for r in whole.records]
    weights, _ = load_arrays(job.folder.weights_file)
    assert same_bits(weights, whole.best)


def test_a_loss_that_is_no_number_leaves_the_saved_weights(tmp_path):
    job = prepared(epochs="1")
    job.folder = create_run(tmp_path / "run", "small", "", {})
    train(job, Silent(), never)
    before = job.folder.weights_file.read_bytes()
    wild = prepared(epochs="3", optimizer__lr="1e30")
    wild.resume(job.folder)
    assert code(lambda: train(wild, Silent(), never)) == "E0701"
    assert job.folder.weights_file.read_bytes() == before


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    job = prepared(epochs="1")
    job.folder = create_run(tmp_path / "run", "small", "", {})
    job.save_checkpoint()
    other = prepared(DIGITS.replace("Dense(12)", "Dense(13)"))
    assert code(lambda: other.resume(job.folder)) == "E0706"
    assert job.folder.checkpoints.steps() == [0]
    job.folder.checkpoints.path(0).write_bytes(b"damaged")
    (warning,) = prepared().resume(job.folder)
    assert warning.code == "W0701" and "begins anew" in warning.help


# --- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "wanted"),
    [
        ({"batch": "0"}, "E0703"),
        ({"keep": '"first"'}, "E0703"),
        ({"epochs": "1 / 0"}, "E0703"),
        ({"monitor": "tset_loss"}, "E0702"),
        ({"bacth": "3"}, "E0704"),
        ({"loss.x": "3"}, "E0204"),
        ({"data": "minst()"}, "E0608"),
    ],
)
def test_wrong_settings(sets, wanted):
    assert code(lambda: prepared(**sets)) == wanted


def test_conditions_on_what_is_not_measured():
    text = DIGITS.replace("epochs    = 2", "until acuracy > 0.5")
    assert code(lambda: prepared(text)) == "E0702"
    text = DIGITS.replace("epochs    = 2", "until mean(logits) > 0.5")
    assert code(lambda: prepared(text)) == "E0702"


def test_more_classes_in_the_data_than_in_the_model():
    text = DIGITS.replace("10] {", "9] {").replace("Dense(10)", "Dense(9)")
    assert code(lambda: prepared(text)) == "E0606"


def test_divide_refuses_two_validation_sets():
    from nnc.runtime.data import Dataset, Schema, Split

    split = Split({"x": np.zeros(4)})
    dataset = Dataset("d", Schema((), None), split, None, split)
    assert code(lambda: split_examples(dataset, 0.5)) == "E0703"


def test_as_many_checkpoints_stay_as_asked_for(tmp_path):
    job = prepared(checkpoint_every="3", keep_checkpoints="9", steps="17")
    job.folder = create_run(tmp_path / "run", "small", DIGITS, {}, {})
    train(job, Silent(), never)
    assert job.folder.checkpoints.steps() == [3, 6, 9, 12, 15, 17]
