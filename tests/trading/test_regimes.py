"""Regimes and filters: known at the close of the bar, and a longer bar counts only once it has closed."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import InputError
from btclab.features.noise import noisy_candles
from btclab.features.spec import resolve_spec
from btclab.trading.filters import Filters, judge
from btclab.trading.regimes import REGIMES, matching, regimes, timeframe_trends, trend, volatility_state
from btclab.trading.strategy import AGREEMENT, CONFIDENCE, REGIME
from tests.analysis.reference import make_candles

NAN = math.nan


def path(returns, seed=0, noise=0.001):
    """Hourly candles with these drifts, and a little noise, so that a trend has a standard error."""
    moved = np.asarray(returns, float) + noise * np.random.default_rng(seed).standard_normal(len(returns))
    close = 100 * np.exp(np.cumsum(moved))
    return make_candles(np.concatenate([[100], close[:-1]]), close)


# Trend and volatility


def test_a_trend_is_up_down_or_flat():
    candles = path([0.002] * 60 + [-0.002] * 60 + [0.001, -0.001] * 40)
    states = trend(candles)
    assert states.iloc[:48].isna().all()
    assert (states.iloc[50], states.iloc[118], states.iloc[199]) == (1, -1, 0)


def test_a_drift_within_one_standard_error_is_flat(candles):
    strength, states = bl.indicator("trend_strength", candles, length=48), trend(candles)
    assert (states[strength.between(-0.99, 0.99)] == 0).all()
    assert (states[strength > 1.01] == 1).all()
    assert (states[strength < -1.01] == -1).all()
    assert set(states.dropna()) == {-1, 0, 1}


def test_volatility_is_calm_normal_or_wild_among_the_last_month():
    random = np.random.default_rng(1)
    size = np.concatenate([0.002 + 0.002 * random.random(800), np.full(40, 0.02), np.full(40, 0.0002)])
    states = volatility_state(path(size * random.choice([-1, 1], 880), noise=0))
    assert states.iloc[:743].isna().all()
    assert (states.iloc[838], states.iloc[879]) == (1, -1)


def test_a_price_that_does_not_move_has_no_trend_that_could_be_told():
    assert trend(make_candles([100] * 60, [100] * 60)).isna().all()


def test_a_regime_names_both(candles):
    found = regimes(candles)
    known = found.dropna()
    assert list(found.cat.categories) == list(REGIMES)
    assert found.isna().sum() == 743  # the volatility's warm-up
    assert set(known) == set(REGIMES)
    bar = known.index[0]
    names = {-1: "down", 0: "flat", 1: "up"}, {-1: "calm", 0: "normal", 1: "wild"}
    assert known[bar] == f"{names[0][trend(candles)[bar]]}/{names[1][volatility_state(candles)[bar]]}"


def test_features_that_hold_the_same_columns_give_the_same_regimes(candles):
    features = bl.build_features(
        candles, spec=resolve_spec("default").only(["trend_strength_48", "volatility_rank_24"])
    )
    pd.testing.assert_series_equal(regimes(candles, features), regimes(candles), check_freq=False)


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("down/wild", ["down/wild"]),
        ("*/wild", ["down/wild", "flat/wild", "up/wild"]),
        ("down/*", ["down/calm", "down/normal", "down/wild"]),
    ],
)
def test_a_pattern_names_regimes(pattern, named):
    assert list(matching([pattern])) == named


def test_a_pattern_that_names_none_is_refused():
    with pytest.raises(InputError, match=r"no regime 'dwn/wild'.*down, flat, up"):
        Filters(avoid=("dwn/wild",))


# Timeframes


def test_a_longer_bar_counts_once_it_has_closed():
    # 4-hour bars close at 04:00, 08:00, …: known from the hour that opens at 03:00, 07:00, …
    hours = path([0.002] * 16 + [-0.002] * 16, noise=0.0001)
    known = timeframe_trends(hours, ["4h"], length=2)["4h"]
    assert known.iloc[:11].isna().all()  # three closes make two returns
    assert known.iloc[11] == 1
    assert (known.iloc[11:27] == known.iloc[11:27].iloc[np.arange(16) // 4 * 4].to_numpy()).all()  # moves every 4 hours
    assert known.iloc[-1] == -1


@pytest.mark.parametrize("rises", [True, False])
def test_states_know_nothing_of_later_bars(candles, rises):
    for cut in (1500, 1501, 1503, 2000):
        other = noisy_candles(candles, cut, rises, np.random.default_rng(cut))
        pd.testing.assert_series_equal(regimes(candles)[:cut], regimes(other)[:cut], check_freq=False)
        ours, theirs = (timeframe_trends(one, ["1h", "4h", "1d"], 5)[:cut] for one in (candles, other))
        pd.testing.assert_frame_equal(ours, theirs, check_freq=False)
        short = timeframe_trends(candles[:cut], ["1h", "4h", "1d"], 5)
        pd.testing.assert_frame_equal(ours, short, check_freq=False)


def test_a_hole_in_the_hours_makes_no_longer_bar_known_early(candles):
    holed = candles.drop(candles.index[[7, 8, 9, 11]])  # 04:00 closes without its last hour
    known = timeframe_trends(holed, ["4h"], 2)
    for bar in range(1, 40):
        pd.testing.assert_frame_equal(timeframe_trends(holed[: bar + 1], ["4h"], 2), known[: bar + 1], check_freq=False)


def test_a_timeframe_shorter_than_the_bars_is_refused(candles):
    with pytest.raises(InputError, match="cannot be made into bars of 15m"):
        timeframe_trends(candles, ["15m"])


# Filters


def test_without_filters_every_entry_is_allowed(candles):
    assert not judge(candles, Filters()).codes.any()


def test_an_avoided_regime_and_one_that_is_not_known_forbid(candles):
    verdict = judge(candles, Filters(avoid=("*/wild",)))
    found = regimes(candles).astype(object)
    expected = [REGIME if not isinstance(name, str) or name.endswith("wild") else 0 for name in found]
    assert verdict.codes.tolist() == [expected, expected]
    bars, texts = verdict.texts(verdict.codes[0])
    assert bars.tolist() == np.flatnonzero(expected).tolist()
    assert texts[0] == "; no entry: the regime is not known yet"
    wild = int(np.flatnonzero(found == "up/wild")[0])
    assert texts[bars.tolist().index(wild)] == "; no entry: the regime is up/wild"


def test_timeframes_must_agree(candles):
    verdict = judge(candles, Filters(agree=("1h", "4h")))
    trends = timeframe_trends(candles, ["1h", "4h"])
    for codes, wanted in zip(verdict.codes, (1, -1), strict=True):
        assert ((codes == 0) == (trends == wanted).all(axis=1)).all()
        assert set(codes) == {0, AGREEMENT}
    bars, texts = verdict.texts(verdict.codes[0])
    assert texts[0] == "; no entry: the trend is not known yet on 1h, not known yet on 4h"
    parted = np.flatnonzero((trends["1h"] == 1) & (trends["4h"] == -1))[0]
    assert texts[bars.tolist().index(parted)] == "; no entry: the trend is up on 1h, down on 4h"
    bars, texts = verdict.texts(-verdict.codes[1])
    assert texts[bars.tolist().index(parted)] == "; no short entry: the trend is up on 1h, down on 4h"


def test_too_little_confidence_and_none_at_all_forbid():
    candles = make_candles([100] * 3, [100] * 3)
    forecasts = pd.DataFrame({"prob_up": [0.375, 0.625, NAN]}, candles.index)
    assert judge(candles, Filters(min_confidence=0.625), forecasts=forecasts).codes.tolist() == [
        [CONFIDENCE, 0, CONFIDENCE],
        [0, CONFIDENCE, CONFIDENCE],
    ]
    with pytest.raises(InputError, match=r"min_confidence 0\.55 needs forecasts"):
        judge(candles, Filters(min_confidence=0.55))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_confidence": 1.0}, "min_confidence is 1.0"),
        ({"min_confidence": NAN}, "min_confidence is nan"),
        ({"cooldown_bars": -1}, "cooldown_bars is -1"),
        ({"cooldown_bars": 1.5}, "cooldown_bars is 1.5"),
        ({"avoid": "down/wild"}, "give a tuple"),
        ({"agree": ("4hours",)}, "timeframe"),
    ],
)
def test_wrong_filters_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        Filters(**wrong)


def test_filters_are_settings(monkeypatch):
    assert Filters.from_settings() == Filters()
    monkeypatch.setenv("BTCLAB_STRATEGY__AVOID", '["down/wild"]')
    monkeypatch.setenv("BTCLAB_STRATEGY__COOLDOWN_BARS", "6")
    assert Filters.from_settings() == Filters(cooldown_bars=6, avoid=("down/wild",))
