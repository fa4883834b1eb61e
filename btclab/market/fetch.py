"""Bringing the store up to date: which bars are missing, asking for those alone, and storing them as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from btclab.errors import CandleError, DataUnavailable, InputError
from btclab.market.candles import refuse_jumps, timeframe_delta, utc
from btclab.market.exchange import ExchangeSource
from btclab.market.store import Buffer, Span, bar_at, forget_holes, held_spans, known_holes, remember_holes
from btclab.settings import settings

NEAR = 500  # holes this many bars apart or less are fetched together: most exchanges answer with a page this long
SETTLED = pd.Timedelta("1D")  # a hole is believed only when it is this long past: exchanges catch up after an outage


class Source(Protocol):
    """What gives candles page by page."""

    name: str

    def fetch(
        self, symbol: str, timeframe: str, start: pd.Timestamp, end: pd.Timestamp, *, backward: bool = False
    ) -> Iterator[pd.DataFrame]:
        """Closed bars from `start` up to but not including `end`, a frame a page; newest first if `backward`."""
        ...


@dataclass(frozen=True)
class Fetched:
    """What a fetch did: `new` bars stored by it; `bars`, `first` and `last` (open times) of all that is stored now."""

    source: str
    symbol: str
    timeframe: str
    new: int
    bars: int
    first: pd.Timestamp
    last: pd.Timestamp
    missing: int  # bars that are missing between first and last
    asked: int  # bars that the span asked for would hold if none were missing
    held: int  # bars of that span that are stored now
    notes: tuple[str, ...] = ()  # what the source says about them

    @property
    def short(self) -> str:
        """Why this is less than half of what was asked for (some exchanges keep only the newest bars), or ''."""
        return f"has only {self.held:,} of the {self.asked:,} bars asked for" if self.held < self.asked / 2 else ""


def source_of(name: str) -> Source:
    """The client of a named source. Raises `InputError` if there is none of that name."""
    if name == "coingecko":
        from btclab.market.coingecko import CoinGeckoSource

        return CoinGeckoSource()
    return ExchangeSource(name)


def update_candles(
    source: str,
    timeframe: str = "1h",
    start: object = None,
    end: object = None,
    symbol: str | None = None,
    refresh: bool = False,
) -> Fetched:
    """Store what is missing of one market from `start` (default: `market.years` ago) to `end` (default: now).

    Only missing spans are asked for, a resumed fetch goes on at the last stored bar, and a hole that the source
    itself has is asked for once (`refresh` asks again). What has arrived is stored, also when the fetch is interrupted
    or fails. Memory does not grow with the length of the span. Raises `DataUnavailable` naming the source and the cause.
    """
    symbol = symbol or settings().market.symbol
    market, step, now = (source, symbol, timeframe), timeframe_delta(timeframe), pd.Timestamp.now("UTC")
    client = source_of(source)
    lower, upper = span_of(start, end, now)
    if start is not None and lower >= upper:
        raise InputError(
            f"There is no time between {lower} and {upper}: the first bar must open before the end, and before now."
        )
    lower, upper = lower.ceil(step), min(upper.ceil(step), now.floor(step))
    if refresh:
        forget_holes(*market)
    held = held_spans(*market)
    before = _count(held, step)
    try:
        for span in missing_spans(sorted([*held, *known_holes(*market)]), lower, upper, step):
            _fetch_span(client, symbol, timeframe, span, held, now)
    except DataUnavailable as error:
        kept = f" What is stored up to {held[-1][1] - step} can be had as store:{source}." if held else ""
        raise type(error)(f"{error}{kept}") from error
    held = held_spans(*market)
    if not held:
        raise DataUnavailable(f"{source}: no bars of {symbol} {timeframe} between {lower} and {upper}.")
    bars, first, past = _count(held, step), held[0][0], held[-1][1]
    absent = _count(missing_spans(held, lower, upper, step, near=0), step)
    asked = max(0, (upper - lower) // step)
    missing = (past - first) // step - bars
    return Fetched(
        *market,
        bars - before,
        bars,
        first,
        past - step,
        missing,
        asked,
        asked - absent,
        tuple(getattr(client, "notes", ())),
    )


def span_of(start: object, end: object, now: pd.Timestamp) -> Span:
    """The span [from, to) that a caller means: without a start the last `market.years`, without an end until now."""
    first = utc(start) if start is not None else now - pd.Timedelta(days=365 * settings().market.years)
    return first, min(utc(end), now) if end is not None else now


def _count(spans: list[Span], step: pd.Timedelta) -> int:
    return sum((past - first) // step for first, past in spans)


def missing_spans(
    held: list[Span], lower: pd.Timestamp, upper: pd.Timestamp, step: pd.Timedelta, near: int = NEAR
) -> list[Span]:
    """Spans [from, to) of open times in [lower, upper) that the sorted spans `held` leave out.

    Those that at most `near` held bars keep apart are joined.
    """
    spans: list[Span] = []
    reached = lower
    for first, past in [*held, (upper, upper)]:
        if min(first, upper) > reached:
            joined = spans and reached - spans[-1][1] <= near * step
            spans.append((spans.pop()[0] if joined else reached, min(first, upper)))
        reached = max(reached, past)
    return spans


def _fetch_span(client: Source, symbol: str, timeframe: str, span: Span, held: list[Span], now: pd.Timestamp) -> None:
    """Ask for one missing span and store it; remember what the source has no bars for.

    Before the oldest stored bar it goes backwards, so that what is stored has no hole if it is interrupted. The bar
    after the span is asked for too where it is known: if it comes, the source is well and a hole before it is a hole.
    """
    market, step = (client.name, symbol, timeframe), timeframe_delta(timeframe)
    lower, upper = span
    backward = bool(held) and upper == held[0][0]
    before, after = bar_at(*market, lower - step), bar_at(*market, upper)
    newest = None
    with Buffer(*market) as buffer:
        end = upper if after is None else upper + step
        for page in client.fetch(symbol, timeframe, lower, end, backward=backward):
            _refuse_foreign(client.name, page, step, before, after)
            newest = page.index[-1] if newest is None else max(newest, page.index[-1])
            buffer.add(page)
    if newest is not None:
        held = held_spans(*market)
        # Only between bars: what lies before the first one may be beyond what the source or its plan reaches.
        since, past = max(lower, held[0][0]), min(newest, now.floor(step) - SETTLED)
        remember_holes(missing_spans(held, since, past, step, near=0), *market)


def _refuse_foreign(name: str, page: pd.DataFrame, step: pd.Timedelta, *edges: pd.DataFrame | None) -> None:
    """A page that does not go on from the stored bars beside it is in another unit or of another market."""
    near = [
        edge for edge in edges if edge is not None and page.index[0] - step <= edge.index[0] <= page.index[-1] + step
    ]
    if near:
        row = pd.concat([*near, page])  # where both have a bar, the stored one
        try:
            refuse_jumps(row[~row.index.duplicated()].sort_index())
        except CandleError as error:
            raise DataUnavailable(f"{name}: answered with wrong candles: {error}") from error
