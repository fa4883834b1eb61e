"""Sizing: formulas with known answers, sizes within bounds, known at their bar, and no trade for every wobble of a size."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import btclab as bl
from btclab.errors import InputError
from btclab.features.noise import noisy_candles
from btclab.trading.sizing import (
    METHODS,
    Sizing,
    ewma_volatility,
    kelly_binary,
    kelly_normal,
    size_signals,
    sizes,
)
from btclab.trading.strategies import run_strategy
from tests.analysis.reference import make_candles

NAN = math.nan


def signals_of(exposure):
    candles = make_candles([100.0] * len(exposure), [100.0] * len(exposure))
    return candles, pd.DataFrame({"exposure": exposure, "reasons": "why"}, candles.index)


def forecasts_of(candles, **columns):
    return pd.DataFrame(columns, candles.index, dtype=float)


# Formulas


def walk(bars, seed=2):
    close = 100 * np.exp(np.cumsum(0.01 * np.random.default_rng(seed).standard_normal(bars)))
    return make_candles(close, close)


def test_volatility_is_the_recursion_of_riskmetrics_but_for_the_weight_cut_off():
    candles, half_life = walk(3000), 20  # bars
    variance, decay, expected = 0.01**2, 0.5 ** (1 / half_life), []
    for moved in np.diff(np.log(candles["close"]), prepend=NAN):
        variance = variance if math.isnan(moved) else decay * variance + (1 - decay) * moved**2
        expected.append(math.sqrt(variance * 24 * 365))
    ours = ewma_volatility(candles, half_life / 24)
    assert ours.iloc[:121].isna().all()
    np.testing.assert_allclose(ours.iloc[140:] ** 2, np.array(expected[140:]) ** 2, rtol=2 / 64)


@pytest.mark.parametrize("half_life_days", [0.01, 0.3, 1.0])
def test_volatility_is_the_same_to_the_last_bit_whatever_history_lies_before(half_life_days):
    candles = walk(1200).drop(walk(1200).index[[700, 701, 702, 900]])
    whole = ewma_volatility(candles, half_life_days)
    bars = Sizing("volatility", half_life_days=half_life_days).warmup_at("1h")
    for bar in range(bars, len(candles), 7):
        newest = ewma_volatility(candles.iloc[bar - bars : bar + 1], half_life_days).iloc[-1]
        assert newest == whole.iloc[bar] > 0


def test_a_gap_in_the_candles_is_no_wilder_than_the_time_it_took():
    candles = walk(20_000)
    thinned = candles[np.random.default_rng(0).random(20_000) < 0.7]
    mean = ewma_volatility(candles).iloc[-10_000:].mean()
    assert ewma_volatility(thinned).iloc[-7_000:].mean() == pytest.approx(mean, rel=0.02)


def test_volatility_of_seven_years_of_hours_takes_milliseconds():
    candles = walk(64_651)
    ewma_volatility(candles)
    begun = time.thread_time()
    ewma_volatility(candles)
    assert time.thread_time() - begun < 0.05  # 0.003 on an idle core


def test_volatility_is_of_a_year_of_365_days_on_any_timeframe():
    moved = np.tile([0.02, -0.02], 100)
    close = 100 * np.exp(np.cumsum(moved))
    candles = make_candles(close, close)
    assert ewma_volatility(candles, 1).iloc[-1] == pytest.approx(0.02 * math.sqrt(24 * 365))
    daily = candles.set_axis(pd.date_range("2024", periods=200, tz="UTC", name="timestamp"))
    daily.attrs = {"timeframe": "1d"}
    assert ewma_volatility(daily, 5).iloc[-1] == pytest.approx(0.02 * math.sqrt(365))


def test_kelly_of_an_even_bet_is_2p_minus_1():
    assert kelly_binary(np.array(0.6), np.array(1.0), np.array(1.0)) == pytest.approx(0.2)


@pytest.mark.parametrize(("p", "gain", "loss"), [(0.55, 0.02, 0.02), (0.4, 0.03, 0.01), (0.7, 0.5, 0.9)])
def test_kelly_makes_the_expected_log_of_wealth_largest(p, gain, loss):
    found = minimize_scalar(
        lambda f: -(p * math.log(1 + f * gain) + (1 - p) * math.log(1 - f * loss)),
        bounds=(-0.99 / gain, 0.99 / loss),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert kelly_binary(np.array(p), np.array(gain), np.array(loss)) == pytest.approx(found.x, rel=1e-4, abs=1e-6)


def test_kelly_of_a_fair_game_is_nothing():
    volatility = np.array(0.006)
    assert kelly_normal(-(volatility**2) / 2, volatility) == pytest.approx(0, abs=1e-12)
    assert kelly_binary(np.array(0.5), volatility, volatility) == 0


def test_kelly_of_a_fall_is_minus_that_of_the_rise_it_mirrors():
    volatility, mean = np.array(0.006), np.array(1e-4)
    assert kelly_binary(1 - np.array(0.625), volatility, volatility) == -kelly_binary(
        np.array(0.625), volatility, volatility
    )
    fair = -(volatility**2) / 2  # around which drifts mirror
    up, down = kelly_normal(fair + mean, volatility), kelly_normal(fair - mean, volatility)
    assert down == pytest.approx(-up)


def test_kelly_of_stocks_by_thorp():
    # Thorp 2006, section 7.1: an excess drift of 0.11 − 0.06 at a deviation of 0.15 calls for 2.2 times the capital.
    drift, deviation = 0.05, 0.15
    assert kelly_normal(np.array(drift - deviation**2 / 2), np.array(deviation)) == pytest.approx(2.22, abs=0.01)


# Sizes


def test_a_fixed_fraction():
    candles, signals = signals_of([0, 1, 1, 0])
    assert size_signals(signals, candles, Sizing(fraction=0.3)).exposure.tolist() == [0, 0.3, 0.3, 0]


def test_a_target_of_volatility_holds_less_when_the_market_is_wild():
    moved = np.concatenate([np.tile([0.002, -0.002], 100), np.tile([0.02, -0.02], 100)])
    close = 100 * np.exp(np.cumsum(moved))
    size = sizes(make_candles(close, close), Sizing("volatility", target_volatility=0.4, half_life_days=0.5))
    assert size.iloc[199] == 1.0  # 19 % a year: capped at all
    assert size.iloc[-1] == pytest.approx(0.4 / (0.02 * math.sqrt(8760)), rel=0.01)  # 187 % a year
    assert size.iloc[: 6 * 12].isna().all()


def test_a_market_without_a_move_is_held_at_most():
    candles = make_candles([100] * 400, [100] * 400)
    assert sizes(candles, Sizing("volatility", max_position=0.5, half_life_days=1)).iloc[-1] == 0.5


def test_kelly_from_probabilities():
    candles = make_candles([100] * 4, [100] * 4)
    forecasts = forecasts_of(candles, prob_up=[0.5, 0.501, 0.6, 0.4], volatility=[0.01] * 4)
    size = sizes(candles, Sizing("kelly_binary", kelly_fraction=0.25), forecasts)
    assert size.tolist() == pytest.approx([0, 0.25 * 0.002 / (0.01 * math.sqrt(2 / math.pi)), 1, 0])


def test_kelly_from_mean_and_volatility():
    candles = make_candles([100] * 4, [100] * 4)
    forecasts = forecasts_of(candles, mean=[0.0, 1e-4, -1e-3, NAN], volatility=[0.01] * 4)
    size = sizes(candles, Sizing("kelly_normal", kelly_fraction=0.5), forecasts)
    assert size.tolist() == pytest.approx([0.25, 0.75, 0, NAN], nan_ok=True)


def test_kelly_of_a_short_position_is_the_bet_on_a_fall():
    candles = make_candles([100] * 3, [100] * 3)
    forecasts = forecasts_of(candles, prob_up=[0.5, 0.499, 0.6], mean=[-0.5e-4, -1e-4, 0.0], volatility=[0.01] * 3)
    size = sizes(candles, Sizing("kelly_binary"), forecasts, -1.0)
    assert size.tolist() == pytest.approx([0, 0.25 * 0.002 / (0.01 * math.sqrt(2 / math.pi)), 0])
    size = sizes(candles, Sizing("kelly_normal"), forecasts, np.array([-1.0, -1.0, 1.0]))
    assert size.tolist() == pytest.approx([0, 0.125, 0.125])


# Signals


@pytest.mark.parametrize("method", METHODS)
def test_a_short_position_is_sized_as_its_mirror_image_is(method):
    candles, wish = walk(600), np.repeat([1.0, NAN, -0.5, 0.0, -1.0, 1.0], 100)
    random = np.random.default_rng(3)
    forecasts = pd.DataFrame({"prob_up": random.integers(0, 65, 600) / 64, "volatility": 0.25}, candles.index)
    forecasts["mean"] = (random.integers(-64, 65, 600) - 1) / 32  # in volatility², beside that of a fair game
    forecasts.loc[candles.index[200:220], ["prob_up", "mean"]] = NAN
    mirrored = forecasts.assign(prob_up=1 - forecasts["prob_up"], mean=-1 / 16 - forecasts["mean"])
    sizing = Sizing(method, fraction=0.7, max_position=0.6, half_life_days=0.25, kelly_fraction=0.05)
    ours, theirs = (
        size_signals(pd.DataFrame({"exposure": sign * wish}, candles.index), candles, sizing, table)
        for sign, table in ((1.0, forecasts), (-1.0, mirrored))
    )
    np.testing.assert_array_equal(ours["exposure"], 0.0 - theirs["exposure"])
    assert ours["exposure"].min() < 0 < ours["exposure"].max() <= 0.6
    assert not np.signbit(ours["exposure"][ours["exposure"] == 0]).any()


def test_a_change_of_sides_is_an_exit_and_an_entry():
    candles, signals = signals_of([1.0, -1.0, -1.0, 1.0, 1.0])
    forecasts = forecasts_of(candles, mean=np.array([0.1, -0.06, NAN, NAN, 0.1]) * 1e-3, volatility=0.01)
    sizing = Sizing("kelly_normal", kelly_fraction=0.1, resize_band=0.9)
    sized = size_signals(signals, candles, sizing, forecasts)
    assert sized.exposure.tolist() == pytest.approx([0.15, -0.01, -0.01, 0, 0.15])
    assert sized.side.tolist() == ["buy", "sell", "hold", "buy", "buy"]
    assert sized.reasons.tolist()[1] == "why; kelly_normal size 1.0 %"
    assert sized.reasons.tolist()[3] == "why; kelly_normal size not known yet"
    later = size_signals(signals[1:2], candles[1:2], sizing, forecasts[1:2], before=0.15)
    assert later.exposure.tolist() == pytest.approx([-0.01])


def test_a_position_is_resized_only_beyond_its_band():
    candles, signals = signals_of([1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    # Kelly of half: 0.5 + mean/volatility²/2
    forecasts = forecasts_of(candles, mean=np.array([0.0, 0.1, 0.3, 0.25, 0.0, 0.1]) * 1e-4, volatility=0.01)
    sized = size_signals(signals, candles, Sizing("kelly_normal", kelly_fraction=1.0, resize_band=0.15), forecasts)
    assert sized.exposure.tolist() == pytest.approx([0.5, 0.5, 0.8, 0.8, 0, 0.6])
    assert sized.side.tolist() == ["buy", "hold", "buy", "hold", "sell", "buy"]
    assert sized.reasons.tolist()[0] == "why; kelly_normal size 50.0 %"
    assert sized.reasons.tolist()[4] == "why"


def test_what_cannot_be_sized_yet_is_not_entered_and_what_is_held_stays():
    candles, signals = signals_of([1.0, 1.0, 1.0, NAN, 0.0])
    forecasts = forecasts_of(candles, mean=[NAN, 0.0, NAN, 0.0, NAN], volatility=0.01)
    sized = size_signals(signals, candles, Sizing("kelly_normal"), forecasts)
    assert sized.exposure.tolist() == pytest.approx([NAN, 0.125, 0.125, NAN, 0], nan_ok=True)
    assert sized.reasons.tolist()[0] == "why; kelly_normal size not known yet"


def test_the_rest_of_the_signals_stays(candles):
    signals = run_strategy("sma_cross", candles)
    sized = size_signals(signals, candles, Sizing(fraction=0.5))
    same = ["confidence", "in_sample"]
    pd.testing.assert_frame_equal(sized[same], signals[same])
    assert list(sized.columns) == list(signals.columns)
    assert sized.attrs == signals.attrs
    assert len(bl.backtest(candles, sized).fills) > 0


def test_sizes_go_on_from_what_was_held(candles):
    signals = run_strategy("sma_cross", candles, fast=5, slow=20)
    sizing = Sizing("volatility", half_life_days=2, resize_band=0.2)
    whole = size_signals(signals, candles, sizing)
    before = whole.exposure[:1500].ffill().iloc[-1]
    later = size_signals(signals[1500:], candles, sizing, before=before)
    pd.testing.assert_frame_equal(later, whole[1500:], check_freq=False)


@pytest.mark.parametrize("method", METHODS)
@given(st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_sizes_and_exposures_stay_within_bounds(method, data):
    count = data.draw(st.integers(2, 40))
    numbers = st.floats(-1e3, 1e3) | st.just(NAN)
    close = data.draw(st.lists(st.floats(0.01, 1e6), min_size=count, max_size=count))
    candles = make_candles(close, close)
    forecasts = pd.DataFrame(
        {
            "prob_up": data.draw(st.lists(st.floats(0, 1) | st.just(NAN), min_size=count, max_size=count)),
            "mean": data.draw(st.lists(numbers, min_size=count, max_size=count)),
            "volatility": data.draw(st.lists(st.floats(0, 10) | st.just(NAN), min_size=count, max_size=count)),
        },
        candles.index,
    )
    wish = data.draw(st.lists(st.floats(-1, 1) | st.just(NAN), min_size=count, max_size=count))
    signals = pd.DataFrame({"exposure": wish}, candles.index, dtype=float)
    sizing = Sizing(method, max_position=0.7, half_life_days=0.05, fraction=0.9)
    exposure = size_signals(signals, candles, sizing, forecasts).exposure.to_numpy()
    assert ((np.abs(exposure) <= 0.7) | np.isnan(exposure)).all()
    assert not (exposure * np.array(wish) < 0).any()  # never on the other side
    assert (exposure[np.array(wish) == 0] == 0).all()


@pytest.mark.parametrize("rises", [True, False])
def test_a_size_knows_nothing_of_later_bars(candles, rises):
    signals = run_strategy("sma_cross", candles, fast=5, slow=20)
    sizing = Sizing("volatility", half_life_days=2)
    for cut in (500, 1501):
        other = noisy_candles(candles, cut, rises, np.random.default_rng(cut))
        ours, theirs = (size_signals(signals, one, sizing)[:cut] for one in (candles, other))
        pd.testing.assert_frame_equal(ours, theirs)


# Wrong input


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "kelly"}, "Unknown sizing: 'kelly'. Did you mean 'kelly_"),
        ({"fraction": 0}, "fraction is 0"),
        ({"max_position": 1.2}, "max_position is 1.2"),
        ({"kelly_fraction": 2}, "kelly_fraction is 2"),
        ({"target_volatility": 0}, "target_volatility is 0"),
        ({"half_life_days": math.inf}, "half_life_days is inf"),
        ({"resize_band": -0.1}, "resize_band is -0.1"),
    ],
)
def test_wrong_sizing_is_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        Sizing(**wrong)


@pytest.mark.parametrize(("method", "column"), [("kelly_binary", "prob_up"), ("kelly_normal", "mean")])
def test_kelly_without_what_it_reads_is_refused(method, column):
    candles, signals = signals_of([1.0])
    with pytest.raises(InputError, match=f"{method} needs forecasts with {column} and volatility"):
        size_signals(signals, candles, Sizing(method))
    with pytest.raises(InputError, match=f"{method} needs forecasts with {column} and volatility"):
        size_signals(signals, candles, Sizing(method), forecasts_of(candles, volatility=[1.0]))


def test_signals_of_other_bars_are_refused():
    candles, signals = signals_of([1.0, 1.0])
    with pytest.raises(InputError, match="different timestamps"):
        size_signals(signals[:1], candles)


def test_sizing_is_a_setting(monkeypatch):
    assert Sizing.from_settings() == Sizing()
    monkeypatch.setenv("BTCLAB_RISK__SIZING", "volatility")
    monkeypatch.setenv("BTCLAB_RISK__MAX_POSITION", "0.5")
    assert Sizing.from_settings() == Sizing("volatility", max_position=0.5)
