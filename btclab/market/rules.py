"""The rules of an exchange for the orders of one market: in what steps, from what size and at which prices they are taken."""

from __future__ import annotations

import logging
import math
from typing import Any

from btclab.errors import DataUnavailable
from btclab.market.exchange import ExchangeSource
from btclab.market.sources import RECORDED
from btclab.records import Market
from btclab.settings import settings

_log = logging.getLogger(__name__)
MOST_PLACES = 30  # decimal places of a step or tick; finer is a mistake, and no number can be counted in it


def trading_rules(source: str, symbol: str | None = None) -> Market:
    """Step and minimum of quantity (BTC), minimum of value and tick of price (quote currency) of a market on an exchange.

    They are those of its list of markets, which is asked for once a day; without a network, of the last one that came, up to
    30 days old, and the log says so. What has no such rules (`simulated:`, `file:`, `store:`, coingecko) gives none: each is
    0. `symbol` is by default that of the settings. The fees of the list are not read: costs are those of the settings.

    Raises `NotListed` for a market that the exchange has not, `InputError` for an exchange that ccxt does not know, and
    `DataUnavailable` if it does not answer and no list of it is kept, or if a rule of it cannot be.
    """
    symbol = symbol or settings().market.symbol
    if source.partition(":")[0] in (*RECORDED, "coingecko"):
        return Market(symbol)
    listing = ExchangeSource(source).listing(symbol)
    if listing["stale"]:
        _log.warning("%s: the trading rules of %s are %s", source, symbol, listing["stale"])
    try:
        return rules_of(listing, symbol)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataUnavailable(f"{source}: says of {symbol} what cannot be a trading rule ({error}).") from error


def rules_of(listing: dict[str, Any], symbol: str) -> Market:
    """The rules in a market of ccxt that names its `precisionMode`; what it does not name is no rule.

    Precisions are steps (`TICK_SIZE`) or decimal places (`DECIMAL_PLACES`). Under `SIGNIFICANT_DIGITS` those of prices are
    digits, whose tick moves with the price, so that there is no tick, and those of quantities decimal places all the same.
    Quantities of a linear contract are counted in contracts and come out in BTC; those of an inverse one are counted in
    quote currency, for which a `Market` has no rule. Raises `ValueError` for a rule that is no number of at least 0, for a
    step or tick finer than `MOST_PLACES`, and for a linear contract without a size.
    """
    import ccxt

    mode, precision, limits = listing["precisionMode"], listing.get("precision") or {}, listing.get("limits") or {}
    size = 1.0
    if listing.get("contract"):
        size = _number("contractSize", listing.get("contractSize")) if listing.get("linear") else 0.0
        if listing.get("linear") and not size:
            raise ValueError(f"contractSize {listing.get('contractSize')!r}")

    def step(name: str) -> float:
        value = precision.get(name)
        if value is None or mode == ccxt.TICK_SIZE:
            found = _number(name, value)
        else:
            places = _number(name, value, least=-MOST_PLACES)
            found = 10.0**-places if places.is_integer() else math.nan
        if value and not found >= 10.0**-MOST_PLACES:
            raise ValueError(f"{name} {value!r}")
        return found

    def least(name: str) -> float:
        return _number(f"least {name}", (limits.get(name) or {}).get("min"))

    return Market(
        symbol,
        quantity_step=size * step("amount"),
        min_quantity=size * least("amount"),
        min_value=least("cost"),
        price_tick=0.0 if mode == ccxt.SIGNIFICANT_DIGITS else step("price"),
    )


def _number(name: str, value: object, least: float = 0.0) -> float:
    number = 0.0 if value is None else float(value)  # type: ignore[arg-type]
    if isinstance(value, bool) or not least <= number < math.inf:
        raise ValueError(f"{name} {value!r}")
    return number
