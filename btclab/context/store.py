"""What has been fetched of each series: `data/context/<source>/<name>.parquet`, one value a stamp, the newest answer wins.

Each file is replaced whole and atomically under a lock: readers never wait, a kill leaves the old file, and two writers
lose nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from btclab.context.series import Series
from btclab.errors import DataUnavailable, StorageError
from btclab.files import write_atomically
from btclab.settings import settings

LEAST_OVERLAP = 3  # values in common before two answers are compared


@dataclass(frozen=True)
class Saved:
    """What a save did: all `values` now held, how many are `new`, how many were `revised`."""

    values: pd.Series
    new: int
    revised: int


def path_of(source: str, name: str) -> Path:
    """The file of one series of one source."""
    return settings().data / "context" / source / f"{name}.parquet"


def read_values(source: str, name: str) -> pd.Series | None:
    """Stored values by stamp (UTC), in order; None if there are none. Raises `StorageError` for a damaged file."""
    path = path_of(source, name)
    try:
        values = pd.read_parquet(path, page_checksum_verification=True)["value"]
        if not (isinstance(values.index, pd.DatetimeIndex) and str(values.index.tz) == "UTC"):
            raise ValueError("its index holds no UTC times")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(
            f"{path} cannot be read ({error}). Move it away and fetch it again: btclab fetch --context {name}"
        ) from error
    return values.rename(name)


def stored_source(series: Series) -> str:
    """The source whose values of `series` are stored: the first in its order that has any, or ''."""
    return next((source for source in series.sources if path_of(source, series.name).exists()), "")


def save_values(series: Series, source: str, values: pd.Series) -> Saved:
    """Add `values` to what is stored of `series`; where a stamp is there already, the new value wins.

    Raises `DataUnavailable` if they are on another scale than the stored ones, `StorageError` if the disk refuses.
    """
    path = path_of(source, series.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            held = read_values(source, series.name)
            before = values.iloc[:0] if held is None else held
            common = before.index.intersection(values.index)
            _refuse_another_scale(series, source, before[common], values[common])
            merged = pd.concat([before, values]) if len(before) else values
            merged = merged[~merged.index.duplicated(keep="last")].sort_index()
            frame = merged.rename("value").rename_axis("timestamp").astype(float).to_frame()
            if held is None or not frame["value"].equals(held):
                write_atomically(path, lambda aside: frame.to_parquet(aside, write_page_checksum=True))
    except OSError as error:
        raise StorageError(
            f"Cannot write {path.parent}: {error.strerror or error}. Check its owner and the free space."
        ) from error
    revised = int((before[common] != values[common]).sum())
    return Saved(frame["value"].rename(series.name), len(merged) - len(before), revised)


def _refuse_another_scale(series: Series, source: str, before: pd.Series, after: pd.Series) -> None:
    """A source that changes its unit must not be joined to its own past."""
    if len(before) < LEAST_OVERLAP or (before <= 0).any() or (after <= 0).any():
        return
    ratio = float(np.median(after / before))
    if not 1 / 3 < ratio < 3:
        raise DataUnavailable(
            f"{source}: {series.name} is now {ratio:g} times what it was for the same {len(before)} stamps: another unit? "
            f"Nothing was stored. To start anew, move {path_of(source, series.name)} away."
        )
