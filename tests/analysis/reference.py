"""A backtest so plain that it is seen to be right, and random markets on which to compare the real one with it."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pandas as pd
from hypothesis import strategies as st

HOUR = pd.Timedelta(hours=1)


def make_candles(opens, closes, hours=None):
    """Hourly candles from 2024 on, or at the given `hours` after its start; high and low are the open or the close."""
    hours = range(len(opens)) if hours is None else hours
    index = pd.DatetimeIndex([pd.Timestamp("2024-01-01", tz="UTC") + hour * HOUR for hour in hours], name="timestamp")
    frame = pd.DataFrame({"open": opens, "close": closes}, index, dtype=float)
    frame["high"], frame["low"], frame["volume"] = frame.max(axis=1), frame.min(axis=1), 1.0
    frame.attrs["timeframe"] = "1h"
    return frame[["open", "high", "low", "close", "volume"]]


def reference_backtest(candles, exposure, costs, cash, band=None):
    """Equity at each close and all fees paid, in 50 digits. It knows no formula for a quantity: it tries values."""
    with localcontext(prec=50):
        fee, slip = _exact(costs.fee_bps) / 10_000, _exact(costs.slippage_bps) / 10_000
        cash, btc, paid, target, order, equity = _exact(cash), Decimal(0), Decimal(0), Decimal(0), None, []
        for open_, close, wanted in zip(candles["open"], candles["close"], exposure, strict=True):
            if order is not None:
                held = btc * _exact(open_)
                sign = 1 if order * (cash + held) > held else -1
                price = _exact(open_) * (1 + sign * slip)
                value = _value_to_trade(order, cash, btc * price, sign, fee)
                if value > 0:
                    cash, btc, paid = cash - sign * value - fee * value, btc + sign * value / price, paid + fee * value
            worth = cash + btc * _exact(close)
            before, target = target, target if math.isnan(wanted) else _exact(wanted)
            drifted = band is not None and abs(btc * _exact(close) / worth - target) > _exact(band)
            order = target if target != before or drifted else None
            equity.append(float(worth))
        return equity, float(paid)


def _value_to_trade(exposure, cash, held, sign, fee):
    def miss(value):  # how much more than asked is held after a trade of `value`: a straight line
        after = held + sign * value
        return after - exposure * (after + cash - sign * value - fee * value)

    return miss(0) / (miss(0) - miss(1))  # where the line meets 0


def _exact(number):
    return Decimal(float(number))


bps = st.one_of(st.sampled_from([0.0, 10.0]), st.floats(0, 3_000))
bands = st.one_of(st.none(), st.floats(0.001, 0.5))
exposures = st.one_of(st.just(math.nan), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))


@st.composite
def markets(draw, jump=2.0, wanted=exposures):
    """Random candles and an exposure for each (NaN: no opinion).

    Prices start between 0.0001 and 1,000,000, jump by up to a factor 10^`jump` between and within bars, and stay within
    a factor 1,000 of the first; bars are missing in between.
    """
    move = st.floats(-jump, jump)
    start, moves = (
        draw(st.floats(-4, 6)),
        draw(st.lists(st.tuples(move, move, st.integers(1, 4)), min_size=2, max_size=25)),
    )
    level, hour, opens, closes, hours = start, 0, [], [], []
    for gap, body, wait in moves:
        open_ = min(start + 3, max(start - 3, level + gap))
        level = min(start + 3, max(start - 3, open_ + body))
        opens.append(10**open_)
        closes.append(10**level)
        hours.append(hour)
        hour += wait
    candles = make_candles(opens, closes, hours)
    path = draw(st.lists(wanted, min_size=len(candles), max_size=len(candles)))
    return candles, pd.Series(path, candles.index, dtype=float, name="exposure")
