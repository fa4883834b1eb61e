"""An account's statement: what it holds, earned and paid, in which month, and what earned it. All of it follows from a ledger.

Profit is after fees. A bar belongs to the UTC day in which it opens. Deposits and withdrawals are no profit and no loss:
returns and drawdowns are those of a share of the account, which begins at 1 (time-weighted).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from btclab.analysis.account import NS, Records, from_ledger, from_memory
from btclab.analysis.backtest import Result, buy_and_hold
from btclab.analysis.metrics import curve_metrics, rename_in_sample, traded_metrics
from btclab.errors import InputError, LedgerError, TooFewBars, unknown
from btclab.market.candles import between, timeframe_delta, utc
from btclab.records import Costs
from btclab.trading.broker import MemoryLedger
from btclab.trading.lots import Lots, match_lots, trade_table

if TYPE_CHECKING:  # SQLAlchemy, which an account in memory does without
    from btclab.trading.ledger.view import LedgerView

PERIODS = {"day": "D", "month": "M", "year": "Y"}
LOT_COLUMNS = ["entry", "side", "age_days", "quantity", "price", "cost", "value", "unrealised", "fees"]
OPEN, INTEREST, BY_HAND = "still open", "interest", "by hand"
WITHOUT_SCORES, BY_ORDER = "{side}, without scores", "{side}, by an order of its own"
CENT, ROUNDING = 0.005, 1e-12


@dataclass(frozen=True, kw_only=True)
class Statement(Result):
    """An account from its opening to its closing, as a `Result` of what it really did.

    `curve` [bar] has close, equity, exposure, `flow` (deposits less withdrawals), `profit` (after fees), `growth` (worth of a
    share, 1 at the opening) and `drawdown` (%). `lots` are open at the closing; of those sold short, quantity, cost and value
    are below 0. `movements` is what cash came and went. `totals` are in quote currency: opening, deposits, profit, closing,
    and what the profit consists of: `closed` lots after their fees, the change of the `open` ones, interest (below 0: paid).
    `trades` has, beside the columns of `trading.lots`, the bar in which the opening was `decided`, the kind of order that
    `opened` it, and the `pushes` of its signal: what each category said, where the ledger knows it. Metrics are called
    `in_sample_…` if a signal came from bars that its network had seen.
    """

    curve: pd.DataFrame
    lots: pd.DataFrame
    movements: pd.DataFrame
    totals: dict[str, float]

    @property
    def attrs(self) -> dict[Any, Any]:
        """Where the account's candles come from: symbol, timeframe, source, simulated, as far as it is known."""
        return self.curve.attrs

    @property
    def in_sample(self) -> bool:
        """Whether a signal came from bars that its network had seen in training."""
        return "in_sample_total_return" in self.metrics

    @property
    def figures(self) -> dict[str, Any]:
        """The metrics by their plain names; whoever shows them says so if they are `in_sample`."""
        return {name.removeprefix("in_sample_"): value for name, value in self.metrics.items()}

    def by(self, period: str) -> pd.DataFrame:
        """One row per "day", "month" or "year" (UTC) that has bars; `profit` is after fees, `trades` are closed lots."""
        keys = _periods(self.curve.index, period)
        grouped = self.curve.groupby(keys)
        growth = grouped["growth"].last()
        table = pd.DataFrame(
            {
                "profit": grouped["profit"].sum(),
                "return_pct": 100 * (growth / growth.shift(fill_value=1.0) - 1),
                "fees": self.fills["fee"].groupby(_periods(self.fills.index, period)).sum(),
                "trades": self.trades.groupby(_periods(self.trades["exit"], period)).size(),
                "deposits": grouped["flow"].sum(),
                "equity": grouped["equity"].last(),
            }
        )
        table = table.fillna({"fees": 0.0, "trades": 0}).astype({"trades": int}).rename_axis(period)
        table.attrs = dict(self.attrs)
        return table

    def by_exit(self) -> pd.DataFrame:
        """Profit by why lots were closed, and of what is still open: closed lots, those with a profit, and their sum."""
        return self._explained(
            self.trades.groupby("reason").agg(trades=("pnl", "size"), wins=("pnl", _wins), pnl=("pnl", "sum"))
        )

    def by_side(self) -> pd.DataFrame:
        """Profit of what was bought ("long") and of what was sold short ("short"), and of what is still open."""
        return self._explained(
            self.trades.groupby("side").agg(trades=("pnl", "size"), wins=("pnl", _wins), pnl=("pnl", "sum"))
        )

    def by_category(self) -> pd.DataFrame:
        """Profit by the category of scores that spoke for the purchase or the short sale, and of what is still open.

        The categories that spoke for it share what became of it, by how far each pushed; those that spoke against get nothing.
        A lot whose signal has no scores, or whose order was none of a signal's, stands under its side. `trades` counts
        lots with a share, so that one counts for several categories.
        """
        rows = [
            (name, part * pnl, pnl > 0)
            for side, pushes, kind, pnl in self.trades[["side", "pushes", "opened", "pnl"]].itertuples(index=False)
            for name, part in _spoke(side, pushes, kind).items()
        ]
        table = pd.DataFrame(rows, columns=["category", "pnl", "won"]).astype({"pnl": float, "won": bool})
        grouped = table.groupby("category").agg(trades=("pnl", "size"), wins=("won", "sum"), pnl=("pnl", "sum"))
        return self._explained(grouped)

    def _explained(self, closed: pd.DataFrame) -> pd.DataFrame:
        """`closed`, most profitable first, with the rows that are missing from the profit as a whole."""
        closed = closed.sort_values("pnl", ascending=False)
        rest = [(OPEN, len(self.lots), self.totals["open"]), (INTEREST, 0, self.totals["interest"])]
        for name, lots, pnl in rest:
            if lots or abs(pnl) >= CENT:
                closed.loc[name] = [lots, 0, pnl]
        table = closed.astype({"trades": int, "wins": int, "pnl": float})
        table.attrs = dict(self.attrs)
        return table

    def held(self) -> Result:
        """Buy and hold over the same bars with the same costs and the same opening: what the account has to beat.

        It buys at the second bar's open, which is taken as the first close.
        """
        close = self.curve["close"]
        opened = close.shift(fill_value=close.iloc[0])
        candles = pd.DataFrame(
            {"open": opened, "high": np.maximum(opened, close), "low": np.minimum(opened, close), "close": close},
            close.index,
        ).assign(volume=0.0)
        candles.attrs = dict(self.attrs)
        free = dataclasses.replace(self.costs, impact_bps=0.0, participation=None)
        return buy_and_hold(candles, free, self.initial_cash, latency=0)


