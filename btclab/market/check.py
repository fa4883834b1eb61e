"""`check_candles`: every finding on a set of candles in one report, alone and against a reference venue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd

from btclab.errors import CandleError, TooFewBars
from btclab.market.candles import COLUMNS, between, infer_timeframe, lapse, timeframe_delta, timeframe_of
from btclab.market.quality import (
    FINDINGS,
    LARGE,
    MOVE,
    SPIKE,
    bar_returns,
    clean_raw,
    each,
    flat_stretches,
    gaps,
    inspect_raw,
    interpolated_stretches,
    outliers,
    quality_summary,
    silent_stretches,
)
from btclab.market.venues import (
    FOREIGN,
    LAGS,
    LEAST_OVERLAP,
    aligned,
    at_timeframe,
    date_shifts,
    deviations,
    disagreements,
    lag_correlations,
    premium_spans,
    venue_of,
)

SEVERITIES = ("bad", "suspicious", "note")
CANDIDATE = 10.0  # robust σ from which a bar is compared with the reference; alone it must be far more to be listed
COVERED = 0.99  # share of the bars between first and last under which the whole is called thin
LONG = pd.Timedelta(days=1)  # a shorter gap is what an exchange's maintenance leaves

Row = tuple[str, str, pd.Timestamp, pd.Timestamp, int, str]


@dataclass(frozen=True, eq=False)
class Report:
    """What was found.

    findings   a row each, worst first: `finding`, `severity`, `start`, `end` (open times), `bars`, `detail`
               bad: would mislead a model or a backtest; suspicious: look, or name a reference that can tell; note: good to know
    summary    the figures: `finding`, `value`, `unit`
    candles    the sound bars that were examined
    reference  the reference's bars at the times of `candles`, at their true dates; None without one
    shifts     the spans of `date_shifts`, and `lags` the `lag_correlations`; None if there were too few bars in common
    """

    findings: pd.DataFrame
    summary: pd.DataFrame
    candles: pd.DataFrame
    reference: pd.DataFrame | None = None
    shifts: pd.DataFrame | None = None
    lags: pd.DataFrame | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing bad was found."""
        return not (self.findings["severity"] == "bad").any()

    @property
    def counts(self) -> pd.DataFrame:
        """How often each finding came: `finding`, `severity`, `times`, `bars`, worst first."""
        grouped = self.findings.groupby(["severity", "finding"], sort=False)["bars"].agg(["size", "sum"]).reset_index()
        counted = grouped.rename(columns={"size": "times", "sum": "bars"})
        return counted[["finding", "severity", "times", "bars"]]


def check_candles(candles: pd.DataFrame, reference: pd.DataFrame | None = None) -> Report:
    """Examine `candles`, as loaded or raw (unsorted, with duplicates), against `reference`: another venue's candles or none.

    Frames of closes alone are examined as far as they go. Without a reference a large move is only suspicious; one that
    the reference shows too is no finding. A series found to be dated early or late is compared at its true dates.

    Raises `InputError` if the reference has longer bars, `CandleError` or `TooFewBars` if there are no candles to examine.
    """
    raw = inspect_raw(candles, candles.attrs.get("timeframe"))
    candles = clean_raw(candles)
    rows: list[Row] = [tuple(row) for row in each(raw)]
    if candles.attrs.get("refused"):
        rows.append(("not taken as candles", "note", *_whole(candles), candles.attrs["refused"]))
    summary = quality_summary(candles)
    held = away = shifts = lags = None
    if reference is not None:
        reference = at_timeframe(clean_raw(reference), candles)
        try:
            shifts, lags = date_shifts(candles, reference), lag_correlations(candles, reference)
            rows += _shifted(shifts, candles, reference)
        except TooFewBars as error:
            rows.append(("date shift not examined", "note", *_whole(candles), str(error)))
        held = aligned(reference, candles, shifts)
        away = deviations(candles, held)
        rows += _disagreeing(candles, held, away)
        summary = _with_reference(summary, candles, held, shifts)
    rows += [*_missing(candles, reference), *_stretches(candles), *_outlying(candles, held, away)]
    findings = pd.DataFrame(rows, columns=FINDINGS)
    for edge in ("start", "end"):
        findings[edge] = pd.to_datetime(findings[edge], utc=True)
    findings = findings.assign(rank=findings["severity"].map(SEVERITIES.index)).sort_values(
        ["rank", "start"], kind="stable"
    )
    return Report(findings[FINDINGS].reset_index(drop=True), summary, candles, held, shifts, lags)


