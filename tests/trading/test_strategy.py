"""The strategy: hysteresis between two probabilities, said in words, and never a look ahead."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.errors import InputError
from btclab.trading.filters import Filters, judge
from btclab.trading.strategy import (
    AGREEMENT,
    COOLDOWN,
    REGIME,
    Held,
    Rules,
    Wish,
    by_thresholds,
    forecast_wish,
    hold,
    latest_signal,
    make_signals,
    number_texts,
    sides,
    signal_table,
)
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
    ("prob_up", "short", "rule"),
    [
        ([0.65], 0.0, "at or above enter 60 %: hold BTC"),
        ([0.35], 0.0, "at or below exit 40 %: hold cash"),
        ([0.35], 0.5, "at or below exit 40 %: sell short"),
        ([0.5], 0.5, "between exit 40 % and enter 60 %: keep cash"),
        ([0.65, 0.5], 0.5, "between exit 40 % and enter 60 %: keep the position"),
        ([0.35, 0.5], 0.5, "between exit 40 % and enter 60 %: keep the short position"),
    ],
)
def test_the_reason_names_the_rule_that_decided(prob_up, short, rule):
    assert signals_of(prob_up, Rules(0.6, 0.4, short=short)).reasons.iloc[-1].endswith(rule)


def test_it_sells_short_where_it_would_hold_cash():
    signals = signals_of([0.5, 0.4, 0.5, 0.6, 0.5, 0.3], Rules(0.6, 0.4, max_exposure=0.5, short=0.25))
    assert signals.exposure.tolist() == [0, -0.25, -0.25, 0.5, 0.5, -0.25]
    assert signals.side.tolist() == ["hold", "sell", "hold", "buy", "hold", "sell"]


def test_confidence_in_a_short_position_is_the_probability_of_a_fall():
    signals = signals_of([0.375, 0.5, 0.55, 0.75], Rules(0.6, 0.4, short=1.0))
    assert signals.confidence.tolist() == pytest.approx([0.625, 0.5, 0.45, 0.75])


def test_selling_nothing_short_wants_a_plain_zero():
    assert not np.signbit(by_thresholds(np.array([0.7, 0.3]), 0.6, 0.4)).any()


exact = st.lists(st.one_of(st.just(NAN), st.integers(0, 64).map(lambda n: n / 64)), min_size=1, max_size=40)


@given(exact, st.floats(0, 0.99), st.integers(0, 3), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_market_upside_down_is_held_upside_down(prob_up, confidence, cooldown, data):
    """With thresholds that mirror each other, whatever may forbid an entry."""
    trends = data.draw(st.lists(st.sampled_from([-0.01, 0.01]), min_size=len(prob_up), max_size=len(prob_up)))
    filters = Filters(round(64 * confidence) / 65, cooldown, (), ("1h",) if data.draw(st.booleans()) else ())
    exposure = []
    for sign in (1, -1):
        close = 100 * np.exp(np.cumsum(sign * np.repeat(trends, 60)))
        candles = make_candles(close, close)
        p = np.repeat(prob_up, 60) if sign > 0 else 1 - np.repeat(prob_up, 60)
        forecasts = pd.DataFrame({"prob_up": p, "mean": 0.0}, candles.index)
        wish = forecast_wish(candles, forecasts, Rules(0.625, 0.375, 1.0, 1.0))
        verdict = judge(candles, filters, None, forecasts)
        exposure.append(sign * signal_table(candles, wish, forecasts, verdict)[0].exposure.to_numpy())
    np.testing.assert_array_equal(*exposure)


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
def test_an_exposure_beyond_all_of_it_is_refused(wrong):
    with pytest.raises(InputError, match="max_exposure"):
        Rules(max_exposure=wrong)


@pytest.mark.parametrize("wrong", [-0.5, 1.01, NAN])
def test_more_sold_short_than_all_of_it_is_refused(wrong):
    with pytest.raises(InputError, match=r"short is .*; it must lie in 0…1"):
        Rules(short=wrong)


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


def test_the_latest_signal_needs_no_forecast():
    candles, _ = forecasts_of([0.5])
    plain = latest_signal(signal_table(candles, Wish(np.array([1.0]), None, ["why"]))[0])
    assert plain == {
        "bar": "2024-01-01T00:00:00+00:00",
        "side": "buy",
        "exposure": 1.0,
        "confidence": None,
        "reasons": "why",
        "in_sample": False,
    }


def test_forecasts_without_a_probability_are_refused(candles):
    with pytest.raises(InputError, match="forecasts lack mean, prob_up"):
        make_signals(candles, pd.DataFrame({"q50": 0.0}, index=candles.index))


# What is held


def held_of(wish, codes=None, cooldown=0):
    """`codes` [bar] are to either side, or [2, bar]."""
    codes = np.zeros(len(wish)) if codes is None else codes
    codes = np.array(np.broadcast_to(np.asarray(codes, np.int8), (2, len(wish))))
    held, refused, _ = hold(np.asarray(wish, float), codes, cooldown, Held(), 0)
    return held.tolist(), refused.tolist()


def test_a_wish_is_followed_and_no_wish_keeps():
    assert held_of([NAN, 0.5, NAN, 0.8, 0.0, NAN])[0] == [0, 0.5, 0.5, 0.8, 0, 0]


def test_an_entry_is_refused_where_it_is_forbidden_and_made_up_for_if_it_is_still_wanted():
    held, refused = held_of([1.0, 1.0, 1.0], codes=[REGIME, REGIME, 0])
    assert (held, refused) == ([0, 0, 1], [REGIME, REGIME, 0])


def test_an_entry_that_was_refused_is_not_made_up_for_between_the_thresholds():
    assert held_of([1.0, NAN, NAN], codes=[REGIME, 0, 0])[0] == [0, 0, 0]


def test_what_is_held_is_left_alone_by_filters():
    assert held_of([0.5, 1.0, 0.0], codes=[0, REGIME, REGIME])[0] == [0.5, 1.0, 0]


def test_a_cooldown_of_two_refuses_two_closes():
    held, refused = held_of([1, 0, 1, 1, 1, 1], cooldown=2)
    assert held == [1, 0, 0, 0, 1, 1]
    assert refused == [0, 0, COOLDOWN, COOLDOWN, 0, 0]


def test_a_change_of_sides_leaves_and_enters_at_one_close():
    assert held_of([1.0, -0.5, NAN, 0.25, -1.0, 0.0])[0] == [1, -0.5, -0.5, 0.25, -1, 0]


def test_a_change_of_sides_that_is_refused_only_leaves():
    held, refused = held_of([1.0, -1.0, NAN, -1.0], codes=[[0] * 4, [0, REGIME, 0, 0]])
    assert (held, refused) == ([1, 0, 0, -1], [0, -REGIME, 0, 0])


def test_with_a_cooldown_a_change_of_sides_goes_by_way_of_cash():
    held, refused = held_of([1.0, -1.0, -1.0, -1.0, 1.0, 1.0], cooldown=1)
    assert held == [1, 0, 0, -1, 0, 0]
    assert refused == [0, -COOLDOWN, -COOLDOWN, 0, COOLDOWN, COOLDOWN]


def test_an_entry_is_forbidden_to_its_own_side_alone():
    held, _ = held_of([1.0, 0.0, -1.0, 0.0, 1.0, -0.5], codes=[[AGREEMENT] * 6, [0] * 6])
    assert held == [0, 0, -1, 0, 0, -0.5]


def test_a_short_position_is_left_alone_by_filters_and_resized():
    assert held_of([-0.5, -1.0, NAN, 0.0], codes=[0, REGIME, REGIME, REGIME])[0] == [-0.5, -1, -1, 0]


def test_the_smallest_exposures_have_a_side():
    assert held_of([5e-324, 5e-324, -5e-324])[0] == [5e-324, 5e-324, -5e-324]


def test_a_wish_of_minus_nothing_is_nothing():
    assert not np.signbit(held_of([-0.0, -1.0, -0.0, NAN])[0])[[0, 2, 3]].any()


def test_sides_of_a_short_position():
    exposure = np.array([-0.5, -0.5, -1.0, NAN, -0.2, 0.0, 0.4, -0.4])
    assert sides(exposure).tolist() == ["sell", "hold", "sell", "hold", "buy", "buy", "buy", "sell"]
    assert sides(exposure[:1], -1.0).tolist() == ["buy"]


wishes = st.lists(st.one_of(st.just(NAN), st.sampled_from([0.0, 0.25, 1.0, -0.5, -1.0])), min_size=1, max_size=40)


@given(wishes, st.integers(0, 5), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_cooldown_and_filters_are_respected_and_later_bars_change_nothing(wish, cooldown, data):
    one_side = st.lists(st.sampled_from([0, 0, REGIME]), min_size=len(wish), max_size=len(wish))
    codes = np.array(data.draw(st.tuples(one_side, one_side)))
    held, refused = held_of(wish, codes, cooldown)
    left = None
    for bar, (now, before) in enumerate(zip(held, [0.0, *held], strict=False)):
        if before and np.sign(now) != np.sign(before):
            left = bar
            assert np.sign(wish[bar]) != np.sign(before)  # only the strategy leaves
        if now and np.sign(now) != np.sign(before):
            assert codes[0 if now > 0 else 1][bar] == 0 and now == wish[bar]
            assert left is None or bar - left > cooldown or (bar == left and not cooldown)
        if refused[bar]:
            assert now == 0 and np.sign(refused[bar]) == np.sign(wish[bar])
    cut = data.draw(st.integers(0, len(wish)))
    assert held_of(wish[:cut], codes[:, :cut], cooldown)[0] == held[:cut]
    assert held_of(-np.array(wish), codes[::-1], cooldown) == ([-now for now in held], [-code for code in refused])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_between_the_thresholds_nothing_changes(scores):
    held, _ = held_of(by_thresholds(np.array(scores), 0.2, -0.1))
    for bar in range(1, len(scores)):
        if -0.1 < scores[bar] < 0.2:
            assert held[bar] == held[bar - 1]


def test_a_refused_entry_says_which_filter_and_why():
    candles, forecasts = forecasts_of([0.7, 0.3, 0.7])
    verdict = judge(candles, Filters(cooldown_bars=1))
    signals = signal_table(candles, Wish(np.array([1.0, 0.0, 1.0]), None, ["a", "b", "c"]), forecasts, verdict)[0]
    assert signals.reasons.tolist() == ["a", "b", "c; no entry: it left the market within the last 1 bars"]
    assert signals.exposure.tolist() == [1, 0, 0]


def test_a_refused_short_entry_says_which_filter_and_why():
    candles, forecasts = forecasts_of([0.45, 0.3])
    verdict = judge(candles, Filters(min_confidence=0.6), forecasts=forecasts)
    signals = signal_table(candles, Wish(np.array([-1.0, -1.0]), None, ["a", "b"]), forecasts, verdict)[0]
    assert signals.reasons.tolist() == ["a; no short entry: the forecast gives a fall less than 60 %", "b"]
    assert signals.exposure.tolist() == [0, -1]


def test_without_forecasts_there_is_no_confidence():
    candles, _ = forecasts_of([0.5, 0.5])
    signals, held = signal_table(candles, Wish(np.array([1.0, 0.0])))
    assert signals.confidence.isna().all()
    assert not signals.in_sample.any()
    assert list(signals.columns) == ["side", "exposure", "confidence", "reasons", "in_sample"]
    assert held == Held(0.0, 0)


# Texts


def test_numbers_are_written_as_one_by_one():
    values = np.array([0.12345, -0.004, NAN, 7.0, math.inf, -0.0])
    assert number_texts(values, 0.01, "{:+.2f}".format, "none") == ["+0.12", "+0.00", "none", "+7.00", "none", "+0.00"]


def test_numbers_too_far_apart_for_a_table_are_written_all_the_same():
    assert number_texts(np.array([0.0, 1e12, NAN]), 0.01, "{:.0f}".format, "none") == ["0", "1000000000000", "none"]
    assert number_texts(np.array([NAN]), 0.01, "{:.0f}".format) == [""]


def test_six_years_of_reasons_take_no_longer_than_they_must():
    random = np.random.default_rng(0)
    candles, forecasts = forecasts_of(random.random(60_000))
    make_signals(candles, forecasts)
    begin = time.perf_counter()
    make_signals(candles, forecasts)
    assert time.perf_counter() - begin < 0.25  # 0.02 on an idle core
