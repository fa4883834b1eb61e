"""A demonstration account: a strategy of btclab's own, traded on the simulated market into a real ledger; and who sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from btclab.analysis.portfolio import Statement, account_statement
from btclab.features.build import build_features
from btclab.market.sources import load_candles
from btclab.records import Bar, Costs, Fill, Movement, Order, OrderEvent
from btclab.settings import settings
from btclab.trading.broker import PaperBroker, bars_of
from btclab.trading.filters import Filters
from btclab.trading.guard import Allowed, Guard
from btclab.trading.risk import RiskRules, RiskState
from btclab.trading.scores import Weights, category_scores, contributions
from btclab.trading.strategies import run_strategy

if TYPE_CHECKING:
    from btclab.trading.ledger import Entry, Ledger

SOURCE, TIMEFRAME, START, END = "simulated:1", "4h", "2021-02-01", "2022-04-15"
WEIGHTS = {"technical": 1.0}  # all that simulated candles have
RULES = RiskRules(stop_loss=0.04, take_profit=0.08)


class _Pages:
    """Takes what a broker writes, and keeps it for one transaction: a year of bars, each durable by itself, takes long."""

    def __init__(self) -> None:
        self.entries: list[tuple[Bar, list[Fill], list[OrderEvent], dict[str, Any], Sequence[Order]]] = []

    def append(
        self,
        bar: Bar,
        fills: list[Fill],
        events: list[OrderEvent],
        state: dict[str, Any],
        orders: Sequence[Order] = (),
        movements: Sequence[Movement] = (),
    ) -> None:
        """Keep what happened; nothing is sold short here, and so no interest is paid."""
        self.entries.append((bar, fills, events, state, orders))

    def knows(self, order_id: str) -> bool:
        """No id is used twice here."""
        return False


@contextmanager
def demo_ledger() -> Iterator[tuple[Ledger, dict[Any, Any]]]:
    """A ledger, opened for reading, of fourteen months of the strategy `composite` with a stop and a target on each purchase.

    With it comes where its candles come from (`candles.attrs`), which says that they are simulated. The ledger lies in a
    folder of its own, which is gone afterwards.
    """
    from btclab.trading.ledger import Ledger

    with TemporaryDirectory(prefix="btclab-demo-") as folder:
        url = f"sqlite:///{Path(folder) / 'SIMULATED.db'}"
        candles = load_candles(SOURCE, TIMEFRAME, end=END)
        with Ledger.open(url, timeframe=TIMEFRAME, initial_cash=10_000.0) as ledger:
            ledger.append_many(_traded(candles))
        with Ledger.open(url, mode="read") as ledger:
            yield ledger, dict(candles.attrs)


def _traded(candles: pd.DataFrame) -> list[Entry]:
    from btclab.trading.ledger import Entry

    features = build_features(candles, spec="technical")
    signals = run_strategy("composite", candles, features, filters=Filters(), weights=WEIGHTS, enter=0.25, exit=-0.1)
    pushes = contributions(category_scores(features, None), Weights.of(WEIGHTS))
    told = [_signal(row, pushes.loc[row["timestamp"]]) for row in signals[START:].reset_index().to_dict("records")]
    pages = _Pages()
    broker = PaperBroker(10_000.0, Costs(10, 5), ledger=pages)
    guard = Guard(RULES, RiskState.start(broker.equity))
    for bar, signal in zip(bars_of(candles[START:]), told, strict=True):
        allowed = guard.allow(broker, bar, signal["exposure"], 1.0)

        def protect(it: PaperBroker, bar: Bar = bar, allowed: Allowed = allowed) -> None:
            guard.protect(it, bar, allowed, 1.0)

        broker.process(bar, allowed.target, protect)
    return [Entry(*page, signal=signal) for page, signal in zip(pages.entries, told, strict=True)]


def _signal(row: Mapping[Any, Any], pushes: pd.Series) -> dict[str, Any]:
    """A row of signals as the ledger keeps it, its reasons as a text and as what each category said."""
    said = {"text": row["reasons"], "scores": {str(name): float(one) for name, one in pushes.dropna().items()}}
    exposure = None if pd.isna(row["exposure"]) else row["exposure"]
    return {"side": row["side"], "exposure": exposure, "confidence": None, "reasons": said}


@dataclass(frozen=True)
class Shown:
    """A statement, what became of the account's orders, and, where it is a demonstration's, a note that says so.

    `ledger` is where the account lies, without a password.
    """

    statement: Statement
    events: pd.DataFrame
    ledger: str
    note: str = ""


def read_account(url: str = "", start: object = None, end: object = None, trials: int = 1) -> Shown:
    """The statement of the ledger at `url` ("": that of the settings); as of `account_statement`, which raises what it does.

    Where none has begun at the address of the settings it is that of a demonstration, whole, and its note says what to type
    to begin one. A ledger that was named and is not there is an error: `WrongLedger`.
    """
    from sqlalchemy import make_url

    from btclab.trading.ledger import Ledger
    from btclab.trading.ledger.database import address
    from btclab.trading.ledger.postgres import readable

    url = url or settings().trading.ledger
    path = address(url)[1]
    name = readable(make_url(url))
    if url == settings().trading.ledger and path is not None and not path.exists():
        with demo_ledger() as (demo, attrs):
            note = (
                f"A DEMONSTRATION, not your account: no ledger has begun at {name}. This one traded the strategy "
                "“composite” on the simulated market. Type `btclab paper run` to begin yours, and run this report again."
            )
            return Shown(account_statement(demo, trials=trials, attrs=attrs), demo.event_table(), name, note)
    with Ledger.open(url, mode="read") as ledger:
        return Shown(account_statement(ledger, start, end, trials), ledger.event_table(start, end), name)