def _whole(candles: pd.DataFrame) -> tuple[pd.Timestamp, pd.Timestamp, int]:
    return candles.index[0], candles.index[-1], len(candles)


def load_for_check(
    source: str | None, timeframe: str = "1h", start: object = None, end: object = None, symbol: str | None = None
) -> pd.DataFrame:
    """`load_candles`; a file that it refuses is read as it stands, so that all that is wrong with it can be told."""
    from btclab.market.sources import load_candles

    try:
        return load_candles(source, timeframe, start, end, symbol)
    except CandleError as error:
        kind, _, text = (source or "").partition(":")
        if kind != "file":
            raise
        name, _, query = text.partition("?")
        raw = _read_raw(Path(name).expanduser(), dict(parse_qsl(query)).get("tz") or "UTC")
        raw.attrs = {
            "source": f"file:{Path(name).name}",
            "symbol": symbol,
            "refused": f"{error} Examined as it stands, naive times as UTC.",
        }
        return between(raw, start, end)


def load_reference(against: str, candles: pd.DataFrame, symbol: str | None = None) -> pd.DataFrame | None:
    """Candles of `against` (as in `load_candles`) over the time of `candles` and in their timeframe; None for ''."""
    if not against:
        return None
    index = pd.DatetimeIndex(candles.index).dropna()
    timeframe = candles.attrs.get("timeframe") or infer_timeframe(index.unique().sort_values())
    margin = (LAGS + 1) * timeframe_delta(timeframe)
    market = symbol or candles.attrs.get("symbol")
    return load_for_check(against, timeframe, index.min() - margin, index.max() + margin, market)


def _read_raw(path: Path, zone: str) -> pd.DataFrame:
    """Prices and volume of a file by the times it gives (naive ones are in `zone`), defects and all; closes alone will do."""
    from btclab.market.columns import decimal_of, guess_columns, numbers, read_times
    from btclab.market.tables import read_table

    frame = read_table(path.read_bytes(), path.name, None).frame
    roles = guess_columns(list(map(str, frame.columns)), {}, "")
    priced = [name for name in frame.columns if "price" in str(name).lower()]
    if "close" not in roles and priced:
        roles["close"] = priced[0]
    if not {"timestamp", "close"} <= set(roles):
        raise CandleError(
            f"{path.name}: needs a column of times and one of closes; found {', '.join(map(str, frame.columns))}."
        )
    columns = [name for name in COLUMNS if name in roles]
    if not {"open", "high", "low"} <= set(roles):
        columns = ["close"]
    decimal = decimal_of([frame[roles[name]] for name in columns]) or "."
    times = read_times(frame[roles["timestamp"]], zone, None, None)
    if times.questions:
        raise CandleError(f"{path.name}: {times.questions[0].text}.")
    values = {name: numbers(frame[roles[name]], decimal).to_numpy() for name in columns}
    return pd.DataFrame(values, index=pd.DatetimeIndex(times.stamps, name="timestamp"))


def _missing(candles: pd.DataFrame, reference: pd.DataFrame | None) -> Iterator[Row]:
    step = timeframe_delta(timeframe_of(candles))
    for gap in each(gaps(candles)):
        detail = lapse(gap.bars * step)
        if reference is not None:
            there = int(((reference.index >= gap.start) & (reference.index <= gap.end)).sum())
            detail += f"; {venue_of(reference)} has {f'{there:,}' if there else 'none'} of these bars"
        yield "gap", "bad" if gap.bars * step >= LONG else "suspicious", gap.start, gap.end, gap.bars, detail
    first, last = candles.index[0], candles.index[-1]
    expected = (last - first) // step + 1
    if len(candles) < COVERED * expected:
        detail = f"{100 * len(candles) / expected:.2f} % of the bars between first and last are there"
        yield "low coverage", "bad", first, last, int(expected - len(candles)), detail


def _stretches(candles: pd.DataFrame) -> Iterator[Row]:
    if not set(COLUMNS) <= set(candles.columns):
        return
    step = timeframe_delta(timeframe_of(candles))
    kinds = (
        ("flat-filled", "bad", flat_stretches, "one price throughout: a halt that was filled"),
        ("interpolated", "bad", interpolated_stretches, "on a straight line to the bar after: it knows the future"),
        ("zero volume", "suspicious", silent_stretches, "nothing was traded"),
    )
    for finding, severity, find, what in kinds:
        for row in each(find(candles)):
            yield finding, severity, row.start, row.end, row.bars, f"{what}, {lapse(row.bars * step)}"


