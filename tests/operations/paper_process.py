"""A process that forks paper traders, to be killed: `python -m tests.operations.paper_process URL SEED BARS`.

For each line on standard input it forks a trader, which says its process id ("P 123"), then the open time of each bar that it has
written ("A 1609459200000000000"), until it is killed or through; then the parent says how it ended ("X -9"). Orders by hand
stream in beside the strategy's, each asked for under the name of its bar: before or after a kill, once.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import numpy as np
import pandas as pd

import btclab as bl
from btclab.errors import LedgerError
from btclab.market.feed import BarClosed, ReplayFeed
from btclab.operations.decision import Decider
from btclab.operations.paper import PaperTrader, follow
from btclab.operations.telling import Teller
from btclab.records import Costs, Market
from btclab.settings import settings
from btclab.trading.broker import PaperBroker
from btclab.trading.filters import Filters
from btclab.trading.ledger import Ledger, store
from btclab.trading.risk import RiskRules
from btclab.trading.sizing import Sizing
from btclab.trading.strategies import Strategy, strategy

FIRST = 300  # the bar on which the traders begin
RULES = RiskRules(stop_loss=0.01, take_profit=0.02, max_position=0.8, reenter=True)
HANDS = {"quantity": 0.001, "side": "buy", "kind": "market", "reason": "by hand"}


def trader_on(
    candles: pd.DataFrame,
    url: str,
    rules: RiskRules,
    chosen: Strategy | str = "sma_cross",
    first: int = FIRST,
    **given: object,
) -> tuple[PaperTrader, pd.DataFrame]:
    """A trader on the ledger at `url`, and the candles that it has not seen yet."""
    broker = PaperBroker.open(url, 10_000, Costs(10, 5), Market("BTC/USDT"), "1h")
    try:
        last, kept = broker.last_bar, broker.ledger.state()[1].get("trader", {}).get("decider")
        if last is not None:
            first = int(candles.index.searchsorted(pd.Timestamp(last.timestamp, tz="UTC"), side="right"))
        notifier, live = given.pop("notifier", None), bool(given.pop("live", False))
        named, given = strategy(chosen), {"filters": Filters(), "sizing": Sizing(), **given}
        decider = Decider(named, candles.iloc[:first], memory=kept, **given)  # type: ignore[arg-type]
        teller = Teller(notifier, settings().notifications, "BTC/USDT", "1h", simulated=True)  # type: ignore[arg-type]
        return PaperTrader(broker, decider, rules, teller, "simulated:7", live), candles.iloc[first:]
    except BaseException:
        broker.ledger.close()
        raise


class Hands:
    """Asks for an order at random bars: the same bars, whoever asks and however often."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self.seed, self.ledger = seed, ledger

    def before(self, bar: int) -> None:
        draw = np.random.default_rng([self.seed, bar % 2**32])
        if draw.random() < 0.2:
            with suppress(LedgerError):  # it was asked for before the kill
                self.ledger.request("order", HANDS, f"hand-{bar}")
        if draw.random() < 0.03:
            with suppress(LedgerError):
                self.ledger.request("close", {}, f"by-hand-close-{bar}")


def trade(candles: pd.DataFrame, url: str, seed: int, says: bool = False) -> None:
    """Trade all that is left of `candles`, with hands that ask."""
    store.SNAPSHOT_EVERY = 25  # so that kills meet these too
    trader, rest = trader_on(candles, url, RULES, strategy("sma_cross", fast=3, slow=8), window=250)
    try:
        hands = Hands(seed, trader.tape.ledger)
        times = pd.DatetimeIndex(rest.index).as_unit("ns").asi8.tolist()
        upcoming = iter(times[1:])
        if times:
            hands.before(times[0])

        def each(event: BarClosed, acted: bool) -> None:
            if says:
                os.write(1, f"A {event.timestamp.as_unit('ns').value}\n".encode())
            if (bar := next(upcoming, None)) is not None:
                hands.before(bar)

        follow(trader, lambda: ReplayFeed(rest), progress=each)
    finally:
        trader.tape.close()


if __name__ == "__main__":
    url, seed, bars = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    candles = bl.load_candles("simulated:7", end="2021-04-01").iloc[: FIRST + bars]
    for _ in sys.stdin:
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            os.write(1, f"X {os.waitstatus_to_exitcode(status)}\n".encode())
        else:
            os.write(1, f"P {os.getpid()}\n".encode())
            trade(candles, url, seed, says=True)
            os._exit(0)
