"""Which column of a foreign table is what, and what its numbers and times mean. Nothing here guesses where two ways are open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from btclab.errors import CandleError, unknown

PRICES = ("open", "high", "low", "close")
ROLES = ("timestamp", *PRICES, "volume")
# As exchanges, aggregators and chart programs write them, letters and digits only; the first that is there is taken.
NAMES: dict[str, tuple[str, ...]] = {
    "timestamp": (
        *(
            "open_time",
            "opentime",
            "timeopen",
            "time_open",
            "timestamp",
            "unix",
            "unix_timestamp",
            "epoch",
            "date_time",
        ),
        *(
            "datetime",
            "gmt_time",
            "utc_time",
            "time_utc",
            "date_utc",
            "timestamp_utc",
            "time_period_start",
            "snapped_at",
        ),
        *(
            "date",
            "time",
            "datum",
            "zeit",
            "datum_zeit",
            "local_time",
            "ts",
            "t",
            "close_time",
            "timeclose",
            "time_close",
        ),
    ),
    "open": ("open", "o", "open_price", "price_open", "eröffnung", "eroeffnung", "erster"),
    "high": ("high", "h", "high_price", "price_high", "max", "hoch", "höchst", "hoechst", "tageshoch"),
    "low": ("low", "l", "low_price", "price_low", "min", "tief", "tiefst", "tagestief"),
    "close": ("close", "c", "close_price", "price_close", "schluss", "schlusskurs", "last", "letzter"),
    "volume": ("volume", "volume_btc", "volume_base", "base_volume", "volume_xbt", "vol", "v", "volumen"),
    "quote": (
        *("quote_volume", "quote_asset_volume", "volume_quote", "volume_currency", "turnover", "umsatz"),
        *("volume_usd", "volume_usdt", "volume_usdc", "volume_eur", "volume_gbp"),
    ),
}
CLOSING = ("close_time", "timeclose", "time_close")
# Columns of files without a header, by their number; high and low tell two orders of the same length apart.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "Binance": ("timestamp", "open", "high", "low", "close", "volume", "", "", "", "", "", ""),
    "Kraken API": ("timestamp", "open", "high", "low", "close", "", "volume", ""),
    "Kraken": ("timestamp", "open", "high", "low", "close", "volume", ""),
    "usual": ("timestamp", "open", "high", "low", "close", "volume"),
    "Coinbase": ("timestamp", "low", "high", "open", "close", "volume"),
    "Bitfinex": ("timestamp", "open", "close", "high", "low", "volume"),
}
GENESIS = pd.Timestamp("2009-01-03", tz="UTC")  # there is no older price of a coin
LATEST = pd.Timestamp("2100-01-01", tz="UTC")


@dataclass(frozen=True)
class Question:
    """What cannot be told from the file: the `option` that answers it, what is asked, and the answers (or an example)."""

    option: str
    text: str
    choices: tuple[str, ...] = ()
    example: str = ""


def plain(name: object) -> str:
    """A column's name in small letters and digits, words joined by `_`: 'Volume (BTC)' → 'volume_btc'."""
    spaced = re.sub(r"[^0-9a-zà-ÿ]+", "_", str(name).strip().lower()).strip("_")
    return re.sub(r"^(open|high|low|close)_(usdt?|usdc|eur)$", r"\1", spaced)


def guess_columns(names: Iterable[str], given: Mapping[str, str], symbol: str) -> dict[str, str]:
    """The source column of each role that is found, `given` ones first; "quote" is a volume in quote currency.

    Raises `InputError` for a role or column that does not exist, `CandleError` where two columns have one name.
    """
    names = list(names)
    base, _, quote = symbol.lower().partition("/")
    found: dict[str, str] = {}
    for role, column in given.items():
        if role not in ROLES:
            raise unknown("candle column", role, ROLES)
        fits = [name for name in names if name == column] or [name for name in names if plain(name) == plain(column)]
        if not fits:
            raise unknown("column", column, names)
        found[role] = fits[0]
    extra = {"volume": (f"volume_{base}",), "quote": (f"volume_{quote}",)}
    for role, usual in NAMES.items():
        if role in found:
            continue
        for wanted in (*usual, *extra.get(role, ())):
            fits = [name for name in names if plain(name) == wanted and name not in found.values()]
            if len(fits) > 1:
                raise CandleError(f"column {wanted} comes twice (capitals do not count); keep one.")
            if fits:
                found[role] = fits[0]
                break
    return found


