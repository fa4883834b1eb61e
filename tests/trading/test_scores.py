"""Scores: signed, bounded, missing where nothing is known, and of their own row only."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.errors import InputError
from btclab.features.noise import noisy_context
from btclab.features.spec import resolve_spec
from btclab.trading.scores import (
    CATEGORIES,
    READINGS,
    Reading,
    Weights,
    category_scores,
    composite_score,
    contributions,
)
from tests.analysis.reference import make_candles

NAN = math.nan


def table_of(**columns):
    count = len(next(iter(columns.values())))
    return pd.DataFrame(columns, make_candles([1.0] * count, [1.0] * count).index, dtype=float)


def score_of(name, value):
    return category_scores(table_of(**{name: [value]}))[READINGS[name].category].iloc[0]


# The sign convention


@pytest.mark.parametrize("name", READINGS)
def test_every_feature_that_is_read_is_in_the_default_spec_under_its_category(name):
    feature = next(one for one in resolve_spec("default").features if one.name == name)
    context = ("on-chain", "sentiment", "macro", "derivatives")
    assert READINGS[name].category == (feature.group if feature.group in context else "technical")
    assert READINGS[name].reason


@pytest.mark.parametrize(
    ("name", "high"),
    [
        ("trend_strength_48", +1),  # with the trend
        ("rsi_14", +1),
        ("active_addresses_change_7", +1),  # adoption
        ("exchange_net_flow_7", -1),  # coins for sale
        ("mvrv", -1),  # dear
        ("fear_greed", -1),  # greed: against the crowd
        ("funding_rate", -1),  # crowded longs
        ("vix", -1),
        ("dollar_return_7", -1),
        ("sp500_return_7", +1),
    ],
)
def test_a_high_value_speaks_for_or_against_a_rise(name, high):
    one = READINGS[name]
    assert math.copysign(1, score_of(name, one.neutral + one.scale)) == high
    assert score_of(name, one.neutral - one.scale) == pytest.approx(-score_of(name, one.neutral + one.scale))


@pytest.mark.parametrize("name", READINGS)
def test_a_neutral_value_scores_zero_and_one_scale_more_scores_the_root_of_a_half(name):
    one = READINGS[name]
    assert score_of(name, one.neutral) == 0
    assert abs(score_of(name, one.neutral + one.scale)) == pytest.approx(math.sqrt(0.5))


def test_funding_at_the_resting_rate_says_nothing():
    assert score_of("funding_rate", 0.0001) == 0


# Categories


def test_a_category_is_the_mean_of_its_features_that_are_present():
    scores = category_scores(table_of(rsi_14=[0.3, NAN], rsi_28=[0.0, 0.2]))
    assert scores.technical.tolist() == pytest.approx([math.sqrt(0.5) / 2, math.sqrt(0.5)])


def test_a_category_without_a_feature_is_missing_and_never_zero():
    scores = category_scores(table_of(rsi_14=[0.3, NAN], mvrv=[NAN, NAN]))
    assert list(scores.columns) == list(CATEGORIES)
    assert scores.technical.isna().tolist() == [False, True]
    assert scores[["forecast", "on-chain", "sentiment", "macro", "derivatives"]].isna().to_numpy().all()


def test_features_that_are_not_read_change_nothing():
    table = table_of(rsi_14=[0.3], gold_moves_with_60=[1.0])
    pd.testing.assert_frame_equal(category_scores(table), category_scores(table[["rsi_14"]]))


def test_the_forecast_is_a_score_too():
    forecasts = table_of(prob_up=[0.5, 0.55, 0.45, NAN])
    scores = category_scores(None, forecasts).forecast
    assert scores.tolist() == pytest.approx([0, math.sqrt(0.5), -math.sqrt(0.5), NAN], nan_ok=True)


def test_the_forecast_scale_says_how_much_a_probability_counts():
    forecasts = table_of(prob_up=[0.6])
    assert category_scores(None, forecasts, forecast_scale=0.2).forecast.iloc[0] == pytest.approx(math.sqrt(0.5))


def test_readings_of_ones_own_take_the_place_of_btclabs():
    mine = {"my_index": Reading("sentiment", -1, 50, 10, "against the crowd")}
    scores = category_scores(table_of(my_index=[60.0], rsi_14=[1.0]), readings=mine)
    assert scores.sentiment.iloc[0] == pytest.approx(-math.sqrt(0.5))
    assert math.isnan(scores.technical.iloc[0])


def test_the_features_keep_what_is_said_of_them():
    table = table_of(rsi_14=[0.3])
    table.attrs = {"features": {"rsi_14": {"group": "momentum"}}}
    category_scores(table)
    assert table.attrs == {"features": {"rsi_14": {"group": "momentum"}}}


values = st.one_of(st.just(NAN), st.floats(-1e300, 1e300), st.sampled_from([math.inf, -math.inf, 0.0]))


@given(st.lists(values, min_size=2, max_size=20))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_scores_are_bounded_and_an_infinite_value_is_missing(column):
    scores = category_scores(table_of(rsi_14=column, mvrv=column[::-1])).to_numpy()
    assert (np.abs(scores[np.isfinite(scores)]) <= 1).all()
    assert np.isnan(scores[:, 1]).tolist() == [not math.isfinite(value) for value in column]


@pytest.mark.parametrize("rises", [True, False])
def test_a_score_knows_nothing_of_later_rows(rises):
    random = np.random.default_rng(3)
    table = table_of(**{name: random.normal(one.neutral, one.scale, 60) for name, one in READINGS.items()})
    later = noisy_context(table, 30, rises, random)
    pd.testing.assert_frame_equal(category_scores(table)[:30], category_scores(later)[:30])
    assert not category_scores(table)[30:].equals(category_scores(later)[30:])


# Weights


def test_weights_are_shares_of_what_is_present():
    weights = Weights(forecast=3, technical=1, on_chain=0, sentiment=0, macro=0, derivatives=0)
    scores = pd.DataFrame([[0.4, -0.8] + [NAN] * 4, [NAN, -0.8] + [NAN] * 4], columns=list(CATEGORIES))
    pushes = contributions(scores, weights)
    assert pushes.forecast.tolist() == pytest.approx([0.3, NAN], nan_ok=True)
    assert pushes.technical.tolist() == pytest.approx([-0.2, -0.8])
    assert composite_score(pushes).tolist() == pytest.approx([0.1, -0.8])


def test_where_all_are_missing_the_score_is_missing():
    scores = pd.DataFrame([[NAN] * 6, [0.5] + [NAN] * 5], columns=list(CATEGORIES))
    assert composite_score(contributions(scores)).isna().tolist() == [True, False]


def test_a_category_that_weighs_nothing_counts_as_absent():
    weights = Weights(forecast=0, technical=1)
    scores = pd.DataFrame([[0.5] + [NAN] * 5], columns=list(CATEGORIES))
    assert composite_score(contributions(scores, weights)).isna().all()
    beside = pd.DataFrame([[0.5, 0.2] + [NAN] * 4], columns=list(CATEGORIES))
    assert contributions(beside, weights).forecast.isna().all()


score = st.one_of(st.just(NAN), st.floats(-1, 1))
weight = st.one_of(st.just(0.0), st.floats(0.01, 10))


@given(st.lists(st.tuples(*[score] * 6), min_size=1, max_size=10), st.lists(weight, min_size=6, max_size=6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_pushes_sum_to_a_score_within_that_of_the_categories(rows, weights):
    weights[0] += 0.1
    scores = pd.DataFrame(rows, columns=list(CATEGORIES))
    pushes = contributions(scores, Weights(*weights))
    total = composite_score(pushes)
    assert (total.dropna().abs() <= 1).all()
    np.testing.assert_allclose(total.dropna(), pushes.sum(axis=1)[total.notna()], atol=1e-12)
    counted = scores.where(np.broadcast_to(np.array(weights) > 0, scores.shape))
    assert (total <= counted.max(axis=1) + 1e-9).eq(total.notna()).all()
    assert (total >= counted.min(axis=1) - 1e-9).eq(total.notna()).all()


def test_the_default_weights_are_those_of_the_settings(monkeypatch):
    assert Weights.from_settings() == Weights()
    monkeypatch.setenv("BTCLAB_STRATEGY__WEIGHT_ON_CHAIN", "2")
    assert Weights.from_settings().on_chain == 2


def test_weights_of_a_table_name_what_counts():
    assert Weights.of({"technical": 2, "on-chain": 1}) == Weights(0, 2, 1, 0, 0, 0)
    with pytest.raises(InputError, match=r"Unknown category: 'tecnical'\. Did you mean 'technical'"):
        Weights.of({"tecnical": 1})


# Wrong input


@pytest.mark.parametrize(
    ("weights", "said"), [({"macro": -1}, "weight of macro is -1"), ({"macro": NAN}, "macro is nan")]
)
def test_a_weight_that_is_none_is_refused(weights, said):
    with pytest.raises(InputError, match=said):
        Weights(**weights)


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(InputError, match="All weights are 0"):
        Weights(0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("onchain", 1, 0, 1), "Did you mean 'on-chain'"),
        (("macro", 0, 0, 1), "sign is 0"),
        (("macro", 1, 0, 0), "scale above 0"),
        (("macro", 1, NAN, 1), "must be numbers"),
    ],
)
def test_a_reading_that_is_none_is_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        Reading(*wrong, "why")


def test_tables_of_other_bars_are_refused():
    with pytest.raises(InputError, match="different timestamps"):
        category_scores(table_of(rsi_14=[0.1, 0.2]), table_of(prob_up=[0.5]))
    with pytest.raises(InputError, match="features"):
        category_scores()
    with pytest.raises(InputError, match="prob_up"):
        category_scores(None, table_of(q50=[0.5]))
    with pytest.raises(InputError, match="forecast_scale is 0"):
        category_scores(None, table_of(prob_up=[0.5]), forecast_scale=0)


def test_a_simulated_market_gives_technical_scores_around_zero(candles):
    columns = [name for name, one in READINGS.items() if one.category == "technical"]
    scores = category_scores(bl.build_features(candles, spec=resolve_spec("default").only(columns)))
    technical = scores.technical.dropna()
    assert len(technical) > 1000
    assert abs(technical.mean()) < 0.35
    assert 0.2 < technical.std() < 0.8
    assert scores["on-chain"].isna().all()
