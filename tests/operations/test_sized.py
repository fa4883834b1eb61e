"""What a paper trader decides is, to the last digit, what a whole history says: whatever its window, and across restarts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pytest

import btclab as bl
from btclab.errors import InputError
from btclab.forecasting.forecaster import forecast_latest
from btclab.market.feed import bars_of
from btclab.operations.decision import MOST_KEPT, Decider, bars_kept
from btclab.records import Margin
from btclab.trading.filters import Filters
from btclab.trading.sizing import Sizing, size_signals
from btclab.trading.strategies import Strategy, run_strategy, strategy
from tests.operations.test_paper import COSTS, NONE, run, same_as

pytestmark = pytest.mark.timeout(120)

FIRST, FEATURED = 1000, 2600  # bars of history: the default features need 2,502
CROSS = strategy("sma_cross", fast=5, slow=20)
VOLATILITY = Sizing("volatility", target_volatility=0.3, half_life_days=1.0, resize_band=0.02)
CUTS = (1001, 1002, 1200)


@pytest.fixture(scope="module")
def market(candles: pd.DataFrame) -> pd.DataFrame:
    """1,300 simulated hours, of which the first 1,000 are history."""
    return candles.iloc[:1300]


def sized(market: pd.DataFrame, chosen: Strategy, sizing: Sizing, filters: Filters) -> pd.DataFrame:
    """The signals from the bar FIRST on, of the whole history."""
    signals = run_strategy(chosen, market, filters=filters, since=market.index[FIRST])
    return size_signals(signals, market, sizing)


@pytest.mark.parametrize("short", [0.0, 0.5])
@pytest.mark.parametrize("cuts", [(), CUTS], ids=["at once", "with restarts"])
def test_a_trader_that_sizes_by_volatility_is_the_backtest(market, home, monkeypatch, cuts, short):
    monkeypatch.setenv("BTCLAB_TRADING__ALLOW_SHORT", str(short > 0))
    chosen = CROSS.having(short=short)
    run(market, chosen, NONE, cuts, first=FIRST, window=60, sizing=VOLATILITY)
    signals = sized(market, chosen, VOLATILITY, Filters())
    assert signals["exposure"].nunique() > 10
    assert (signals["exposure"] < 0).any() == (short > 0)
    same_as(bl.backtest(market.iloc[FIRST:], signals, COSTS, 10_000, margin=Margin.from_settings()))


def test_a_trader_that_sizes_by_kelly_is_the_backtest(trained, trained_candles, home):
    first = len(trained_candles) - 80
    sizing = Sizing("kelly_binary", kelly_fraction=0.01, resize_band=0.01)
    run(trained_candles, "forecast", NONE, [first + 30], first=first, checkpoint=trained, sizing=sizing)
    unseen = trained_candles.iloc[first:]
    rows = [forecast_latest(trained, trained_candles.iloc[: bar + 1]) for bar in range(first, len(trained_candles))]
    forecasts = pd.concat(rows)
    signals = run_strategy("forecast", unseen, None, forecasts, Filters())
    signals = size_signals(signals, unseen, sizing, forecasts)
    assert signals["exposure"].nunique() > 10
    same_as(bl.backtest(unseen, signals, COSTS, 10_000))


# The decider alone


def decided(
    market: pd.DataFrame, chosen: Strategy, cuts: Iterable[int] = (), first: int = FIRST, **given: Any
) -> list[dict[str, Any]]:
    """What it decides at each bar from `first` on, with a new one, from its memory, at each of `cuts`."""
    decider, signals = Decider(chosen, market.iloc[:first], **given), []
    for number, bar in enumerate(bars_of(market.iloc[first:], "replay"), first):  # type: ignore[arg-type]
        if number in cuts:
            memory = json.loads(json.dumps(decider.memory))
            decider = Decider(chosen, market.iloc[:number], memory=memory, **given)
        decider.add(bar)
        signals.append(decider.decide())
    return signals


@pytest.mark.parametrize("short", [0.0, 0.5])
def test_shorts_cooldown_filters_and_sizes_go_on_after_a_restart(market, short):
    chosen, filters = CROSS.having(short=short), Filters(cooldown_bars=2, avoid=("flat/calm",))
    given = {"filters": filters, "sizing": VOLATILITY, "window": 900}
    signals = decided(market, chosen, CUTS, **given)
    whole = sized(market, chosen, VOLATILITY, filters)
    assert [one["exposure"] for one in signals] == whole["exposure"].tolist()
    assert [one["reasons"]["text"] for one in signals] == whole["reasons"].tolist()
    assert (whole["exposure"] < 0).any() == (short > 0)


def test_scores_of_features_are_the_same_after_a_restart():
    """An average without an end depends, in its last digits, on how many rows of a table are asked for."""
    market = bl.load_candles("simulated:7", end="2021-06-01").iloc[: FEATURED + 12]
    given = {"first": FEATURED, "filters": Filters(), "sizing": Sizing(), "window": 50}
    once = decided(market, strategy("composite"), **given)
    assert "technical" in once[-1]["reasons"]["scores"]
    assert decided(market, strategy("composite"), (FEATURED + 3, FEATURED + 10), **given) == once


@pytest.mark.parametrize(("sizing", "more"), [(Sizing(), 0), (Sizing("volatility", half_life_days=10.0), 1680)])
def test_so_many_bars_are_kept_that_the_newest_window_can_be_sized(sizing, more):
    assert bars_kept(CROSS, None, "1h", 250, sizing) == 250 + more


def test_a_half_life_beyond_what_is_kept_is_refused():
    with pytest.raises(InputError, match=r"half_life_days 60 looks back over 604,800 bars of 1m.*at most 49.6\)"):
        bars_kept(CROSS, None, "1m", sizing=Sizing("volatility", half_life_days=60.0))
    assert bars_kept(CROSS, None, "1m", sizing=Sizing("volatility", half_life_days=49.6)) <= MOST_KEPT + 5_000
