"""The strategy: hysteresis between two probabilities, said in words, and never a look ahead."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.errors import InputError
from btclab.trading.strategy import Rules, latest_signal, make_signals
from tests.analysis.reference import make_candles

NAN = math.nan
RULES = Rules(enter=0.6, exit=0.4)


def forecasts_of(prob_up, **columns):
    candles = make_candles([100.0] * len(prob_up), [100.0] * len(prob_up))
    mean = (np.asarray(prob_up, float) - 0.5) / 100
    return candles, pd.DataFrame({"prob_up": np.asarray(prob_up, float), "mean": mean, **columns}, index=candles.index)


def signals_of(prob_up, rules=RULES, **columns):
    return make_signals(*forecasts_of(prob_up, **columns), rules)


def test_it_enters_at_enter_and_keeps_until_exit():
    assert signals_of([0.5, 0.59, 0.6, 0.5, 0.41, 0.4, 0.5]).exposure.tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_it_starts_in_cash():
    assert signals_of([0.5, 0.5]).exposure.tolist() == [0, 0]


def test_it_holds_no_more_than_max_exposure():
    assert signals_of([0.7, 0.5], Rules(0.6, 0.4, max_exposure=0.25)).exposure.tolist() == [0.25, 0.25]


def test_without_rules_the_defaults_decide():
    assert signals_of([0.519, 0.52, 0.49, 0.48], None).exposure.tolist() == [0, 1, 1, 0]


def test_without_a_forecast_the_exposure_is_missing_and_the_reason_says_so():
    signals = signals_of([NAN, 0.7])
    assert signals.exposure.isna().tolist() == [True, False]
    assert math.isnan(signals.confidence.iloc[0])
    assert signals.reasons.iloc[0].startswith("no forecast")


def test_a_gap_in_the_forecasts_keeps_what_was_held():
    signals = signals_of([0.7, NAN, 0.5, 0.3])
    assert signals.exposure.tolist() == pytest.approx([1, NAN, 1, 0], nan_ok=True)
    assert signals.side.tolist() == ["buy", "hold", "hold", "sell"]


def test_a_side_is_named_only_where_the_exposure_changes():
    sides = signals_of([0.5, 0.7, 0.8, 0.5, 0.3, 0.2, 0.9]).side.tolist()
    assert sides == ["hold", "buy", "hold", "hold", "sell", "hold", "buy"]


def test_confidence_is_the_probability_of_the_sign_it_bets_on():
    # invested from the second bar to the fourth
    signals = signals_of([0.55, 0.7, 0.45, 0.6, 0.3])
    assert signals.confidence.tolist() == pytest.approx([0.45, 0.7, 0.45, 0.6, 0.7])


@pytest.mark.parametrize(
    ("prob_up", "rule"),
    [
        ([0.65], "at or above enter 60 %: hold BTC"),
        ([0.35], "at or below exit 40 %: hold cash"),
        ([0.5], "between exit 40 % and enter 60 %: keep cash"),
        ([0.65, 0.5], "between exit 40 % and enter 60 %: keep the position"),
    ],
)
def test_the_reason_names_the_rule_that_decided(prob_up, rule):
    assert signals_of(prob_up).reasons.iloc[-1].endswith(rule)


def test_the_reason_names_the_forecast_behind_it():
    assert signals_of([0.65]).reasons.iloc[0].startswith("probability of up 65.0 %, expected return +15.0 bps;")


def test_in_sample_is_carried_bar_by_bar():
    assert signals_of([0.5, 0.7, 0.7], in_sample=[True, False, True]).in_sample.tolist() == [True, False, True]


def test_forecasts_that_do_not_say_are_taken_as_out_of_sample():
    assert not signals_of([0.5, 0.7]).in_sample.any()


def test_what_the_forecasts_say_of_their_origin_is_carried():
    candles, forecasts = forecasts_of([0.5])
    forecasts.attrs = {"checkpoint": "abc", "simulated": True}
    assert make_signals(candles, forecasts).attrs == forecasts.attrs


def test_forecasts_at_other_times_are_refused():
    candles, forecasts = forecasts_of([0.5, 0.5, 0.5])
    with pytest.raises(InputError, match="different timestamps"):
        make_signals(candles, forecasts.iloc[1:])


@pytest.mark.parametrize(
    "wrong",
    [{"enter": 0.4, "exit": 0.4}, {"enter": 0.3, "exit": 0.4}, {"enter": 1.1}, {"exit": -0.1}, {"enter": NAN}],
)
def test_thresholds_in_the_wrong_order_are_refused(wrong):
    with pytest.raises(InputError, match="exit < enter"):
        Rules(**wrong)


@pytest.mark.parametrize("wrong", [0, -0.5, 1.01, NAN])
def test_an_exposure_beyond_spot_is_refused(wrong):
    with pytest.raises(InputError, match="max_exposure"):
        Rules(max_exposure=wrong)


probabilities = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([NAN, 0.4, 0.5, 0.6])), min_size=2, max_size=30)


@given(probabilities, st.data())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_a_signal_knows_nothing_later_than_its_bar(prob_up, data):
    cut = data.draw(st.integers(1, len(prob_up) - 1))
    pd.testing.assert_frame_equal(signals_of(prob_up)[:cut], signals_of(prob_up[:cut]), check_freq=False)


@given(probabilities)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_hysteresis_is_a_memory_of_one_bit(prob_up):
    held, expected = 0.0, []
    for value in prob_up:
        held = 1.0 if value >= 0.6 else 0.0 if value <= 0.4 else held
        expected.append(NAN if math.isnan(value) else held)
    np.testing.assert_array_equal(signals_of(prob_up).exposure, expected)


def test_signals_need_no_more_than_themselves_to_be_traded():
    candles, forecasts = forecasts_of([NAN, 0.7, NAN, 0.5, 0.3, 0.3])
    result = bl.backtest(candles, make_signals(candles, forecasts, RULES))
    assert result.fills.side.tolist() == ["buy", "sell"]
    assert result.fills.index.tolist() == [candles.index[2], candles.index[5]]


def test_the_latest_signal_is_plain_json_with_nothing_for_missing():
    candles, forecasts = forecasts_of([0.7, NAN])
    plain = latest_signal(make_signals(candles, forecasts), forecasts)
    assert json.loads(json.dumps(plain, allow_nan=False)) == {
        "bar": "2024-01-01T01:00:00+00:00",
        "prob_up": None,
        "mean": None,
        "side": "hold",
        "exposure": None,
        "confidence": None,
        "reasons": "no forecast: features are warming up or incomplete",
        "in_sample": False,
    }


def test_forecasts_without_a_probability_are_refused(candles):
    with pytest.raises(InputError, match="forecasts lack mean, prob_up"):
        make_signals(candles, pd.DataFrame({"q50": 0.0}, index=candles.index))
