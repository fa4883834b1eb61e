"""From a foreign table to bars: how it is understood, what must be asked, and which rows cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from btclab.errors import CandleError, InputError, TooFewBars, unknown
from btclab.market.candles import COLUMNS, MOST_JUMP, MOST_SPIKE, infer_timeframe, timeframe_delta, validate_candles
from btclab.market.columns import (
    CLOSING,
    NAMES,
    PRICES,
    Question,
    Times,
    decimal_of,
    guess_columns,
    join_date_and_time,
    layout_of,
    numbers,
    plain,
    read_times,
)
from btclab.market.tables import Table
from btclab.settings import settings

MOST_SHOWN = 5
ALL_COINS = 21e6  # a bar with more volume than there are bitcoins is not counted in bitcoins
STAMPS = ("open", "close", "snapshot")
SECOND = pd.Timedelta(seconds=1)


@dataclass(frozen=True)
class Options:
    """What a file does not say of itself. None: told from the file, or asked for.

    columns      candle column → column of the file, e.g. {"close": "Last"}
    zone         time zone of times that name none, e.g. "UTC"
    unit         of times that are numbers: s, ms, us, ns
    dayfirst     whether 01/02/2024 is the first of February
    decimal      "," or ".", where 1,234 could be both
    volume_unit  "base" (bitcoins) or "quote" (money: divided by the bar's mean price, an approximation)
    stamp        "open", "close" (the bar ends at its time) or "snapshot" (the row dated t holds the price at t: the close of
                 the bar before)
    sheet        of a workbook; the first if None
    keep         "first" or "last" of rows with one time and different values; None refuses them
    timeframe    that the file must have
    symbol       the market, by which columns such as volume_eth are known; that of the settings if None
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    zone: str | None = None
    unit: str | None = None
    dayfirst: bool | None = None
    decimal: str | None = None
    volume_unit: str | None = None
    stamp: str | None = None
    sheet: str | None = None
    keep: Literal["first", "last"] | None = None
    timeframe: str | None = None
    symbol: str | None = None

    def __post_init__(self) -> None:
        valid = {"decimal": (".", ","), "volume_unit": ("base", "quote"), "stamp": STAMPS, "keep": ("first", "last")}
        for name, values in valid.items():
            if getattr(self, name) is not None and getattr(self, name) not in values:
                raise unknown(name, getattr(self, name), values)
        if self.timeframe is not None:
            timeframe_delta(self.timeframe)


@dataclass(frozen=True)
class Preview:
    """How a file is understood. It can be imported when there are no `questions` and no `problems`."""

    name: str
    columns: dict[str, str]  # candle column → column of the file
    unit: str  # of the times
    zone: str  # "ask" where it is not known
    stamp: str
    timeframe: str  # "" where it cannot be told yet
    rows: int
    first: pd.DataFrame  # the first bars as understood, or the first rows as they are
    questions: tuple[Question, ...]
    problems: pd.DataFrame  # row (as a spreadsheet counts), timestamp, problem
    notes: tuple[str, ...]
    duplicates: int = 0
    empty: int = 0


def bar_opens(stamps: pd.DatetimeIndex, timeframe: str, stamp: str) -> pd.DatetimeIndex:
    """When the bars open whose rows are dated `stamps` by one of three conventions.

    "open": then. "close": a bar earlier; vendors write 23:59:59.999 or 00:00:00. "snapshot": the price seen at t, or a few
    seconds later, is the close of the bar before.
    """
    step = timeframe_delta(timeframe)
    if stamp == "close":
        ends = stamps.ceil("1s")
        return ends.where(ends.floor(step) == ends, (ends + SECOND).floor(SECOND)) - step
    return stamps.floor(step) - step if stamp == "snapshot" else stamps


def symbol_of(options: Options) -> str:
    return options.symbol or settings().market.symbol


def examine(name: str, table: Table, options: Options) -> tuple[Preview, pd.DataFrame]:
    frame = join_date_and_time(table.frame)
    if frame.empty:
        raise TooFewBars("it has no rows.")
    if not table.headed:
        frame = frame.set_axis([f"column {place}" for place in range(1, frame.shape[1] + 1)], axis=1)
    roles, questions = _roles(frame, table.headed, options)
    notes, rows = list(table.notes), len(frame)
    answered = not questions
    bars, empty = pd.DataFrame(index=frame.index), 0
    problems: list[tuple[int, str]] = []
    times, timeframe, stamp = Times(pd.Series(dtype="datetime64[us, UTC]"), "?", "ask"), "", options.stamp or "open"
    if answered:
        times = read_times(frame[roles["timestamp"]], options.zone, options.unit, options.dayfirst)
        questions += times.questions
        bars, problems = _numbers(frame, roles, options, questions, notes)
        bars.insert(0, "timestamp", times.stamps)
        nothing = frame[[roles[price] for price in PRICES]].isna().all(axis=1) & ~(bars["volume"] > 0)
        bars, empty = bars[~nothing], int(nothing.sum())
        problems = [problem for problem in problems if problem[0] in bars.index]
        times.wrong = {row: what for row, what in times.wrong.items() if row in bars.index}
        problems += times.wrong.items()
        timeframe = _timeframe(bars["timestamp"], options, must=not questions and not problems)
        if plain(roles["timestamp"]) in CLOSING:
            stamp = options.stamp or "close"
        if timeframe:
            _ask_stamp(bars["timestamp"], timeframe, stamp, options, questions)
            opens = bar_opens(pd.DatetimeIndex(bars["timestamp"]), timeframe, stamp)
            bars = bars.assign(timestamp=pd.Series(opens, index=bars.index))
    duplicates = 0
    if answered and timeframe:
        bars, duplicates = _checked(bars, timeframe, options, problems, notes, judge=not questions)
    candles = _candles(bars, timeframe, table.frame.attrs) if answered else frame
    when = bars.get("timestamp", pd.Series(dtype=object))
    listed = (
        sorted({**dict(reversed(problems)), **times.wrong}.items()) if answered else []
    )  # one a row, its time first
    found = pd.DataFrame(
        [(row, _shown(when.get(row), frame, roles, row), what) for row, what in listed],
        columns=["row", "timestamp", "problem"],
    )
    preview = Preview(
        name=name,
        columns={role: roles[role] for role in ("timestamp", *COLUMNS) if role in roles},
        unit=times.unit,
        zone=times.zone,
        stamp=stamp,
        timeframe=timeframe,
        rows=rows,
        first=candles.head(MOST_SHOWN),
        questions=tuple(questions),
        problems=found,
        notes=tuple(notes),
        duplicates=duplicates,
        empty=empty,
    )
    if answered and not questions and not listed:
        validate_candles(candles, timeframe)
    return preview, candles


def _shown(stamp: Any, frame: pd.DataFrame, roles: dict[str, str], row: int) -> str:
    """The time of a row: in UTC, or as the file has it where it is no time."""
    if stamp is not None and not pd.isna(stamp):
        return str(stamp)
    written: Any = frame.loc[row, roles["timestamp"]]
    return "–" if pd.isna(written) else str(written)


def _roles(frame: pd.DataFrame, headed: bool, options: Options) -> tuple[dict[str, str], list[Question]]:
    """Which column is what, and the questions where one is missing. A quote volume stands in for volume only when named."""
    names = list(map(str, frame.columns))
    laid_out = {} if headed else layout_of(frame)
    roles = guess_columns(names, {**laid_out, **options.columns}, symbol_of(options))
    listed = ", ".join(names)
    if not headed and not laid_out and set(PRICES) - set(roles):
        sample = ", ".join(map(str, frame.iloc[0].tolist()))
        text = (
            f"it has no header, and its columns ({sample}) fit no known order: name each, e.g. --column 'open=column 2'"
        )
        return roles, [Question("columns", text, example="open=column 2")]
    if "timestamp" not in roles:
        text = f"no time column: found {listed}; name it with --column timestamp=NAME"
        return roles, [Question("columns", text, tuple(names), "timestamp=NAME")]
    missing = [price for price in PRICES if price not in roles]
    quote = roles.get("quote")
    if "volume" not in roles and quote and options.volume_unit == "quote":
        roles["volume"] = quote
    questions = []
    if "volume" not in roles and not (quote and not missing):
        missing.append("volume")
    if missing:
        text = f"no column {', '.join(missing)}; found {listed}"
        if {"open", "high", "low"} <= set(missing):
            text += (
                " – one price a row makes no candle, and prices are never invented: import a file of candles, or compare "
                "these with read_closes(PATH, COLUMN, stamp='snapshot')"
            )
        else:
            text += f"; name it with --column {missing[0]}=NAME"
        questions.append(Question("columns", text, tuple(names), f"{missing[0]}=NAME"))
    elif "volume" not in roles and quote:
        text = f"the only volume, {quote!r}, is in quote currency: divide it by the bar's mean price (--volume-unit quote)?"
        questions.append(Question("volume_unit", text, ("quote",), "quote"))
    elif options.volume_unit is None and plain(roles["volume"]) in NAMES["quote"]:
        text = f"is {roles['volume']!r} in base or in quote currency? --volume-unit base or quote"
        questions.append(Question("volume_unit", text, ("quote", "base"), "quote"))
    return roles, questions


def _numbers(
    frame: pd.DataFrame, roles: dict[str, str], options: Options, questions: list[Question], notes: list[str]
) -> tuple[pd.DataFrame, list[tuple[int, str]]]:
    """Prices and volume as floats, and the rows in which one is not a number."""
    decimal = options.decimal or decimal_of(frame[roles[name]] for name in COLUMNS)
    if not decimal:
        text = "is 1,234 more than a thousand or little more than one? --decimal . or --decimal ,"
        questions.append(Question("decimal", text, (".", ","), "."))
    bars, problems = pd.DataFrame(index=frame.index), []
    for name in COLUMNS:
        given = frame[roles[name]]
        bars[name] = numbers(given, decimal or ".")
        blank = (
            given.isna() | (given.astype("string").str.strip() == "") if given.dtype.kind not in "fi" else given.isna()
        )
        for row in bars.index[bars[name].isna() & ~blank]:
            problems.append((row, f"{name} is not a number: {str(given.loc[row])!r}"))
    if options.volume_unit == "quote":
        bars["volume"] = bars["volume"] / bars[list(PRICES)].mean(axis=1)
        notes.append(f"volume is {roles['volume']!r} (quote currency) ÷ the mean of the four prices: an approximation")
    elif options.volume_unit is None and symbol_of(options).startswith("BTC/") and (bars["volume"] > ALL_COINS).any():
        text = (
            f"{roles['volume']!r} reaches {bars['volume'].max():,.0f}, more than there are bitcoins: is it in quote currency? "
            "--volume-unit quote or base"
        )
        questions.append(Question("volume_unit", text, ("quote", "base"), "quote"))
    return bars, problems


def _timeframe(stamps: pd.Series, options: Options, must: bool) -> str:
    index = pd.DatetimeIndex(stamps.dropna()).sort_values().unique().floor("1min")
    try:
        held = infer_timeframe(index)
    except InputError:
        if options.timeframe and len(index) == 1:
            return options.timeframe
        if must:
            raise
        return options.timeframe or ""
    if options.timeframe and held != options.timeframe:
        raise CandleError(
            f"its bars are {held} apart, not {options.timeframe}. Import them as {held}; load longer ones later."
        )
    return held


def _ask_stamp(stamps: pd.Series, timeframe: str, stamp: str, options: Options, questions: list[Question]) -> None:
    index = pd.DatetimeIndex(stamps.dropna())
    left = index.floor(timeframe_delta(timeframe)) + timeframe_delta(timeframe) - index
    if options.stamp is None and stamp == "open" and len(index) and (left <= SECOND).mean() > 0.9:
        text = f"the times are the last second of each {timeframe}: do they say when the bar closes? --stamp close"
        questions.append(Question("stamp", text, ("close", "open"), "close"))


def _checked(
    bars: pd.DataFrame,
    timeframe: str,
    options: Options,
    problems: list[tuple[int, str]],
    notes: list[str],
    judge: bool,
) -> tuple[pd.DataFrame, int]:
    """`bars` in order, without identical copies; what is wrong with a row is added to `problems`."""
    if not bars["timestamp"].is_monotonic_increasing:
        notes.append("the rows were not in order of time and were sorted")
    copies = bars.duplicated()
    bars = bars[~copies]
    if options.keep is not None:
        before = len(bars)
        bars = bars[~bars.duplicated("timestamp", keep=options.keep) | bars["timestamp"].isna()]
        if before > len(bars):
            notes.append(
                f"{before - len(bars)} row(s) with a time that another row has were left out: {options.keep} kept"
            )
    bars = bars.sort_values("timestamp", kind="stable")
    wide = bars["high"] > MOST_SPIKE * bars["low"]  # a venue's own accident, or a typing error: its reader must judge
    if wide.any():
        notes.append(
            f"{int(wide.sum())} bar(s) range over {MOST_SPIKE:g} times their low, the first in row {wide.idxmax()}"
        )
    if judge:
        known = {row for row, _ in problems}
        problems += [(row, what) for row, what in _wrong(bars, timeframe) if row not in known]
    return bars, int(copies.sum())


def _wrong(bars: pd.DataFrame, timeframe: str) -> list[tuple[int, str]]:
    """What cannot be in each row of `bars` (sorted by time): one line a row."""
    open_, high, low, close, volume = (bars[name].to_numpy() for name in COLUMNS)
    stamps = bars["timestamp"]
    held = np.isfinite(bars[COLUMNS].to_numpy()).all(axis=1)
    index = pd.DatetimeIndex(stamps)
    with np.errstate(divide="ignore", invalid="ignore"):
        jump = open_[1:] / close[:-1]
    far = np.concatenate([[False], (jump > MOST_JUMP) | (jump < 1 / MOST_JUMP)])
    near = np.concatenate([[False], np.diff(index.as_unit("s").asi8) <= 86_400])
    twin = stamps.duplicated(keep=False).to_numpy() & stamps.notna().to_numpy()
    checks = [
        (~held, "holds a missing or infinite value"),
        (held & (low <= 0), "has a price ≤ 0"),
        (held & (high < low), "has its high below its low"),
        (
            held & ((high < np.maximum(open_, close)) | (low > np.minimum(open_, close))),
            "opens or closes outside its range",
        ),
        (held & (volume < 0), "has a negative volume"),
        (held & far & near, "opens far from the close before it"),
        (twin, "has the time of another row, and other values (--keep first or last takes one)"),
        (
            stamps.notna().to_numpy() & (index.floor(timeframe_delta(timeframe)) != index),
            f"does not start on a whole {timeframe}",
        ),
        (
            np.asarray(index > pd.Timestamp.now("UTC")),
            "lies in the future: is the zone or the order of day and month right?",
        ),
    ]
    rows: list[int] = bars.index.tolist()
    found: dict[int, str] = {}
    for wrong, what in checks:
        for place in np.flatnonzero(wrong):
            row = rows[place]
            if row not in found:
                values = ", ".join(f"{name}={bars[name].iloc[place]:g}" for name in COLUMNS)
                found[row] = f"{what}: {values}"
    return list(found.items())


def _candles(bars: pd.DataFrame, timeframe: str, attrs: Mapping[Any, Any]) -> pd.DataFrame:
    candles = bars[COLUMNS].set_axis(pd.DatetimeIndex(bars["timestamp"]), axis=0).rename_axis("timestamp")
    candles.attrs = {"simulated": bool(attrs.get("simulated")), **({"timeframe": timeframe} if timeframe else {})}
    return candles
