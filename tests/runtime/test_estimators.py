"""Estimators of scikit-learn, and examples that are drawn by weights."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from line_program import PROGRAM, X, Z, same

import nnc
from nnc.runtime.training.batch_inputs import Examples, resampled

RNG = np.random.default_rng(1)
CLASSES = """
model Net(x: f32[B, 2]) -> logits: f32[B, 2] {
    logits = x |> Dense(2)
}

train Net {
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 0.1)
    batch     = 16
    epochs    = 30
}
"""
# two overlapping clouds, the second rare
LABELS = (np.arange(200) % 10 == 0).astype(int)
POINTS = RNG.normal(size=(200, 2)) + LABELS[:, None]


# --- weights --------------------------------------------------------------------------------------


def test_resampling_draws_each_as_often_as_its_weight_says():
    rows, weights = np.arange(5), np.array([1.0, 0, 2, 4.5, 2.5])
    counts = np.zeros(5)
    for seed in range(2000):
        drawn = resampled(rows, weights, np.random.default_rng(seed))
        assert len(drawn) == 5
        found = np.bincount(drawn, minlength=5)
        assert (np.abs(found - weights / 2) < 1).all()  # rounded up or down
        counts += found
    np.testing.assert_allclose(counts / 2000, weights / 2, atol=0.05)


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    one = Examples(None, np.arange(100), RNG.random(100))
    assert np.array_equal(one.order(3, 2, True), one.order(3, 2, True))
    assert not np.array_equal(one.order(3, 2, True), one.order(3, 1, True))
    plain = one.order(3, 2, False)
    assert (np.diff(plain) >= 0).all() and sorted(one.order(3, 2, True)) == plain.tolist()


def test_weights_in_fit():
    plain = nnc.loads(CLASSES, threads=1)
    plain.fit(POINTS, LABELS)
    alike = nnc.loads(CLASSES, threads=1)
    alike.fit(POINTS, LABELS, sample_weight=np.full(200, 3.5))
    assert same(plain.parameters, alike.parameters)
    balanced = nnc.loads(CLASSES, threads=1)
    balanced.fit(POINTS, LABELS, class_weight="balanced")
    by_hand = nnc.loads(CLASSES, threads=1)
    by_hand.fit(POINTS, LABELS, sample_weight=np.where(LABELS, 200 / 40, 200 / 360))
    assert same(balanced.parameters, by_hand.parameters)

    def recall(model):
        return (model.predict(POINTS[LABELS == 1]).argmax(1) == 1).mean()

    assert recall(balanced) > recall(plain) + 0.1
    # A weight of 0 leaves an example out; classes that are not named have 1.
    first = nnc.loads(CLASSES, threads=1)
    first.fit(POINTS, LABELS, class_weight={1: 0})
    assert recall(first) == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"sample_weight": np.ones(3)}, "is [3], and there are 10 examples"),
        ({"sample_weight": [-1.0] * 10}, "is -1.0 at 0"),
        ({"sample_weight": [np.nan] * 10}, "is nan at 0"),
        ({"sample_weight": np.zeros(10)}, "all weights are 0"),
        ({"sample_weight": ["a"] * 10}, "expected numbers"),
        ({"class_weight": "balanced"}, "the data have 0"),
        ({"sample_weights": np.ones(10)}, "did you mean `sample_weight`?"),
    ],
)
def test_weights_that_are_none(given, text):
    with pytest.raises(nnc.UserError) as caught:
        nnc.loads(PROGRAM, threads=1).fit(X, Z, **given)
    assert text in str(caught.value)


def test_class_weights_that_are_none():
    for wrong in ("balance", 3, {1: -1}, {0: np.inf}):
        with pytest.raises(nnc.UserError, match="`class_weight`"):
            nnc.loads(CLASSES, threads=1).fit(POINTS, LABELS, class_weight=wrong)


# --- estimators -----------------------------------------------------------------------------------


def test_without_scikit_learn_the_message_says_what_to_install():
    code = "import sys; sys.modules['sklearn'] = None; import nnc.sklearn"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'nnc-lang[sklearn]'" in found.stderr


@pytest.fixture
def estimators():
    pytest.importorskip("sklearn", reason="estimators need scikit-learn (the extra `sklearn`)")
    import nnc.sklearn

    return nnc.sklearn


def test_a_program_is_a_classifier(estimators, tmp_path):
    names = np.array(["no", "yes"])[LABELS]
    direct = nnc.loads(CLASSES, threads=1)
    direct.fit(POINTS, LABELS, seed=5, class_weight="balanced")
    (tmp_path / "net.nn").write_text(CLASSES)
    for program in (CLASSES, tmp_path / "net.nn", str(tmp_path / "net.nn")):
        found = estimators.Classifier(
            program, threads=1, random_state=5, class_weight="balanced"
        ).fit(POINTS, names)
        logits = direct.predict(POINTS).astype(np.float64)
        wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(found.predict_proba(POINTS), wanted, rtol=1e-12)
        assert (found.predict(POINTS) == np.array(["no", "yes"])[logits.argmax(1)]).all()
        assert found.classes_.tolist() == ["no", "yes"] and found.n_iter_ == 30
        assert same(found.model_.parameters, direct.parameters)
    short = estimators.Classifier(CLASSES, epochs=2, batch=50, settings={"optimizer.lr": 0})
    assert short.fit(POINTS, names).n_iter_ == 2


def test_grids_folds_and_pipelines(estimators):
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), estimators.Classifier(CLASSES, threads=1))
    scores = cross_val_score(pipeline, 100 * POINTS, LABELS, cv=2)
    assert scores.shape == (2,) and scores.min() > 0.85
    grid = {"classifier__settings": [{"optimizer.lr": 0}, None], "classifier__epochs": [20]}
    search = GridSearchCV(pipeline, grid, cv=2, scoring="roc_auc").fit(100 * POINTS, LABELS)
    assert search.best_params_["classifier__settings"] is None
    assert clone(pipeline).get_params()["classifier__program"] == CLASSES


def test_a_regressor_of_a_program_and_of_its_own_network(estimators):
    own = estimators.Regressor(hidden=(16,), epochs=60, threads=1).fit(X, X[:, 0])
    assert own.predict(X).shape == (10,) and own.score(X, X[:, 0]) > 0.8
    two = estimators.Regressor(PROGRAM, epochs=200, threads=1).fit(X, Z)
    assert two.predict(X).shape == (10, 2) and two.score(X, Z) > 0.99


def test_mistakes_are_those_of_the_program(estimators):
    with pytest.raises(nnc.UserError, match="did you mean `Dense`"):
        estimators.Classifier(CLASSES.replace("Dense", "Dens")).fit(POINTS, LABELS)
    with pytest.raises(ValueError, match="NaN"):
        estimators.Classifier().fit(POINTS * np.nan, LABELS)


# Weights are how often an example is drawn, by chance where they are no whole numbers, so that a
# weight of 2 is not the same bits as two examples.
EXCEPTIONS = {"check_sample_weight_equivalence_on_dense_data": "weights are chances of being drawn"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Classifier", "Regressor"])
def test_estimators_keep_the_contract_of_scikit_learn(estimators, name):
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks that are skipped
        found = check_estimator(
            getattr(estimators, name)(threads=1),
            expected_failed_checks=EXCEPTIONS,
            on_fail=None,
        )
    failed = {c["check_name"]: c["exception"] for c in found if c["status"] == "failed"}
    assert not failed
    assert {c["check_name"] for c in found if c["status"] == "xfail"} == {*EXCEPTIONS}
    assert len(found) > 50
