"""`backtest`: the engine over recorded candles, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from btclab.analysis.metrics import bar_length, curve_metrics, rename_in_sample, traded_metrics
from btclab.errors import InputError
from btclab.market.candles import timeframe_delta, timeframe_of, validate_candles
from btclab.records import Costs, Margin, Market, Order, OrderEvent
from btclab.settings import settings
from btclab.trading.broker import PaperBroker, check_account
from btclab.trading.engine import Conditions, Walk, simulate
from btclab.trading.guard import guarded
from btclab.trading.lots import Lots, check_identity, fill_table, match_lots, trade_table
from btclab.trading.orders import exposure_range
from btclab.trading.risk import RiskRules


@dataclass(frozen=True)
class Result:
    """A finished backtest.

    `equity` [bar] and `exposure` [bar] (fraction of equity held in BTC) at each close; `fills` and `trades` as in
    `trading.lots`; `metrics` by name (units in `analysis.metrics.UNITS`), called `in_sample_…` if any bar was seen in training;
    `events` say what became of the orders.
    """

    equity: pd.Series
    exposure: pd.Series
    fills: pd.DataFrame
    trades: pd.DataFrame
    metrics: dict[str, Any]
    costs: Costs
    initial_cash: float
    events: tuple[OrderEvent, ...] = ()


def backtest(
    candles: pd.DataFrame,
    signals: pd.DataFrame,
    costs: Costs | None = None,
    initial_cash: float = 10_000,
    rebalance_band: float | None = None,
    trials: int = 1,
    orders: Sequence[Order] = (),
    market: Market | None = None,
    latency: int | None = None,
    risk: RiskRules | None = None,
    progress: bool = True,
    margin: Margin | None = None,
) -> Result:
    """Trade `signals["exposure"]` on `candles` with the engine that paper trading uses.

    The exposure of row *t* is decided at the close of bar *t* and traded at the open of bar *t* + 1, when it differs
    from the last one; with `rebalance_band` also when the holding has drifted from it by more than that fraction of
    equity. Exposure 1 spends all cash, fee included; 0 sells all; a missing one changes nothing. The last bar's
    decision has no next open and is not traded. `trials` is how many variants were tried to find these signals; it
    deflates the Sharpe ratio.

    Each of `orders` is placed at the close of the bar `order.decided`: limits, stops, brackets and the rest, as
    `docs/orders.md` states. The target order of a bar has the id `target-<open time in ns>`, by which a bracket can name it
    as its parent. `market` gives steps and minimums, `latency` the bars by which an order arrives late. `costs`, `latency` and
    `margin` that are not given are those of `[trading]` in the settings, as for `PaperBroker.open`.

    With `risk` the limits, stops and targets of these rules are kept as paper trading keeps them, bar by bar: 0.15 ms each.

    With `margin` an exposure may go down to -1: BTC is sold short. It costs interest, and a margin call buys it back.

    Raises `InputError` if `exposure` is absent, no number, outside 0…1 (-1…1 on margin), or at times that are not in
    `candles`, or if an order is wrong by itself; one that the account cannot carry is refused in `Result.events`.
    """
    validate_candles(candles)
    conditions = _conditions(costs, market, latency, margin)
    targets = _targets(candles, signals, conditions.margin is not None)
    check_account(initial_cash, rebalance_band)
    times, prices = _arrays(candles)
    if risk is None:
        done = simulate(times, prices, targets.to_numpy(), initial_cash, rebalance_band, orders, conditions)
    else:
        broker = PaperBroker(initial_cash, conditions.costs, rebalance_band)
        broker.conditions = conditions
        done = guarded(broker, candles, targets, orders, risk, progress)
    matched = match_lots(done.fills["side"], done.fills["quantity"], done.fills["fee"])
    check_identity(float(done.equity[-1]), float(prices[3, -1]), initial_cash, done.fills, matched, done.interest)
    fills = fill_table(done.fills)
    trades = trade_table(done.fills, matched, timeframe_delta(timeframe_of(candles)).value)
    curve = pd.Series(done.equity, candles.index, name="equity")
    held = pd.Series(_exposure(done, prices[3]), candles.index, name="exposure")
    for frame in (curve, held, fills, trades):  # simulated results say so wherever they go
        frame.attrs = dict(candles.attrs)
    metrics = _metrics(done, matched, prices[3], bar_length(pd.DatetimeIndex(candles.index)), initial_cash, trials)
    if "in_sample" in signals and bool(signals["in_sample"].any()):
        metrics = rename_in_sample(metrics)
    return Result(curve, held, fills, trades, metrics, conditions.costs, initial_cash, tuple(done.events))


def _conditions(
    costs: Costs | None, market: Market | None = None, latency: int | None = None, margin: Margin | None = None
) -> Conditions:
    """What is given, and of the rest what the settings say; the market has no rules but those that are given."""
    bars = settings().trading.latency_bars if latency is None else latency
    return Conditions(costs or Costs.from_settings(), market or Market(), bars, margin or Margin.from_settings())


def backtest_many(
    candles: pd.DataFrame,
    exposures: pd.DataFrame,
    costs: Costs | None = None,
    initial_cash: float = 10_000,
    rebalance_band: float | None = None,
    trials: int | None = None,
    workers: int | None = None,
    margin: Margin | None = None,
) -> pd.DataFrame:
    """The metrics of many variants of a strategy, one row per column of `exposures` [bar, variant]; as of `backtest`, exactly.

    `trials` deflates the Sharpe ratios; by default each variant counts, so that the best of many must be better than luck.
    `workers` threads share the work (default: one per core). Raises `InputError` as `backtest` does.
    """
    validate_candles(candles)
    check_account(initial_cash, rebalance_band)
    if not isinstance(exposures, pd.DataFrame) or not exposures.columns.is_unique:
        raise InputError(
            "exposures must be a frame with one row per bar and one column, of a name of its own, per variant."
        )
    times, prices = _arrays(candles)
    conditions, bar = _conditions(costs, None, None, margin), bar_length(pd.DatetimeIndex(candles.index))
    count = exposures.shape[1] if trials is None else trials

    def one(name: Any) -> dict[str, Any]:
        targets = _targets(candles, exposures[name].to_frame("exposure"), conditions.margin is not None).to_numpy()
        done = simulate(times, prices, targets, initial_cash, rebalance_band, (), conditions)
        matched = match_lots(done.fills["side"], done.fills["quantity"], done.fills["fee"])
        check_identity(float(done.equity[-1]), float(prices[3, -1]), initial_cash, done.fills, matched, done.interest)
        return _metrics(done, matched, prices[3], bar, initial_cash, count)

    with ThreadPoolExecutor(workers or os.cpu_count()) as threads:  # the compiled loop and numpy let other threads run
        rows = list(threads.map(one, exposures.columns))
    return pd.DataFrame(rows, index=exposures.columns)


def _metrics(
    done: Walk, matched: Lots, close: np.ndarray, bar: pd.Timedelta, initial_cash: float, trials: int
) -> dict[str, Any]:
    price, value = done.fills["price"], done.fills["quantity"] * done.fills["price"]
    pnl = (price[matched.exit] - price[matched.entry]) * matched.closed - matched.closed_fees
    held = _exposure(done, close)
    curve = curve_metrics(done.equity, bar, initial_cash, trials)
    return curve | traded_metrics(value, done.fills["fee"], pnl, held, done.equity, bar, done.interest)


def _exposure(done: Walk, close: np.ndarray) -> np.ndarray:
    """Position as a fraction of equity; 0 where there is none, also in an account that has nothing left."""
    value = done.position * close
    return np.asarray(np.divide(value, done.equity, out=np.zeros(len(value)), where=value != 0))


def _arrays(candles: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Open times (int64 ns) [bar] and prices [open high low close volume, bar]."""
    times = pd.DatetimeIndex(candles.index).as_unit("ns").asi8
    return times, np.stack([candles[name].to_numpy() for name in ("open", "high", "low", "close", "volume")])