def layout_of(frame: pd.DataFrame) -> dict[str, str]:
    """The roles of a table without header if exactly one known order of columns fits its highs and lows, else nothing."""
    fits = []
    for layout in LAYOUTS.values():
        if len(layout) != frame.shape[1]:
            continue
        at = {role: position for position, role in enumerate(layout) if role}
        sample = frame.head(200).iloc[:, [at[role] for role in PRICES]]
        rows = sample.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
        top, bottom = rows[:, [0, 3]].max(axis=1), rows[:, [0, 3]].min(axis=1)
        if ((rows[:, 1] >= top) & (rows[:, 2] <= bottom)).mean() > 0.9:
            fits.append({role: str(frame.columns[position]) for role, position in at.items()})
    return fits[0] if len(fits) == 1 else {}


def join_date_and_time(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with a column 'date + time' where the day and the hour stand in two columns."""
    parts = {plain(name): name for name in frame.columns}
    if "date" not in parts or "time" not in parts or frame.empty:
        return frame
    hour = frame[parts["time"]].astype(str)
    if not re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", hour.iloc[0].strip()):
        return frame
    joined = frame[parts["date"]].astype(str).str.strip() + " " + hour.str.strip()
    frame = frame.drop(columns=[parts["date"], parts["time"]])
    frame.insert(0, "date + time", joined)
    return frame.rename(columns={"date + time": "timestamp"}) if "timestamp" not in parts else frame


# Numbers


def decimal_of(columns: Iterable[pd.Series]) -> str:
    """The decimal mark of numbers held as text: "." or ",", or "" where 1,234 could be either."""
    texts = [column.dropna().astype(str) for column in columns if not pd.api.types.is_numeric_dtype(column.dtype)]
    text = pd.concat(texts) if texts else pd.Series(dtype=str)
    if not text.str.contains(",", regex=False).any():
        return "."
    text = text.str.replace(r"[^\d.,]", "", regex=True)
    grouped = r"\d{1,3}(?:{0}\d{{3}})+"
    if text.str.contains(r"\..*,", regex=True).any():
        return ","
    if text.str.contains(r",.*\.", regex=True).any():
        return "."
    commas = text[text.str.contains(",", regex=False)]
    if not commas.str.fullmatch(grouped.replace("{0}", ",").replace("{{3}}", "{3}")).all():
        return ","
    return "." if text.str.contains(".", regex=False).any() else ""


def numbers(values: pd.Series, decimal: str) -> pd.Series:
    """`values` as float64, NaN where one is no number. Thousands may be marked by the other mark, space or apostrophe."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.astype("float64")
    text = values.astype("string").str.strip()
    plainly = pd.to_numeric(text, errors="coerce")
    if decimal == "." and plainly.notna().sum() == text.notna().sum():
        return plainly.astype("float64")
    text = text.str.replace(r"[\s\u00a0\u202f'’$€£]", "", regex=True)
    group = re.escape("." if decimal == "," else ",")
    grouped = (
        text.str.fullmatch(rf"[-+]?\d{{1,3}}({group}\d{{3}})+({re.escape(decimal)}\d+)?").fillna(False).astype(bool)
    )
    text = text.where(~grouped, text.str.replace(group, "", regex=True))
    if decimal == ",":
        text = text.where(~text.str.contains(".", regex=False).fillna(False).astype(bool))
        text = text.str.replace(",", ".", regex=False)
    return pd.to_numeric(text, errors="coerce").astype("float64")


# Times


@dataclass
class Times:
    """Times in UTC, NaT where one is wrong; `wrong` says why, by row. `zone` is "ask" where it is not known."""

    stamps: pd.Series
    unit: str
    zone: str
    wrong: dict[int, str] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)


