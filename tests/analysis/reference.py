"""A backtest so plain that it is seen to be right, and random markets on which to compare the real one with it."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pandas as pd
from hypothesis import strategies as st

from btclab.records import Costs

HOUR = pd.Timedelta(hours=1)


def candles_of(bars, hours=None, step=HOUR):
    """A candle frame from (open, close) pairs; bar i opens i steps (or `hours[i]` hours) after the start of 2021."""
    index = pd.DatetimeIndex(
        [
            pd.Timestamp("2021-01-01", tz="UTC") + (i * step if hours is None else hours[i] * HOUR)
            for i in range(len(bars))
        ],
        name="timestamp",
    )
    rows = [(float(o), float(max(o, c)), float(min(o, c)), float(c), 1.0) for o, c in bars]
    return pd.DataFrame(rows, index, ["open", "high", "low", "close", "volume"])


def signals_of(candles, exposure):
    return pd.DataFrame({"exposure": exposure}, candles.index, dtype=float)


def reference_backtest(candles, exposure, costs, cash, band=None):
    """Equity at each close, and all fees paid, in 50 digits. No formula for the quantity: the equation itself is solved."""
    with localcontext(prec=50):
        exact = lambda number: Decimal(float(number))  # noqa: E731
        fee, slip = exact(costs.fee_bps) / 10_000, exact(costs.slippage_bps) / 10_000
        cash, btc, paid, target, order, equity = exact(cash), Decimal(0), Decimal(0), Decimal(0), None, []
        for open_, close, wanted in zip(candles["open"], candles["close"], exposure, strict=True):
            open_, close = exact(open_), exact(close)
            if order is not None:
                sign = 1 if order * (cash + btc * open_) > btc * open_ else -1
                price = open_ * (1 + sign * slip)

                def off(value, order=order, sign=sign, price=price):  # how far from the target after trading `value`
                    held = btc * price + sign * value
                    return held - order * (held + cash - sign * value - fee * value)

                value = off(Decimal(0)) / (off(Decimal(0)) - off(Decimal(1)))  # `off` is a straight line: here it is 0
                if value > 0:
                    cash, btc, paid = cash - sign * value - fee * value, btc + sign * value / price, paid + fee * value
            known = wanted == wanted
            previous, target = target, exact(wanted) if known else target
            drift = abs(btc * close / (cash + btc * close) - target)
            order = target if target != previous or (band is not None and drift > exact(band)) else None
            equity.append(float(cash + btc * close))
        return equity, float(paid)


@st.composite
def markets(draw, jump=2.0, most=25):
    """Candles whose prices move by up to a factor 10^`jump` between and within bars, with missing bars in between."""
    start = draw(st.floats(-4, 6))
    moves = st.tuples(st.floats(-jump, jump), st.floats(-jump, jump), st.integers(1, 4))
    level, hour, bars, hours = start, 0, [], []
    for gap, body, wait in draw(st.lists(moves, min_size=2, max_size=most)):
        open_ = min(start + 3, max(start - 3, level + gap))
        level = min(start + 3, max(start - 3, open_ + body))
        hour += 1 if not bars else wait
        bars.append((10**open_, 10**level))
        hours.append(hour)
    candles = candles_of(bars, hours)
    candles.attrs["timeframe"] = "1h"
    return candles


exposures = st.one_of(st.just(float("nan")), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
all_costs = st.builds(
    Costs,
    fee_bps=st.one_of(st.sampled_from([0.0, 10.0]), st.floats(0, 3000)),
    slippage_bps=st.one_of(st.sampled_from([0.0, 5.0]), st.floats(0, 3000)),
)


@st.composite
def histories(draw, jump=2.0, wanted=exposures):
    """A random market and a random exposure for each of its bars (NaN: no opinion)."""
    candles = draw(markets(jump))
    path = draw(st.lists(wanted, min_size=len(candles), max_size=len(candles)))
    return candles, pd.Series(path, candles.index, name="exposure", dtype=float)
