"""Members of an ensemble: the same answer after storing, and weights that no fold but validation has seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from torch import nn

from btclab.forecasting.calibration import NORMAL_QUANTILES
from btclab.forecasting.members import (
    Answer,
    ForestMember,
    NetworkMember,
    RidgeMember,
    combine,
    member_weights,
    restore,
)
from btclab.forecasting.networks import make_network

BARS = np.arange(300)


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(5)
    features = random.normal(size=(3000, 4)).astype(np.float32)
    targets = np.stack([features[:, 0] + random.normal(size=3000), -features[:, 1] + random.normal(size=3000)], axis=1)
    return features, targets


def members(problem):
    features, targets = problem
    torch.manual_seed(0)
    for variant in ("base", "attention", "quantile"):
        network = make_network(variant, 4, 2, hidden=8)
        nn.init.normal_(network.head.weight)
        yield NetworkMember(variant, network.eval())
    yield RidgeMember.fit(features.astype(float), targets)
    yield ForestMember.fit(features, targets, trees=8, seed=0)


def test_every_member_answers_the_same_after_storing(problem):
    features = torch.from_numpy(problem[0][:300])
    for one in members(problem):
        again = restore(one.describe(), {name: tensor.clone() for name, tensor in one.tensors().items()})
        first, second = one.answer(features, BARS, 12), again.answer(features, BARS, 12)
        np.testing.assert_array_equal(first.mean, second.mean)
        np.testing.assert_array_equal(first.score, second.score)
        assert (first.quantiles is None) == (second.quantiles is None)


def test_the_forest_walks_its_trees_as_scikit_learn_does(problem):
    features, targets = problem
    own = ForestMember.fit(features, targets, trees=8, seed=3)
    forest = RandomForestRegressor(
        8, max_depth=6, min_samples_leaf=50, max_features=0.33, max_samples=0.5, random_state=3
    ).fit(features, targets)
    np.testing.assert_allclose(
        own.answer(torch.from_numpy(features), BARS, 1).mean, forest.predict(features), atol=1e-9
    )


def test_the_ridge_regression_is_scikit_learns(problem):
    features, targets = problem[0].astype(float), problem[1]
    own = RidgeMember.fit(features, targets, strengths=(100.0,))
    other = Ridge(alpha=100.0, fit_intercept=False).fit(features, targets)
    np.testing.assert_allclose(own.weights, other.coef_.T, atol=1e-9)


def answers(*means):
    return [Answer(np.asarray(mean)[:, None], np.asarray(mean)[:, None]) for mean in means]


def test_weights_favour_the_member_that_explains_more():
    random = np.random.default_rng(1)
    truth = random.normal(size=2000)
    outcome = (truth + random.normal(size=2000))[:, None]
    good, bad = answers(truth, random.normal(size=2000))
    weights = member_weights([good, bad], outcome, np.arange(2000))
    assert weights[0] > 0.7
    assert weights.sum() == pytest.approx(1)


def test_weights_are_equal_where_no_member_explains_anything():
    truth = np.linspace(-1, 1, 100)
    assert member_weights(answers(-truth, -truth), truth[:, None], np.arange(100)).tolist() == [0.5, 0.5]


def test_a_combination_is_the_weighted_mean_and_says_how_far_its_members_disagree():
    both = combine(answers([1.0], [3.0]), np.array([0.5, 0.5]))
    assert (both.mean[0, 0], both.spread[0, 0]) == (2.0, 1.0)


def test_quantiles_are_averaged_level_by_level_with_point_forecasts_as_normal():
    point = Answer(np.array([[1.0]]), np.array([[0.0]]))
    own = Answer(np.array([[0.0]]), np.array([[0.0]]), np.zeros((1, 1, 5)))
    both = combine([point, own], np.array([0.5, 0.5]))
    np.testing.assert_allclose(both.quantiles[0, 0], (1 + NORMAL_QUANTILES) / 2)
