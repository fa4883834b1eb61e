"""Tables out of files: CSV, XLSX, Parquet and JSON become one frame whose index is the row's number in the file."""

from __future__ import annotations

import csv
import gzip
import json
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import PurePath
from typing import Any

import pandas as pd

from btclab.errors import CandleError, InputError, unknown

MOST_BYTES = 4 << 30  # unpacked; more is no file of candles
SAMPLE = 100_000  # characters from which separator, header and decimal comma are told
_NUMBER = re.compile(r"[-+]?[\d.,]*\d(e[-+]?\d+)?", re.IGNORECASE)
_COMMA_NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(\.\d{3})+),\d+")
_PACKED = (".gz", ".zip")


@dataclass(frozen=True)
class Table:
    """Rows as the file has them. `frame.index` counts as a spreadsheet does: from 1, header line included."""

    frame: pd.DataFrame
    headed: bool = True
    notes: tuple[str, ...] = ()


def read_table(data: bytes, name: str, sheet: str | None = None) -> Table:
    """The table in `data`, read by the suffix of `name`: text may be packed (`.csv.gz`, `.csv.zip`).

    Raises `CandleError` where the suffix is none of `READERS`, or the file is empty or damaged.
    """
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    packed = bool(suffixes) and suffixes[-1] in _PACKED
    kind = suffixes[-2] if packed and len(suffixes) > 1 else "" if packed or not suffixes else suffixes[-1]
    if packed and suffixes[-1] == ".zip" and kind not in READERS:
        kind = ".csv"  # a zip says inside what it holds
    if kind not in READERS:
        raise CandleError(
            f"it ends in {PurePath(name).suffix!r}; use one of {', '.join(READERS)} (text also as .gz or .zip)."
        )
    if not data:
        raise CandleError("it cannot be read: it is empty.")
    try:
        table = READERS[kind](_unpacked(data, suffixes[-1]) if packed else data, sheet)
    except InputError:
        raise
    except (  # what pandas, openpyxl and pyarrow raise for a file that is none
        ValueError,
        OSError,
        KeyError,
        TypeError,
        EOFError,
        SyntaxError,
        RecursionError,
        zlib.error,
        zipfile.BadZipFile,
        csv.Error,
    ) as error:
        raise CandleError(f"it cannot be read: {str(error).strip() or type(error).__name__}.") from error
    frame = table.frame
    frame.columns = pd.Index([str(column).strip() for column in frame.columns])
    return table


