"""The feature table: causal, scale-free, missing during its warm-up, never filled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.errors import InputError, TooFewBars
from btclab.features.spec import DEFAULT


def test_one_row_per_bar_and_one_column_per_feature(candles):
    features = bl.build_features(candles)
    assert features.index.equals(candles.index)
    assert list(features.columns) == DEFAULT.columns
    assert all(kind == np.float64 for kind in features.dtypes)


def test_values_are_missing_exactly_during_the_warm_up(candles):
    first = bl.build_features(candles).notna().to_numpy().argmax(axis=0)
    assert first.tolist() == [feature.warmup for feature in DEFAULT.features]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(DEFAULT.warmup + 1, 2000))
def test_features_recomputed_on_candles_cut_at_t_are_equal_at_t(candles, cut):
    whole, known = bl.build_features(candles), bl.build_features(candles.iloc[:cut])
    np.testing.assert_allclose(known.to_numpy(), whole.iloc[:cut].to_numpy(), rtol=1e-9, atol=1e-12)


def test_changing_any_later_bar_changes_nothing_earlier(candles):
    later = candles.copy()
    later.iloc[1500:] *= 3.0
    one, other = bl.build_features(candles), bl.build_features(later)
    np.testing.assert_array_equal(one.iloc[:1500].to_numpy(), other.iloc[:1500].to_numpy())


def test_beyond_its_warm_up_no_feature_depends_on_where_the_history_begins(candles):
    whole, shorter = bl.build_features(candles), bl.build_features(candles.iloc[500:])
    size = whole.abs().max()
    difference = ((whole.iloc[500:] - shorter).abs() / size).where(shorter.notna()).max()
    assert difference.max() < 1e-9, difference.idxmax()


def test_features_do_not_depend_on_the_price_level(candles):
    dearer = candles.assign(**{name: candles[name] * 1000 for name in ("open", "high", "low", "close")})
    one, other = bl.build_features(candles), bl.build_features(dearer)
    np.testing.assert_allclose(one.to_numpy(), other.to_numpy(), rtol=1e-6, atol=1e-9)


def test_an_undefined_value_is_missing_and_not_filled(candles):
    constant = candles.copy()
    constant.loc[constant.index[1000:1060], "volume"] = 5.0
    score = bl.build_features(constant)["volume_zscore_48"]
    assert score.iloc[1048:1060].isna().all()
    assert score.iloc[1060:].notna().all()


def test_gaps_leave_features_causal_and_present(candles):
    holed = candles.drop(candles.index[1200:1210])
    assert bl.build_features(holed).iloc[1300:].notna().all().all()


def test_attrs_say_where_the_features_come_from(candles):
    assert bl.build_features(candles).attrs["source"] == "simulated:7"


def test_too_few_bars_says_how_many_are_needed(candles):
    with pytest.raises(TooFewBars, match=f"more than {DEFAULT.warmup} bars"):
        bl.build_features(candles.iloc[:100])


def test_unknown_spec_names_the_valid_ones(candles):
    with pytest.raises(InputError, match=r"Unknown feature spec: 'defalt'\. Did you mean 'default'"):
        bl.build_features(candles, spec="defalt")


def test_context_is_refused_while_no_feature_reads_it(candles):
    with pytest.raises(InputError, match="reads no context series"):
        bl.build_features(candles, context=pd.DataFrame())


def test_a_spec_of_ones_own_is_one_line_a_feature(candles):
    spec = bl.FeatureSpec("mine", (bl.Feature("rsi_7", "momentum", "rsi", {"length": 7}, warmup=160),))
    assert list(bl.build_features(candles, spec=spec).columns) == ["rsi_7"]


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (bl.Feature("a", "g", "rsi", {"length": 7}, form="ratio"), "Unknown form of feature 'a': 'ratio'"),
        (bl.Feature("a", "g", "rsi", {"length": 7}, output=3), "asks for output 3; valid: 0…0"),
        (bl.Feature("a", "g", "nosuch"), "Unknown indicator: 'nosuch'"),
    ],
)
def test_a_wrong_feature_is_named(candles, feature, message):
    with pytest.raises(InputError, match=message):
        bl.build_features(candles, spec=bl.FeatureSpec("mine", (feature,)))


@pytest.mark.parametrize("features", [(), (bl.Feature("a", "g", "rsi"), bl.Feature("a", "g", "cci"))])
def test_a_spec_that_is_empty_or_names_a_feature_twice_is_refused(features):
    with pytest.raises(InputError, match=r"is empty|twice"):
        bl.FeatureSpec("mine", features)


def test_a_spec_survives_json():
    assert bl.FeatureSpec.from_dict(DEFAULT.to_dict()).columns == DEFAULT.columns
