"""`backtest`: the engine over recorded candles, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from btclab.analysis.metrics import equity_metrics, rename_in_sample, trade_metrics
from btclab.errors import InputError
from btclab.market.candles import timeframe_delta, timeframe_of, validate_candles
from btclab.records import Costs
from btclab.trading.broker import PaperBroker


@dataclass(frozen=True)
class Result:
    """A finished backtest.

    `equity` [bar] and `exposure` [bar] (fraction of equity held in BTC) at each close; `fills` and `trades` as in
    `trading.ledger`; `metrics` by name (units in `analysis.metrics.UNITS`), called `in_sample_…` if any bar was seen in training.
    """

    equity: pd.Series
    exposure: pd.Series
    fills: pd.DataFrame
    trades: pd.DataFrame
    metrics: dict[str, Any]
    costs: Costs
    initial_cash: float


def backtest(
    candles: pd.DataFrame,
    signals: pd.DataFrame,
    costs: Costs | None = None,
    initial_cash: float = 10_000,
    rebalance_band: float | None = None,
    trials: int = 1,
) -> Result:
    """Trade `signals["exposure"]` on `candles` with the engine that paper trading uses.

    The exposure of row *t* is decided at the close of bar *t* and traded at the open of bar *t* + 1, when it differs
    from the last one; with `rebalance_band` also when the holding has drifted from it by more than that fraction of
    equity. Exposure 1 spends all cash, fee included; 0 sells all; a missing one changes nothing. The last bar's
    decision has no next open and is not traded. `trials` is how many variants were tried to find these signals; it
    deflates the Sharpe ratio.

    Raises `InputError` if `exposure` is absent, no number, outside 0…1, or at times that are not in `candles`.
    """
    validate_candles(candles)
    targets = _targets(candles, signals)
    broker = PaperBroker(initial_cash, costs or Costs(), rebalance_band)
    equity, position = np.empty(len(candles)), np.empty(len(candles))
    for i, _ in enumerate(broker.replay(candles, targets)):
        equity[i], position[i] = broker.equity, broker.account.position
    broker.ledger.check(broker.account, candles["close"].iloc[-1])
    fills = broker.ledger.fill_table()
    trades = broker.ledger.trade_table(timeframe_delta(timeframe_of(candles)).value)
    curve = pd.Series(equity, candles.index, name="equity")
    held = pd.Series(position * candles["close"].to_numpy() / equity, candles.index, name="exposure")
    for frame in (curve, held, fills, trades):  # simulated results say so wherever they go
        frame.attrs = dict(candles.attrs)
    metrics = equity_metrics(curve, initial_cash, trials) | trade_metrics(fills, trades, held, curve)
    if "in_sample" in signals and bool(signals["in_sample"].any()):
        metrics = rename_in_sample(metrics)
    return Result(curve, held, fills, trades, metrics, broker.costs, initial_cash)


def _targets(candles: pd.DataFrame, signals: pd.DataFrame) -> pd.Series:
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
        raise InputError(f"The column 'exposure' must hold numbers in 0…1, or NaN for no change: {error}.") from error
    strange = exposure.index.difference(candles.index)
    if len(strange) or exposure.index.has_duplicates:
        what = f"at {strange[0]}, which is no bar of these candles" if len(strange) else "twice for one bar"
        raise InputError(f"There is a signal {what}; make the signals from the candles that you backtest.")
    wrong = exposure[(exposure < 0) | (exposure > 1)]
    if len(wrong):
        raise InputError(f"Exposure at {wrong.index[0]} is {wrong.iloc[0]:g}; it must lie in 0…1 (spot, long only).")
    return exposure.reindex(candles.index)


def buy_and_hold(candles: pd.DataFrame, costs: Costs | None = None, initial_cash: float = 10_000) -> Result:
    """Exposure 1 from the first close on, through the same engine and costs."""
    return backtest(candles, pd.DataFrame({"exposure": 1.0}, index=candles.index), costs, initial_cash)


def cost_sensitivity(
    candles: pd.DataFrame, signals: pd.DataFrame, costs: Costs, initial_cash: float = 10_000
) -> pd.DataFrame:
    """Total return (%) of the same signals at 0, ½, 1, 2 and 3 times `costs`; one row per multiple, cost per side in bps.

    The last column is called as in `Result.metrics`: `total_return`, or `in_sample_total_return`.
    """
    rows, name = [], "total_return"
    for multiple in (0.0, 0.5, 1.0, 2.0, 3.0):
        scaled = Costs(costs.fee_bps * multiple, costs.slippage_bps * multiple)
        result = backtest(candles, signals, scaled, initial_cash)
        name = next(key for key in result.metrics if key.endswith("total_return"))
        rows.append((multiple, scaled.fee_bps + scaled.slippage_bps, result.metrics[name]))
    return pd.DataFrame(rows, columns=["multiple", "cost_bps", name])