def _unpacked(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            unpacked = file.read(MOST_BYTES + 1)
    else:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            held = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(held) != 1:
                raise CandleError(f"it holds {len(held)} files; unpack it and import them one by one.")
            with archive.open(held[0]) as file:
                unpacked = file.read(MOST_BYTES + 1)
    if len(unpacked) > MOST_BYTES:
        raise CandleError(f"it unpacks to more than {MOST_BYTES >> 30} GB.")
    return unpacked


def _text(data: bytes) -> str:
    """UTF-8 or what the byte-order mark says; else Windows-1252, which older spreadsheets write."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252")
    if re.search(r"[\x00-\x08]", text[:SAMPLE]):
        raise ValueError("it is binary, not text")
    return text


# CSV


def _csv(data: bytes, _: str | None) -> Table:
    text = _text(data)
    sample = text[:SAMPLE].splitlines()
    if len(text) > SAMPLE:
        sample.pop()
    separator = _separator(sample)
    rows = _split(sample, separator)
    begin = _begin(rows)
    if begin is None:
        raise ValueError("it is empty")
    headed = not _is_data(rows[begin])
    # Decimal commas are read as text: pandas would otherwise take 1.234 in a file with 1.234,5 for a little over one.
    commas = separator != "," and any(_COMMA_NUMBER.fullmatch(field.strip()) for row in rows for field in row)
    frame = pd.read_csv(
        StringIO(text),
        sep=separator,
        skiprows=begin,
        header=0 if headed else None,
        dtype=str if commas else None,
        skip_blank_lines=False,
        skipinitialspace=True,
        low_memory=False,
    )
    if not frame.index.equals(pd.RangeIndex(len(frame))):  # pandas would shift the columns
        raise CandleError("its rows have more values than its header has names.")
    frame.index = pd.RangeIndex(begin + 1 + headed, begin + 1 + headed + len(frame), name="row")
    notes = (f"{begin} line(s) before the header were skipped",) if begin else ()
    return Table(frame.dropna(how="all"), headed, notes)


def _split(lines: list[str], separator: str) -> list[list[str]]:
    return [next(csv.reader([line], delimiter=separator), []) for line in lines]


def _separator(lines: list[str]) -> str:
    """The separator that cuts most lines into the same number (two or more) of fields; a comma may be a decimal one."""
    best, score = ",", 0.0
    for separator in ("\t", ";", "|", ","):
        counts = Counter(len(row) for row in _split(lines, separator) if row)
        usual, lines_with = counts.most_common(1)[0] if counts else (0, 0)
        if usual > 1 and lines_with / counts.total() > score + 0.2:
            best, score = separator, lines_with / counts.total()
    return best


def _begin(rows: list[list[Any]]) -> int | None:
    """Position of the first row of the table: an address or a title above it has one or two fields."""
    filled = [sum(not _blank(field) for field in row) for row in rows]
    usual = max(Counter(count for count in filled if count).items(), key=lambda item: item[1], default=(0, 0))[0]
    for position, count in enumerate(filled):
        if count > 2 or (count and count >= usual - 2):
            return position
    return None


def _blank(field: Any) -> bool:
    return field is None or (isinstance(field, float) and pd.isna(field)) or str(field).strip() == ""


def _is_data(row: list[Any]) -> bool:
    """Whether more than half of the fields are numbers: then it is no header."""
    fields = [str(field).strip() for field in row if not _blank(field)]
    return sum(bool(_NUMBER.fullmatch(field)) for field in fields) > len(fields) / 2


# XLSX, Parquet, JSON


def _xlsx(data: bytes, sheet: str | None) -> Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of styles and extensions that openpyxl does not know
        with pd.ExcelFile(BytesIO(data), engine="openpyxl") as book:
            if sheet is not None and sheet not in book.sheet_names:
                raise unknown("sheet", sheet, map(str, book.sheet_names))
            chosen = sheet or str(book.sheet_names[0])
            raw = pd.read_excel(book, sheet_name=chosen, header=None)
    others = [str(name) for name in book.sheet_names if str(name) != chosen]
    notes = [f"sheet {chosen!r} of {', '.join(map(repr, map(str, book.sheet_names)))}"] if others else []
    raw.index = pd.RangeIndex(1, len(raw) + 1, name="row")
    begin = _begin(raw.head(200).to_numpy().tolist())
    if begin is None:
        raise ValueError(f"its sheet {chosen!r} is empty")
    head = raw.iloc[begin].tolist()
    headed = not _is_data(head)
    frame = raw.iloc[begin + headed :].dropna(how="all").infer_objects()
    if headed:
        frame.columns = pd.Index(["" if _blank(name) else str(name) for name in head])
        frame = frame.loc[:, [name != "" for name in frame.columns]]
    if begin:
        notes.append(f"{begin} line(s) before the header were skipped")
    return Table(frame, headed, tuple(notes))


def _parquet(data: bytes, _: str | None) -> Table:
    frame = pd.read_parquet(BytesIO(data))
    if isinstance(frame.index, pd.DatetimeIndex) or frame.index.name is not None:
        attrs = frame.attrs
        frame = frame.reset_index(names=str(frame.index.name or "timestamp"))
        frame.attrs = attrs
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="row")
    return Table(frame)


def _json(data: bytes, _: str | None) -> Table:
    text = _text(data)
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        lines = text.splitlines()
        if len(lines) < 2:
            raise
        content = [json.loads(line) for line in lines if line.strip()]
    found = _rows(content)
    if found is None:
        raise CandleError("it holds no list of rows; write a list of records, a list of lists or a table of columns.")
    found.frame.index = pd.RangeIndex(1, len(found.frame) + 1, name="row")
    return found


def _rows(content: Any) -> Table | None:
    """The first table in `content`: records, lists, columns, or any of these inside an object."""
    if isinstance(content, list):
        return _listed(content)
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("columns"), list) and isinstance(content.get("data"), list):
        return Table(pd.DataFrame(content["data"], columns=content["columns"]))
    lists = {key: value for key, value in content.items() if isinstance(value, list) and not _nested(value)}
    if len(lists) > 1 and len({len(value) for value in lists.values()}) == 1:
        return Table(pd.DataFrame(lists))
    columns = {key: value for key, value in content.items() if isinstance(value, dict) and not _nested(value.values())}
    if len(columns) > 1 and len({frozenset(value) for value in columns.values()}) == 1:  # what pandas' to_json writes
        frame = pd.DataFrame(columns)
        return Table(frame if "timestamp" in frame else frame.reset_index(names="timestamp"))
    return next((found for value in content.values() if (found := _rows(value))), None)


def _listed(content: list[Any]) -> Table | None:
    if content and all(isinstance(row, dict) for row in content):
        return Table(pd.DataFrame.from_records(content))
    if content and all(isinstance(row, list) for row in content):
        return Table(pd.DataFrame(content), headed=False)
    return None


def _nested(values: Any) -> bool:
    return any(isinstance(value, (list, dict)) for value in values)


READERS: dict[str, Callable[[bytes, str | None], Table]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _csv,
    ".xlsx": _xlsx,
    ".parquet": _parquet,
    ".json": _json,
    ".jsonl": _json,
    ".ndjson": _json,
}