def _outlying(candles: pd.DataFrame, held: pd.DataFrame | None, away: pd.DataFrame | None) -> Iterator[Row]:
    """Outliers: what the reference contradicts is bad, what it confirms is none, what it cannot judge is suspicious."""
    apart = None if held is None or away is None else _apart(candles, held, away)
    weakest = () if apart is None else (CANDIDATE, CANDIDATE, LARGE)
    for row in each(outliers(candles, *weakest)):
        price = float(candles[row.kind if row.kind in candles else "close"][row.start])
        size = float(np.expm1(-row.size if row.kind == "low" else row.size))
        back = "" if row.kind == "move" else " and back"
        said = f"{row.kind} to {price:,.2f}, {100 * size:+.1f} % ({abs(row.z):.0f} σ){back}"
        other = np.nan if apart is None else abs(float(apart[row.kind][row.start]))
        if np.isnan(other):
            large = abs(row.size) >= LARGE or abs(row.z) >= MOVE if row.kind == "move" else row.z >= SPIKE
            if large:
                yield "outlier", "suspicious", row.start, row.start, 1, f"{said}; no reference there to tell"
        elif other >= abs(row.size) / 2 and other >= CANDIDATE * row.size / row.z:
            venue = venue_of(held) if held is not None else ""
            yield "outlier", "bad", row.start, row.start, 1, f"{said}; {venue} is {100 * other:.1f} % away"


def _apart(candles: pd.DataFrame, held: pd.DataFrame, away: pd.DataFrame) -> pd.DataFrame:
    """How far moves, lows and highs are from the reference's (log); of closes alone, the close stands for all."""
    low, high = (away.get(name, away["close"]) for name in ("low", "high"))
    return pd.DataFrame({"move": bar_returns(candles) - bar_returns(held), "low": low, "high": high})


def _disagreeing(candles: pd.DataFrame, held: pd.DataFrame, away: pd.DataFrame) -> Iterator[Row]:
    venue = venue_of(held)
    for row in each(disagreements(away, timeframe_of(candles))):
        detail = f"{row.price} {100 * np.expm1(row.apart):+.2f} % from {venue}, beyond the usual premium"
        yield "disagreement", "suspicious", row.start, row.end, row.bars, detail
    for row in each(premium_spans(candles, held)):
        severity = "bad" if abs(row.premium) > FOREIGN else "suspicious"
        detail = (
            f"the price is {100 * np.expm1(row.premium):+.1f} % from {venue} throughout: another currency or market?"
        )
        yield "price level", severity, row.start, row.end, row.bars, detail


def _shifted(shifts: pd.DataFrame, candles: pd.DataFrame, reference: pd.DataFrame) -> Iterator[Row]:
    venue, timeframe = venue_of(reference), timeframe_of(candles)
    for row in each(shifts):
        if not row.told:
            short = f"; {LEAST_OVERLAP} bars are needed to tell" if row.bars < LEAST_OVERLAP else ", too low to tell"
            detail = f"correlation with {venue} is {row.correlation:.2f} at its best, over {row.bars:,} bars{short}"
            yield "dates not confirmed", "note", row.start, row.end, row.bars, detail
        elif row.lag:
            word = "late" if row.lag > 0 else "early"
            many = f"{abs(row.lag)} bar{'s' if abs(row.lag) > 1 else ''} ({timeframe})"
            beside = f"{row.correlation:.2f} there and {row.at_zero:.2f} as dated ({row.z:.0f} σ)"
            detail = f"dated {many} {word}: correlation with {venue} is {beside}"
            yield "date shift", "bad", row.start, row.end, row.bars, detail


def _with_reference(
    summary: pd.DataFrame, candles: pd.DataFrame, held: pd.DataFrame, shifts: pd.DataFrame | None
) -> pd.DataFrame:
    apart = pd.Series(np.log(candles["close"] / held["close"])).dropna()
    if shifts is None:
        lag = "cannot be told: too few bars in common"
    else:
        told = shifts[shifts["told"]]
        spans = [f"{row.lag:+d}" if row.lag else "0" for row in each(told)]
        lag = ", ".join(f"{lag} from {row.start:%Y-%m-%d}" for lag, row in zip(spans, each(told), strict=True))
    middle = f"{100 * np.expm1(apart.median()):+.3f}" if len(apart) else "–"
    rows = [
        ("reference", f"{venue_of(held)} {held.attrs.get('symbol') or ''}".strip(), "venue"),
        ("in common", f"{len(apart):,}", "bars"),
        ("median premium", middle, "% of the reference's close"),
        ("date shift", lag or "cannot be told", "bars"),
    ]
    return pd.concat([summary, pd.DataFrame(rows, columns=summary.columns)], ignore_index=True)
