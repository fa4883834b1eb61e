"""Training: learns what is there, stops by validation, never reads the test fold, repeats itself bit for bit."""

from __future__ import annotations

import itertools

import pytest
import torch

from btclab.errors import InputError, LookAheadError
from btclab.forecasting.dataset import Folds
from btclab.forecasting.networks import VARIANTS
from btclab.forecasting.training import TrainingOptions, _starts, train_network

FOLDS = Folds(slice(50, 1400), slice(1400, 1700), slice(1700, 2000))
SMALL = TrainingOptions(context=8, hidden=8, epochs=4, stretch=40, batch=8, dropout=0.0, learning_rate=2e-2)


@pytest.fixture(scope="module")
def problem():
    """2,000 bars of which the target is the feature of the bar before, plus noise."""
    noise = torch.Generator().manual_seed(1)
    features = torch.randn(2000, 2, generator=noise)
    targets = features[:, 0].roll(1) + 0.5 * torch.randn(2000, generator=noise)
    return features, targets, torch.ones(2000, dtype=torch.bool)


def fit(problem, options=SMALL, variant="base"):
    return train_network(*problem, FOLDS, variant, options, progress=False)


def test_it_learns_what_can_be_learnt(problem):
    trained = fit(problem, TrainingOptions(**{**vars(SMALL), "epochs": 25}))
    assert min(trained.curves["validation"]) < 0.6 < trained.curves["train"][0]


def test_two_trainings_with_one_seed_give_the_same_weights_bit_for_bit(problem):
    one, other = fit(problem).network.state_dict(), fit(problem).network.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_seed_gives_other_weights(problem):
    other = TrainingOptions(**{**vars(SMALL), "seed": 1})
    assert not torch.equal(fit(problem).network.head.weight, fit(problem, other).network.head.weight)


def test_training_leaves_the_global_random_state_alone(problem):
    before = torch.random.get_rng_state()
    fit(problem)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_test_fold_is_never_read(problem):
    features, targets, usable = (tensor.clone() for tensor in problem)
    features[FOLDS.test], targets[FOLDS.test] = 99.0, -99.0
    one, other = fit(problem), fit((features, targets, usable))
    assert one.curves == other.curves
    assert torch.equal(one.network.head.weight, other.network.head.weight)


def test_a_bar_that_is_not_usable_is_not_scored(problem):
    features, targets, usable = (tensor.clone() for tensor in problem)
    usable[100:600] = False
    targets[100:600] = 5.0
    one = fit((features, targets, usable))
    targets[100:600] = -5.0
    assert fit((features, targets, usable)).curves == one.curves


def test_the_scored_parts_cover_the_fold_once():
    for offset in (0, 17, 39):
        first_scored = [start + SMALL.context - 1 for start in _starts(FOLDS.train, SMALL, offset)]
        assert first_scored[0] <= FOLDS.train.start
        assert first_scored[-1] + SMALL.stretch >= FOLDS.train.stop
        assert {b - a for a, b in itertools.pairwise(first_scored)} == {SMALL.stretch}


def test_training_stops_when_validation_no_longer_improves(problem):
    features, _, usable = problem
    nothing = torch.randn(2000, generator=torch.Generator().manual_seed(5))
    options = TrainingOptions(**{**vars(SMALL), "epochs": 40, "patience": 3})
    trained = fit((features, nothing, usable), options)
    assert len(trained.curves["validation"]) == trained.best_epoch + 1 + 3 < 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, r"Unknown training option: 'epoch'. Did you mean 'epochs'"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"seed": -1}, "seed is -1"),
        ({"hidden": True}, "hidden is True"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(options, message):
    with pytest.raises(InputError, match=message):
        TrainingOptions.of(options)


def test_an_unknown_variant_names_the_valid_ones(problem):
    with pytest.raises(InputError, match="Unknown variant: 'bse'"):
        fit(problem, variant="bse")


def test_a_network_that_reads_later_steps_is_refused(problem, monkeypatch):
    class Backward(VARIANTS["base"]):
        def forward(self, features):
            return super().forward(features.flip(1)).flip(1)

    monkeypatch.setitem(VARIANTS, "backward", Backward)
    with pytest.raises(LookAheadError, match="'backward' reads later steps"):
        fit(problem, variant="backward")
