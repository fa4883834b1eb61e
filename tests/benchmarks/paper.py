"""The paper trader: from a closed bar to all that it brought on disk, and how many recorded bars it replays a second.

The step has a goal, not a rival: features, forecast, decision and the durable fill of an hour within 150 ms.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

import btclab as bl
from btclab.forecasting.checkpoints import Checkpoint
from btclab.market.feed import bars_of
from btclab.operations.decision import Decider
from btclab.operations.paper import PaperTrader
from btclab.operations.telling import Teller
from btclab.records import Costs, Market
from btclab.settings import settings
from btclab.trading.broker import PaperBroker
from btclab.trading.filters import Filters
from btclab.trading.risk import RiskRules
from btclab.trading.sizing import Sizing
from btclab.trading.strategies import strategy

Row = tuple[str, str, str, str]
GOAL_S, BARS, HISTORY = 0.150, 300, 9_000
RULES = RiskRules(stop_loss=0.02, take_profit=0.04)


@contextmanager
def trader(candles: pd.DataFrame, name: str, checkpoint: Checkpoint | None) -> Iterator[PaperTrader]:
    """A trader on a new ledger, with stops and targets; `candles` are its history."""
    broker = PaperBroker.open(f"sqlite:///data/{name}.db", 10_000, Costs(10, 5), Market("BTC/USDT"), "1h")
    decider = Decider(strategy(name), candles, checkpoint, Filters(), Sizing())
    teller = Teller(None, settings().notifications, "BTC/USDT", "1h")
    made = PaperTrader(broker, decider, RULES, teller, "benchmark")
    try:
        yield made
    finally:
        made.tape.close()


def step(candles: pd.DataFrame, name: str, checkpoint: Checkpoint | None) -> Row:
    """Times of single bars, after the first, which fills the tables."""
    history, rest = candles.iloc[: -BARS - 1], candles.iloc[-BARS - 1 :]
    times = []
    with trader(history, name, checkpoint) as made:
        for bar in bars_of(rest, "replay"):
            begun = time.perf_counter()
            made.on_bar(bar)
            times.append(time.perf_counter() - begun)
        fills = made.broker.state.fills
    first, p50, p95 = times[0], float(np.median(times[1:])), float(np.quantile(times[1:], 0.95))
    said = f"p95 {1e3 * p95:.0f} ms, p50 {1e3 * p50:.0f} ms"
    return (
        f"paper step, {name}",
        said,
        f"goal 150 ms; first bar {1e3 * first:,.0f} ms, {fills} fills",
        f"{p95 / GOAL_S:.2f} ×",
    )


def main(candles: pd.DataFrame, source: str) -> list[Row]:
    """A step with a network (the default features, selected), with all 157 features, and with a rule of prices."""
    recent = candles.iloc[-25_000:].copy()
    recent.attrs = dict(candles.attrs)
    with tempfile.TemporaryDirectory() as name, patch.dict(os.environ, {"BTCLAB_HOME": name}):
        Path(name, "data").mkdir()
        made = bl.train(recent, epochs=2, progress=False)
        kept = recent.iloc[-HISTORY:].copy()
        kept.attrs = dict(recent.attrs)
        return [step(kept, "forecast", made), step(kept, "composite", made), step(kept, "sma_cross", None)]


if __name__ == "__main__":
    for row in main(bl.load_candles(sys.argv[1]), sys.argv[1]):
        print(*row, sep=" | ", flush=True)
