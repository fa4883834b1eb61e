"""What a statement is made of, read from a ledger or from an account in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from btclab.errors import InputError
from btclab.market.candles import between, timeframe_of, utc
from btclab.records import Costs
from btclab.trading.broker import MemoryLedger
from btclab.trading.lots import fill_arrays, fill_table

if TYPE_CHECKING:  # SQLAlchemy, which an account in memory does without
    from btclab.trading.ledger.view import LedgerView

NS = pd.Timedelta(1, "ns")


class Records(NamedTuple):
    """What a statement is made of: marks [bar], all fills until the end, cash movements, pushes of each signal by its bar."""

    marks: pd.DataFrame
    fills: pd.DataFrame
    movements: pd.DataFrame
    pushes: dict[int, dict[str, float]]
    in_sample: pd.DatetimeIndex  # bars whose signals were
    initial_cash: float
    costs: Costs
    attrs: dict[Any, Any]


def from_ledger(ledger: LedgerView, until: Any, end: object, costs: Costs | None) -> Records:
    """What `ledger` keeps of the bars up to the one at `until`, and before `end`."""
    last = pd.Timestamp(0, tz="UTC") if until is None else utc(until) + NS
    stop = last if end is None else min(last, utc(end))
    _, state = ledger.state()
    signals = ledger.signals_table(end=stop)
    times = pd.DatetimeIndex(signals.index).as_unit("ns").asi8.tolist()
    pushes = {at: said for at, one in zip(times, signals["reasons"], strict=True) if (said := _pushes(one))}
    seen = [isinstance(one, Mapping) and bool(one.get("in_sample")) for one in signals["reasons"]]
    held = state.get("costs")
    traded_at = Costs(**held) if isinstance(held, Mapping) else Costs.from_settings()
    movements = ledger.movement_table()
    return Records(
        ledger.equity_curve(end=stop),
        ledger.fill_table(end=stop),
        movements[movements.index.isna() | (movements.index < stop)],
        pushes,
        pd.DatetimeIndex(signals.index)[seen],
        float(ledger.initial_cash),
        costs or traded_at,
        {"symbol": ledger.symbol, "timeframe": ledger.timeframe, **_source(state)},
    )


def _source(state: Mapping[str, Any]) -> dict[str, Any]:
    """Where the candles of the account came from, which the paper trader keeps in its state."""
    said = state.get("trader", {})
    return {name: said[name] for name in ("source", "simulated") if name in said}


def from_memory(ledger: MemoryLedger, candles: pd.DataFrame, end: object, costs: Costs | None) -> Records:
    """What `ledger` keeps, at the prices of `candles` before `end`. Raises `InputError` if it traded at other times."""
    candles = between(candles, None, end)
    fills = fill_table(fill_arrays(ledger.fills))
    if len(strange := fills.index.difference(candles.index)) and end is None:
        raise InputError(
            f"There is a fill at {strange[0]}, which is no bar of these candles; give those that were traded."
        )
    fills = fills[fills.index.isin(candles.index)]
    sign = np.where(fills["side"] == "buy", 1.0, -1.0)
    change = pd.DataFrame({"cash": -sign * fills["value"] - fills["fee"], "position": sign * fills["quantity"]})
    moved = pd.DataFrame(map(vars, ledger.movements), pd.DatetimeIndex(ledger.moved, tz="UTC", name="timestamp"))
    moved = moved[moved.index.isin(candles.index)]
    change = pd.concat([change, moved.rename(columns={"amount": "cash"})[["cash"]]]) if len(moved) else change
    held = change.groupby(level=0).sum().reindex(candles.index, fill_value=0.0).cumsum()
    value = held["position"] * candles["close"]
    equity = ledger.initial_cash + held["cash"] + value
    exposure = (value / equity).where(value != 0, 0.0)  # also of an account that has nothing left
    marks = pd.DataFrame({"close": candles["close"], "equity": equity, "exposure": exposure})
    first = {"kind": "deposit", "amount": ledger.initial_cash, "text": "start"}
    movements = pd.DataFrame([first], pd.DatetimeIndex([pd.NaT], tz="UTC", name="timestamp"))
    attrs: dict[Any, Any] = {"timeframe": timeframe_of(candles), **candles.attrs}
    return Records(
        marks,
        fills,
        pd.concat([movements, moved]),
        {},
        pd.DatetimeIndex(marks.index[:0]),
        ledger.initial_cash,
        costs or Costs.from_settings(),
        attrs,
    )


def _pushes(reasons: object) -> dict[str, float] | None:
    """What each category said: the `scores` of a signal's reasons; None where they are a text, or have none."""
    scores = reasons.get("scores") if isinstance(reasons, Mapping) else None
    if not isinstance(scores, Mapping):
        return None
    return {str(name): float(value) for name, value in scores.items() if isinstance(value, int | float)}