def account_statement(
    ledger: LedgerView | MemoryLedger,
    start: object = None,
    end: object = None,
    trials: int = 1,
    candles: pd.DataFrame | None = None,
    costs: Costs | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Statement:
    """The statement of `ledger` over the bars that open from `start` until before `end` (default: all).

    A ledger in memory keeps no prices: it needs the `candles` that were traded. `trials` is how many strategies were tried to
    come to this one; it deflates the Sharpe ratio. `costs` are for the comparison with buy and hold (default: those the account
    trades at). `attrs` say where its candles came from, if the ledger does not know (`candles.attrs`).

    It reads all fills until `end`; for the figures of now alone ask `Ledger.portfolio`, `open_lots` and `profit_by`. Raises
    `TooFewBars` if fewer than 2 bars were processed in that time, `LedgerError` if the parts are not the ledger's totals.
    """
    if isinstance(ledger, MemoryLedger):
        if candles is None:
            raise InputError("A ledger in memory keeps no prices; give the candles that were traded: candles=…")
        known, records = None, from_memory(ledger, candles, end, costs)
    else:
        known = ledger.portfolio()  # first, so that a bar that comes meanwhile is left out of all tables
        records = from_ledger(ledger, known["timestamp"], end, costs)
    attrs_ = {**records.attrs, **dict(attrs or {})}
    curve, opening = _curve(records, start)
    if len(curve) < 2:
        span = f" from {start or 'the start'} until {end or 'now'}" if start or end else ""
        raise TooFewBars(
            f"The account has processed {len(curve)} bar(s){span}; a statement needs 2. Name another time, or look again later."
        )
    first, bar = curve.index[0], timeframe_delta(attrs_["timeframe"])
    arrays, matched = _matched(records.fills)
    trades = _trades(records, arrays, matched, bar)
    lots = _lot_table(arrays, matched, curve["close"].iloc[-1], curve.index[-1] + bar)
    movements, fills = records.movements, records.fills[records.fills.index >= first]
    begun = np.asarray(movements.index.isna()) & (opening.bars == 0)
    movements = movements[begun | np.asarray(movements.index >= first)]
    trades = trades[trades["exit"] >= first].reset_index(drop=True)
    interest = float(movements.loc[movements["kind"] == "interest", "amount"].sum())
    totals = {
        "opening": opening.equity,
        "deposits": float(curve["flow"].sum()),
        "profit": float(curve["profit"].sum()),
        "closing": float(curve["equity"].iloc[-1]),
        "closed": float(trades["pnl"].sum()),
        "open": _result_of(lots) - _open_before(records.fills, first, opening.close),
        "interest": interest,
        "fees": float(fills["fee"].sum()),
    }
    own: dict[str, Any] = {
        **curve_metrics(curve["growth"].to_numpy(), bar, 1.0, trials),
        **traded_metrics(
            fills["value"].to_numpy(),
            fills["fee"].to_numpy(),
            trades["pnl"].to_numpy(),
            curve["exposure"].to_numpy(),
            curve["equity"].to_numpy(),
            bar,
            0.0 - interest,
        ),
    }
    if (records.in_sample >= first).any():
        own = rename_in_sample(own)
    for frame in (curve, lots, fills, trades, movements):
        frame.attrs = dict(attrs_)
    equity, exposure = curve["equity"], curve["exposure"]
    said = Statement(
        equity, exposure, fills, trades, own, records.costs, opening.equity,
        curve=curve, lots=lots, movements=movements, totals=totals,
    )  # fmt: skip
    _check(said, known if start is None and end is None else None)
    return said


def _check(said: Statement, known: dict[str, Any] | None) -> None:
    """Raise `LedgerError` unless the parts are the whole to the cent, and what the ledger itself says (`known`), if it does."""
    sums, size = said.totals, max(1.0, abs(said.totals["closing"]))
    pairs = [
        ("profit", sums["profit"], sums["closing"] - sums["opening"] - sums["deposits"]),
        ("profit by lot", sums["closed"] + sums["open"] + sums["interest"], sums["profit"]),
        *((f"profit by {period}", float(said.by(period)["profit"].sum()), sums["profit"]) for period in PERIODS),
        ("profit by exit", float(said.by_exit()["pnl"].sum()), sums["profit"]),
        ("profit by side", float(said.by_side()["pnl"].sum()), sums["profit"]),
        ("profit by category", float(said.by_category()["pnl"].sum()), sums["profit"]),
    ]
    if known is not None:
        names = ("total_return", "max_drawdown", "trades", "fills", "win_rate", "profit_factor")
        pairs += [(name, said.figures[name], known[name]) for name in names]
        pairs += [(name, sums[name], known[name]) for name in ("profit", "fees", "interest")]
        pairs += [("unrealised", float(said.lots["unrealised"].sum()), known["unrealised"])]
    for what, own, other in pairs:
        if (own is None) != (other is None) or not abs((own or 0.0) - (other or 0.0)) <= max(CENT, 1e-12 * size):
            raise LedgerError(f"The statement does not add up: {what} is {own} by one way and {other} by another.")


def _spoke(side: str, pushes: dict[str, float] | None, kind: str) -> dict[str, float]:
    """The shares, which add up to 1, of the categories that spoke for opening a lot; its side, if none did.

    Only an order of `kind` "target" is a signal's; the others have been placed by themselves.
    """
    if kind != "target":
        return {BY_ORDER.format(side=side): 1.0}
    sign = 1 if side == "long" else -1
    agreed = {name: sign * value for name, value in (pushes or {}).items() if sign * value > 0}
    whole = sum(agreed.values())
    return {name: value / whole for name, value in agreed.items()} or {WITHOUT_SCORES.format(side=side): 1.0}


# What follows from it


class _Opening(NamedTuple):
    """The account before the first bar of a statement: its equity, the last close, and how many bars came before."""

    equity: float
    close: float
    bars: int


def _curve(records: Records, start: object) -> tuple[pd.DataFrame, _Opening]:
    """Marks with flow, profit, growth and drawdown from `start` on, and what was there before."""
    marks, held = records.marks, records.marks["exposure"]
    flows = _flows(records.movements).groupby(level=0).sum().reindex(marks.index, fill_value=0.0)
    equity = marks["equity"]
    before = equity.shift(fill_value=records.initial_cash)
    base = before + flows
    held = held.where(held.abs() > ROUNDING, 0.0)  # what the engine's sums leave of a position that was closed
    curve = marks.assign(exposure=held, flow=flows, profit=equity - base)
    factor = (equity / base).where(base > 0, 1.0)
    shown = between(curve, start)
    past = len(curve) - len(shown)
    opening = _Opening(
        float(before.iloc[past]) if len(shown) else records.initial_cash,
        float(marks["close"].iloc[past - 1]) if past else 0.0,
        past,
    )
    growth = factor.iloc[past:].cumprod()
    fall = 100 * (growth / growth.cummax().clip(lower=1.0) - 1)
    return shown.assign(growth=growth, drawdown=fall), opening


def _flows(movements: pd.DataFrame) -> pd.Series:
    """Deposits less withdrawals after the first deposit, by the bar with which they came."""
    later = np.asarray(movements.index.notna()) & np.asarray(movements["kind"] != "interest")
    return movements.loc[later, "amount"]


def _matched(fills: pd.DataFrame) -> tuple[dict[str, Any], Lots]:
    """The columns of `fills` as `trading.lots` takes them, and the lots they open and close."""
    arrays: dict[str, Any] = {name: fills[name].to_numpy() for name in ("quantity", "price", "fee")}
    arrays["reason"] = _kinds(fills).to_numpy()
    arrays["timestamp"] = pd.DatetimeIndex(fills.index).as_unit("ns").asi8
    arrays["side"] = np.where(fills["side"] == "buy", 1, -1)
    return arrays, match_lots(arrays["side"], arrays["quantity"], arrays["fee"])


def _kinds(fills: pd.DataFrame) -> pd.Series:
    """Why each filled: the kind of its order; a target that was not a signal's is one by hand, such as `PaperBroker.close`."""
    own = (fills["reason"] == "target") & ~fills["order"].str.startswith("target-") & (fills["order"] != "")
    return fills["reason"].mask(own, BY_HAND)


def _trades(records: Records, arrays: dict[str, Any], matched: Lots, bar: pd.Timedelta) -> pd.DataFrame:
    decided = records.fills["decided"].iloc[matched.entry]
    times = pd.DatetimeIndex(decided).as_unit("ns").asi8.tolist()
    return trade_table(arrays, matched, bar.as_unit("ns").value).assign(
        decided=decided.array,
        opened=_kinds(records.fills).iloc[matched.entry].array,
        pushes=pd.Series([records.pushes.get(at) for at in times], dtype=object),
    )


def _lot_table(arrays: dict[str, Any], matched: Lots, price: float, now: pd.Timestamp) -> pd.DataFrame:
    """The open lots at `price`; `unrealised` is before, `fees` are those of their opening."""
    real = matched.open != 0
    entry, quantity, fees = matched.open_entry[real], matched.open[real], matched.open_fees[real]
    return _lots_at(arrays["timestamp"][entry], quantity, arrays["price"][entry], fees, price, now)


def _lots_at(entry: Any, quantity: Any, opened: Any, fees: Any, price: float, now: pd.Timestamp) -> pd.DataFrame:
    times = pd.DatetimeIndex(np.asarray(entry, np.int64).view("M8[ns]"), tz="UTC")
    columns = {
        "entry": times,
        "side": pd.array(np.where(quantity > 0, "long", "short"), dtype="str"),
        "age_days": (now - times) / pd.Timedelta(days=1),
        "quantity": quantity,
        "price": opened,
        "cost": quantity * opened,
        "value": quantity * price,
        "unrealised": quantity * (price - opened),
        "fees": fees,
    }
    return pd.DataFrame(columns, columns=LOT_COLUMNS)


def _result_of(lots: pd.DataFrame) -> float:
    """What open lots have earned, after the fee of their opening."""
    return float((lots["unrealised"] - lots["fees"]).sum())


def _open_before(fills: pd.DataFrame, first: pd.Timestamp, price: float) -> float:
    """What the lots that were open before the bar `first` had earned by then, after the fees of their opening."""
    earlier = fills[fills.index < first]
    return _result_of(_lot_table(*_matched(earlier), price, first)) if len(earlier) else 0.0


def _wins(pnl: pd.Series) -> int:
    return int((pnl > 0).sum())


def _periods(times: Any, period: str) -> pd.PeriodIndex:
    if period not in PERIODS:
        raise unknown("period", period, PERIODS)
    return pd.DatetimeIndex(times).tz_localize(None).to_period(PERIODS[period])


# What a dashboard asks at every turn: some rows of the ledger, however long it is


def open_lots(ledger: LedgerView, price: float | None = None) -> pd.DataFrame:
    """The open lots as of now at `price` (default: the last close), oldest first; columns as of `Statement.lots`."""
    known, lots = ledger.portfolio(price), ledger.lots()
    now = utc(known["timestamp"] or 0) + timeframe_delta(ledger.timeframe)
    table = _lots_at(
        [lot.entry for lot in lots],
        np.array([float(lot.quantity) for lot in lots]),
        np.array([float(lot.price) for lot in lots]),
        np.array([float(lot.fee) * float(abs(lot.quantity) / lot.size) for lot in lots]),
        float(known["price"] or 0.0),
        now,
    )
    table.attrs = {"symbol": ledger.symbol, "timeframe": ledger.timeframe}
    return table


def profit_by(ledger: LedgerView, period: str = "month", last: int = 12) -> pd.Series:
    """Profit after fees of each of the `last` days, months or years (UTC), if it has bars. It reads the ends of each alone."""
    begun = pd.Timestamp(0, tz="UTC")
    newest = utc(ledger.portfolio()["timestamp"] or begun)
    names = [_periods([newest], period)[0] - back for back in range(last)]
    flows = _flows(ledger.movement_table())
    ends = [newest + NS, *(name.start_time.tz_localize("UTC") for name in names)]
    rows = [ledger.equity_curve(end=end, last=1)["equity"] for end in ends]
    bars = [row.index[0] if len(row) else begun for row in rows]
    worth = [float(row.iloc[0]) if len(row) else float(ledger.initial_cash) for row in rows]
    found = {}
    for at, name in enumerate(names):
        if bars[at] > bars[at + 1]:
            came = flows[(flows.index > bars[at + 1]) & (flows.index <= bars[at])].sum()
            found[name] = worth[at] - worth[at + 1] - float(came)
    index = pd.PeriodIndex(list(found)[::-1], freq=PERIODS[period], name=period)
    return pd.Series(list(found.values())[::-1], index, dtype=float, name="profit")