UNITS: dict[str, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}  # microseconds in one
_AWARE = r"Z$|\d:\d\d(?::\d\d)?(?:\.\d+)?\s?[+-]\d\d(?::?\d\d)?$"
_NAMED_MONTH = r"^(?=.*(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))(?=.*\d{4})"
_SHOWN = "write e.g. 2024-01-31 12:00 or seconds since 1970"


def read_times(values: pd.Series, zone: str | None, unit: str | None, dayfirst: bool | None) -> Times:
    """`values` (text, numbers since 1970 or times) as UTC. Naive ones are in `zone`; see `Times` for what is wrong.

    Numbers are seconds, milli-, micro- or nanoseconds by their size, each by its own: Binance's files changed in 2025.
    """
    if zone is not None:
        _check_zone(zone)
    if unit is not None and unit not in UNITS:
        raise unknown("unit of time", unit, UNITS)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        times = Times(values, "time", "as written")
    elif pd.api.types.is_numeric_dtype(values.dtype):
        times = _from_numbers(values, unit)
    elif (stamps := _at_once(values)) is not None:
        times = Times(stamps, "text", "as written")
    else:
        text = values.astype("string").str.strip()
        as_number = pd.to_numeric(text, errors="coerce")
        if as_number.notna().sum() > 0.5 * text.notna().sum():
            times = _from_numbers(as_number, unit)
        else:
            times = _from_text(text.astype(object), dayfirst)
    _localise(times, values, zone)
    early = times.stamps < GENESIS
    times.wrong |= dict.fromkeys(times.stamps.index[early], "lies before Bitcoin's first block (2009-01-03)")
    for row in times.stamps.index[times.stamps.isna()]:
        shown = values.loc[row]
        blank = pd.isna(shown) or str(shown).strip() == ""
        times.wrong.setdefault(row, "has no timestamp" if blank else f"{str(shown)!r} is not a time: {_SHOWN}")
    return times


def _at_once(values: pd.Series) -> pd.Series | None:
    """The times where all are plain ISO 8601 with the same offset or none: the usual file, ten times faster than by steps."""
    if not re.match(r"\d{4}-\d\d-\d\d", str(values.iloc[0])):
        return None
    try:
        return pd.to_datetime(values, format="ISO8601")
    except (ValueError, TypeError):
        return None


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:  # KeyError: not found
        raise CandleError(f"{zone!r} is no zone; write UTC or e.g. Europe/Berlin.") from error


