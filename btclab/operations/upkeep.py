"""Looking after the cache: cleaning it up, and asking in advance for what the settings say will be needed."""

from __future__ import annotations

from btclab.context.fetch import fetch_context
from btclab.context.series import SERIES
from btclab.errors import DataUnavailable
from btclab.market.cache import optimise_cache
from btclab.market.fetch import update_candles
from btclab.settings import settings


def maintain_cache() -> tuple[dict[str, int], list[str]]:
    """Clean up and warm. Returns how many entries went, and what could not be had.

    A name in `cache.warm` is a context series or a source of candles. Raises `InputError` if it is neither.
    """
    gone = optimise_cache()
    failed: list[str] = []
    wanted = settings().cache.warm
    chosen = [name for name in wanted if name in SERIES]
    outcomes = fetch_context(chosen) if chosen else []
    failed += [f"{one.name}: {one.failed}" for one in outcomes if one.failed]
    for name in wanted:
        if name not in SERIES:
            try:
                update_candles(name)
            except DataUnavailable as error:
                failed.append(str(error))
    return gone, failed