def _targets(candles: pd.DataFrame, signals: pd.DataFrame, short: bool) -> pd.Series:
    if not isinstance(signals, pd.DataFrame):
        raise InputError(
            f"signals is a {type(signals).__name__}; backtest needs a frame with the column 'exposure', one row per bar: "
            'e.g. signals.to_frame("exposure").'
        )
    if "exposure" not in signals:
        raise InputError(
            f"signals lack the column 'exposure'; found {', '.join(map(str, signals.columns))}. Make them with bl.make_signals."
        )
    try:
        exposure = signals["exposure"].astype(float)
    except (TypeError, ValueError) as error:
        raise InputError(f"The column 'exposure' must hold numbers, or NaN for no change: {error}.") from error
    wrong = exposure[(exposure < (-1 if short else 0)) | (exposure > 1)]
    if len(wrong):
        raise InputError(f"Exposure at {wrong.index[0]} is {wrong.iloc[0]:g}; {exposure_range(short)}.")
    if exposure.index.equals(candles.index):
        return exposure
    strange = exposure.index.difference(candles.index)
    if len(strange) or exposure.index.has_duplicates:
        what = f"at {strange[0]}, which is no bar of these candles" if len(strange) else "twice for one bar"
        raise InputError(f"There is a signal {what}; make the signals from the candles that you backtest.")
    return exposure.reindex(candles.index)


def buy_and_hold(
    candles: pd.DataFrame, costs: Costs | None = None, initial_cash: float = 10_000, latency: int | None = None
) -> Result:
    """Exposure 1 from the first close on, through the same engine and costs; what is not given is as for `backtest`."""
    held = pd.DataFrame({"exposure": 1.0}, index=candles.index)
    return backtest(candles, held, costs, initial_cash, latency=latency)


def cost_sensitivity(
    candles: pd.DataFrame,
    signals: pd.DataFrame,
    costs: Costs,
    initial_cash: float = 10_000,
    risk: RiskRules | None = None,
    margin: Margin | None = None,
    latency: int | None = None,
) -> pd.DataFrame:
    """Total return (%) of the same signals at 0, ½, 1, 2 and 3 times `costs` and interest.

    One row per multiple, with the cost per side in bps.

    The last column is called as in `Result.metrics`: `total_return`, or `in_sample_total_return`.
    """
    rows, name, margin = [], "total_return", margin or Margin.from_settings()
    for multiple in (0.0, 0.5, 1.0, 2.0, 3.0):
        maker = None if costs.maker_fee_bps is None else costs.maker_fee_bps * multiple
        lent = None if margin is None else replace(margin, interest_pct=min(9_999.0, margin.interest_pct * multiple))
        scaled = Costs(
            costs.fee_bps * multiple,
            costs.slippage_bps * multiple,
            maker,
            costs.impact_bps * multiple,
            costs.participation,
        )
        result = backtest(
            candles, signals, scaled, initial_cash, latency=latency, risk=risk, progress=False, margin=lent
        )
        name = next(key for key in result.metrics if key.endswith("total_return"))
        rows.append((multiple, scaled.fee_bps + scaled.slippage_bps, result.metrics[name]))
    return pd.DataFrame(rows, columns=["multiple", "cost_bps", name])