def _from_numbers(values: pd.Series, unit: str | None) -> Times:
    held = values.dropna()
    if unit is None and len(held) and held.between(30_000, 80_000).all():
        days = pd.to_datetime((values * 86_400e6).round(), unit="us", origin="1899-12-30")
        return Times(days.dt.round("1ms"), "days of a spreadsheet", "as written")
    if unit is None and len(held) and held.between(20_090_103, 21_001_231).all():
        text = values.astype("Int64").astype("string")
        return Times(pd.to_datetime(text, format="%Y%m%d", errors="coerce"), "YYYYMMDD", "as written")
    size = values.abs().to_numpy(dtype="float64")
    named = np.select([size < 1e11, size < 1e14, size < 1e17], ["s", "ms", "us"], "ns") if unit is None else None
    units = np.full(len(values), unit) if named is None else named
    micros = np.full(len(values), np.nan)
    for name, factor in UNITS.items():
        at = units == name
        chosen = values[at]
        whole = pd.api.types.is_integer_dtype(chosen.dtype) and name == "ns"  # floats cannot tell nanoseconds apart
        micros[at] = (chosen // 1000 if whole else (chosen * factor).round()).to_numpy(dtype="float64")
    floor, ceiling = (moment.timestamp() * 1e6 for moment in (pd.Timestamp(0, tz="UTC"), LATEST))
    micros = np.where((micros >= floor) & (micros <= ceiling), micros, np.nan)
    stamps = pd.Series(pd.NaT, index=values.index, dtype="datetime64[us, UTC]")
    good = ~np.isnan(micros)
    stamps[good] = pd.to_datetime(micros[good].astype("int64"), unit="us", utc=True).as_unit("us")
    used = [name for name in UNITS if (units[good] == name).any()]
    return Times(stamps, " and ".join(used) or "?", "UTC")


def _from_text(text: pd.Series, dayfirst: bool | None) -> Times:
    """Times written out. Days and months are told apart by a number over 12; where there is none, it is asked."""
    questions: list[Question] = []
    unit = "text"
    text = text.str.replace(r"\s*(?:UTC|GMT|Z)$", "Z", regex=True, case=False)
    text = text.str.replace(r"(\d)-([AP]M)$", r"\1:00 \2", regex=True, case=False)
    parts = text.str.extract(r"^(\d{1,2})[./-](\d{1,2})[./-](\d{4})(?!\d)[,]?(.*)$")
    local = parts[0].notna()
    if local.sum() > 0.5 * text.notna().sum():
        first, second = (pd.to_numeric(parts[column]) for column in (0, 1))
        if dayfirst is None and (first > 12).any() == (second > 12).any():
            shown = text[local].iloc[0]
            said = "both" if (first > 12).any() else "neither"
            questions.append(
                Question(
                    "dayfirst", f"In {shown!r}, is the day first or the month? The file shows {said}.", ("day", "month")
                )
            )
        days_first = (first > 12).any() if dayfirst is None else dayfirst
        day, month = (first, second) if days_first else (second, first)
        unit = f"text, {'day' if days_first else 'month'} first"
        text = parts[2] + "-" + _two(month) + "-" + _two(day) + parts[3].where(parts[3] != "", "")
    else:
        parts = text.str.extract(r"^(\d{4})[./-](\d{1,2})[./-](\d{1,2})(?!\d)(.*)$")
        text = text.where(parts[0].isna(), parts[0] + "-" + _two(parts[1]) + "-" + _two(parts[2]) + parts[3])
    iso = text.str.match(r"\d{4}-\d\d-\d\d").fillna(False).astype(bool)
    twelve = text.str.contains(r"[ap]m", regex=True, case=False).fillna(False).astype(bool)
    form = "ISO8601" if iso.any() and not twelve.any() else "mixed"
    # Elsewhere pandas would guess the order of the numbers: only a month's name and a whole year leave one way to read it.
    text = text.where(iso | text.str.contains(_NAMED_MONTH, regex=True, case=False).fillna(False).astype(bool))
    aware = text.str.contains(_AWARE, regex=True).fillna(False).astype(bool)
    zoned = text.where(aware) if aware.any() else text
    stamps = pd.to_datetime(zoned, format=form, errors="coerce", utc=bool(aware.any()))
    times = Times(stamps, unit, "as written", questions=questions)
    if aware.any():
        lacking = text.notna() & ~aware & pd.to_datetime(text.where(~aware), format=form, errors="coerce").notna()
        times.wrong |= dict.fromkeys(text.index[lacking], "names no zone, other rows do")
    return times


def _two(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values, errors="coerce").astype("Int64").astype("string").str.zfill(2).astype(object)


def _localise(times: Times, values: pd.Series, zone: str | None) -> None:
    """Turn `times.stamps` into UTC in place; naive ones need `zone`, or a column whose name says UTC."""
    stamps = times.stamps
    if stamps.dt.tz is not None:
        times.stamps = stamps.dt.tz_convert("UTC")
        return
    if zone is None and {"utc", "gmt"} & set(plain(values.name).split("_")):
        zone = "UTC"
    if zone is None:
        times.zone = "ask"
        text = (
            "timestamps are naive: say their zone, e.g. --tz UTC or --tz Europe/Berlin (file:PATH?tz=UTC, zone='UTC')"
        )
        times.questions.append(Question("zone", text, example="UTC"))
        times.stamps = stamps.dt.tz_localize("UTC")
        return
    times.zone = zone
    local = stamps.dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    for row in stamps.index[stamps.notna() & local.isna()]:
        moment = stamps.loc[row]
        twice = not pd.isna(
            pd.Series([moment]).dt.tz_localize(zone, ambiguous=np.array([True]), nonexistent="NaT").iloc[0]
        )
        how = "comes twice" if twice else "does not exist"
        times.wrong[row] = f"{how} in {zone}, where the clocks change: export the file in UTC"
    times.stamps = local.dt.tz_convert("UTC")
