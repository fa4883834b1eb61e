"""Gaps filled with the bars of a second venue that the user names, and marked so. Nothing is ever interpolated or scaled."""

from __future__ import annotations

import numpy as np
import pandas as pd

from btclab.errors import DataUnavailable, InputError, TooFewBars
from btclab.market.candles import COLUMNS, timeframe_delta, timeframe_of, utc
from btclab.market.quality import each, flat_stretches, gaps, interpolated_stretches
from btclab.market.venues import at_timeframe, venue_of

EDGE = 0.02  # log premium at the edge of a gap from which another venue's bars would show as a jump
NEAR = 500  # gaps this many bars apart or less are asked for together: most exchanges answer with a page this long
MOST_FAILURES = 3  # in a row, from a venue that has given nothing yet


def repair_stored(
    source: str, venue: str, timeframe: str, symbol: str, from_symbol: str | None = None, dry_run: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fill the gaps of what is stored of `source` with bars of `venue` (as in `load_candles`); see `repair_candles`.

    The bars are kept beside the exchange's own, which always win. With `dry_run` nothing is stored.
    Raises `DataUnavailable` if nothing is stored or the venue gives nothing, and `InputError` as `repair_candles` does.
    """
    from btclab.market.sources import load_candles
    from btclab.market.store import save_repairs

    name = source.removeprefix("store:")
    if ":" in name:
        raise InputError(
            f"{source!r} is not in the store, where repairs are kept. Import it first: btclab import --help"
        )
    if venue.removeprefix("store:") == name and (from_symbol or symbol) == symbol:
        raise InputError(f"{name} cannot repair itself; name another venue, e.g. --from kraken")
    candles = load_candles(f"store:{name}", timeframe, symbol=symbol)
    holes = gaps(candles)
    if holes.empty:
        return candles.iloc[:0], pd.DataFrame(columns=DONE)
    bars, done = repair_candles(
        candles, _bars_around(holes, venue, timeframe, from_symbol or symbol), None, from_symbol
    )
    if len(bars) and not dry_run:
        save_repairs(bars, name, symbol, timeframe, venue.removeprefix("store:"))
    return bars, done


def _bars_around(holes: pd.DataFrame, venue: str, timeframe: str, symbol: str) -> pd.DataFrame:
    """The venue's bars in and beside `holes`; what lies between is not asked for."""
    from btclab.market.sources import load_candles

    step = timeframe_delta(timeframe)
    spans: list[tuple[pd.Timestamp, pd.Timestamp]] = []
    for hole in each(holes):
        start, end = hole.start - step, hole.end + 2 * step
        if spans and (":" in venue or start - spans[-1][1] <= NEAR * step):
            start = spans.pop()[0]
        spans.append((start, end))
    parts: list[pd.DataFrame] = []
    failures: list[str] = []
    for start, end in spans:
        try:
            parts.append(load_candles(venue, timeframe, start, end, symbol))
        except (DataUnavailable, TooFewBars) as error:  # the venue may have been younger, or halted too
            failures.append(str(error))
            if not parts and len(failures) == MOST_FAILURES:
                break
    if not parts:
        raise DataUnavailable(f"{venue} gave no bars for the gaps: {failures[0]}")
    bars = pd.concat(parts)
    bars.attrs = parts[0].attrs
    return bars[~bars.index.duplicated()].sort_index()


DONE = ["start", "end", "bars", "filled", "venue", "premium_before", "premium_after", "refused"]


def repair_candles(
    candles: pd.DataFrame,
    other: pd.DataFrame,
    spans: list[tuple[object, object]] | None = None,
    other_symbol: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars of a second venue for the gaps of `candles`: (bars to add, what was done about each gap).

    Only bars that are missing are given, as the other venue recorded them: never interpolated, never scaled; what it
    filled flat or by a line itself is left out. `spans` ([first, last] open times) limits it to the gaps they touch.
    The second frame has a row per gap: `start`, `end`, `bars`, `filled`, `venue`, `premium_before` and `premium_after`
    (log, own price over the other's on the bars next to the gap) and `refused`: why it stays a gap, or ''.
    A gap is refused where the venues are more than `EDGE` apart at its edges, or cannot be compared there.

    Raises `InputError` if the two are quoted in different currencies (unless `other_symbol` names the other market),
    in different timeframes, or if one is simulated and the other is not.
    """
    _refuse_other_market(candles, other, other_symbol)
    other = at_timeframe(other, candles)
    step = timeframe_delta(timeframe_of(candles))
    invented = pd.Series(False, index=other.index)
    for stretch in each(pd.concat([flat_stretches(other), interpolated_stretches(other)])):
        invented[stretch.start : stretch.end] = True
    sound = other[COLUMNS][~invented]
    rows, parts = [], [sound.iloc[:0]]
    for gap in each(gaps(candles)):
        if spans is not None and not any(utc(a) <= gap.end and gap.start <= utc(b) for a, b in spans):
            continue
        before, after = (
            _edge(candles, sound, gap.start - step, "close"),
            _edge(candles, sound, gap.end + step, "open"),
        )
        bars = sound.loc[gap.start : gap.end]
        refused = _why_refused(before, after, bars, venue_of(other))
        parts.append(bars if not refused else bars.iloc[:0])
        rows.append((gap.start, gap.end, gap.bars, len(parts[-1]), venue_of(other), before, after, refused))
    bars = pd.concat(parts)
    bars.attrs = {**other.attrs, "timeframe": timeframe_of(candles)}
    return bars, pd.DataFrame(rows, columns=DONE)


def _refuse_other_market(candles: pd.DataFrame, other: pd.DataFrame, other_symbol: str | None) -> None:
    if bool(candles.attrs.get("simulated")) != bool(other.attrs.get("simulated")):
        raise InputError(f"{venue_of(candles)} and {venue_of(other)}: simulated and real bars are not mixed.")
    symbol, found = (str(frame.attrs.get("symbol") or "") for frame in (candles, other))
    if symbol.partition("/")[2] != found.partition("/")[2] and other_symbol != found:
        raise InputError(
            f"{venue_of(candles)} trades {symbol or 'an unnamed market'}, {venue_of(other)} {found or 'an unnamed market'}: "
            f"the prices are in different currencies. If that is what you want, name it: --from-symbol {found}"
        )


def _edge(candles: pd.DataFrame, other: pd.DataFrame, moment: pd.Timestamp, price: str) -> float:
    if moment not in other.index:
        return float("nan")
    return float(np.log(candles[price][moment] / other[price][moment]))


def _why_refused(before: float, after: float, bars: pd.DataFrame, venue: str) -> str:
    if bars.empty:
        return f"{venue} has no bars there that it recorded itself"
    if np.isnan(before) or np.isnan(after):
        return f"{venue} has no bar beside the gap, so its price cannot be compared"
    worst = max(before, after, key=abs)
    if abs(worst) > EDGE:
        return f"the prices are {100 * worst:+.1f} % apart beside the gap; at most ±{100 * EDGE:g} % is taken"
    return ""
