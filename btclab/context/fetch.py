"""`fetch_context`: what is new of each series, checked and stored."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pandas as pd
from tqdm import tqdm

from btclab.context.exchanges import source_of
from btclab.context.readings import published
from btclab.context.series import ContextSource, Series, chosen, key_missing
from btclab.context.sources import HTTP_SOURCES, base_address
from btclab.context.store import path_of, read_values, save_values, stored_source
from btclab.errors import DataUnavailable, InputError, StorageError
from btclab.market.candles import utc

MOST_FAILURES = 2  # in a row; then the source is not asked for its other series
NEAR = pd.Timedelta(days=45)  # a source may begin this much later than it is said to


@dataclass(frozen=True)
class Outcome:
    """What became of one series: `rows` stored in all, of which `new` came and `revised` changed; `first` to `last` stamp.

    `skipped` says what it needs to be asked for, `failed` why nothing came, `stale` that the source failed and an older
    answer stood in, `notes` which sources before `source` failed and why; each is '' otherwise.
    """

    name: str
    source: str
    rows: int = 0
    new: int = 0
    revised: int = 0
    first: pd.Timestamp | None = None
    last: pd.Timestamp | None = None
    skipped: str = ""
    failed: str = ""
    stale: str = ""
    notes: str = ""


def fetch_context(names: Iterable[str] | str | None = None, start: object = None, end: object = None) -> list[Outcome]:
    """Fetch the context series `names` (default: all) stamped from `start` up to but not including `end`, and store them.

    Of a series that is stored already only what is newer is asked for, and the last two weeks again, for revisions. Without
    `start` all of its history is fetched. Only values are kept that were public when they were fetched: the day that still
    runs is not. A series whose key is not set is skipped, a failing one does not stop the others; neither is replaced by
    anything. Where a series has several sources, the first that answers is its source from then on.
    Raises `InputError` for an unknown name, a wrong time or a wrong base address.
    """
    wanted = chosen(names)
    first, last = (None if moment is None else utc(moment) for moment in (start, end))
    if first is not None and last is not None and first >= last:
        raise InputError(f"start {first} is not before end {last}.")
    base_address("")  # a wrong name in the settings is said at once
    groups: dict[str, list[Series]] = {}
    for series in wanted:
        groups.setdefault(next(iter(series.sources)), []).append(series)
    stop, outcomes = threading.Event(), {}

    def work(group: list[Series]) -> None:
        failures: list[str] = []
        for series in group:
            if stop.is_set():
                return
            if len(failures) == MOST_FAILURES:
                source = next(iter(series.sources))
                outcome = Outcome(series.name, source, failed=f"{source} is not asked again: {failures[-1]}")
            else:
                outcome = _fetched(series, first, last)
                failures = [*failures, outcome.failed] if outcome.failed else []
            outcomes[series.name] = outcome
            bar.update()

    # One thread a source: each is asked for one thing at a time, and a slow one holds up none of the others.
    with (
        tqdm(desc="context", total=len(wanted), unit="series", delay=2, leave=False) as bar,
        ThreadPoolExecutor(max_workers=max(1, len(groups))) as pool,
    ):
        try:
            for done in [pool.submit(work, group) for group in groups.values()]:
                done.result()
        except BaseException:
            stop.set()
            raise
    return [outcomes[series.name] for series in wanted]


def _fetched(series: Series, start: pd.Timestamp | None, end: pd.Timestamp | None) -> Outcome:
    source = stored_source(series)
    if need := key_missing(series):
        return Outcome(series.name, next(iter(series.sources)), skipped=need)
    errors: list[str] = []
    for name in [source] if source else series.sources:
        try:
            return replace(_fetched_from(series, name, start, end), notes=" ".join(errors))
        except (DataUnavailable, StorageError) as error:
            errors.append(str(error))
    stays = ""
    if source and len(series.sources) > 1:  # the numbers of another venue would be another series
        stays = f" The series stays with {source}; for another source move {path_of(source, series.name)} away."
    return Outcome(series.name, source or next(iter(series.sources)), failed=f"{' '.join(errors)}{stays}")


def _fetched_from(series: Series, source: str, start: pd.Timestamp | None, end: pd.Timestamp | None) -> Outcome:
    ask: ContextSource = HTTP_SOURCES.get(source) or source_of(series, source)
    held = read_values(source, series.name)
    readings = ask(series, series.sources[source], _since(series, held, start))
    values = published(series, readings)
    if held is None and start is not None:
        values = values[values.index >= start]
    if end is not None:
        values = values[values.index < end]
    if values.empty and held is None:
        raise DataUnavailable(
            f"{source}: has nothing of {series.name} between {start or series.begins} and {end or 'now'}."
        )
    saved = save_values(series, source, values)
    stamps = saved.values.index
    return Outcome(
        series.name, source, len(stamps), saved.new, saved.revised, stamps[0], stamps[-1], stale=readings.stale
    )


def _since(series: Series, held: pd.Series | None, start: pd.Timestamp | None) -> pd.Timestamp:
    """From where to ask: all that was asked for if that is not held, else the end of what is held."""
    begins = pd.Timestamp(series.begins, tz="UTC")
    wanted = begins if start is None else max(begins, start)
    if held is None or (start is not None and wanted + NEAR < held.index[0]):
        return wanted
    return max(begins, held.index[-1] - series.overlap)
