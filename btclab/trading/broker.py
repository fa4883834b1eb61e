"""The paper broker: the engine fed bar by bar, with a ledger."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from btclab.errors import InputError
from btclab.records import Bar, Costs, Fill, Order
from btclab.settings import settings
from btclab.trading.engine import Account, next_order, step
from btclab.trading.ledger import Ledger


class PaperBroker:
    """One paper account in one market, spot and long only.

    `process` takes each closed bar once, in order, with the exposure wanted at its close. An order decided at a bar's
    close is pending until the next bar's open. A backtest is this broker on recorded bars.
    """

    def __init__(self, initial_cash: float, costs: Costs, rebalance_band: float | None = None) -> None:
        if not (math.isfinite(initial_cash) and initial_cash > 0):
            raise InputError(f"initial_cash is {initial_cash!r}; it must be above 0, in quote currency.")
        if rebalance_band is not None and not 0 < rebalance_band < 1:
            raise InputError(
                f"rebalance_band is {rebalance_band!r}; it must lie between 0 and 1 (a fraction of equity), or be None."
            )
        self.account = Account(initial_cash)
        self.ledger = Ledger(initial_cash, [])
        self.costs = costs
        self.band = rebalance_band
        self.target = 0.0
        self.pending: Order | None = None
        self.last_bar: Bar | None = None

    @classmethod
    def open(cls, url: str = "memory://", initial_cash: float | None = None, costs: Costs | None = None) -> PaperBroker:
        """A broker whose ledger lies at `url`. Only "memory://" is known: it is gone when the process ends."""
        if url != "memory://":
            raise InputError(
                f"Ledger {url!r} cannot be opened; this version keeps the paper ledger in memory: use 'memory://'."
            )
        own = settings().trading
        cash = own.initial_cash if initial_cash is None else initial_cash
        return cls(cash, costs or Costs(own.fee_bps, own.slippage_bps))

    def process(self, bar: Bar, target: float | None) -> Fill | None:
        """Fill what is pending at the open of `bar`, then decide at its close. `target` None: no opinion, keep the last one.

        A bar that was processed before is ignored, so that a repeated bar never trades twice. Raises `InputError` if
        `target` is outside 0…1.
        """
        if target is not None and not 0 <= target <= 1:
            raise InputError(f"Exposure is {target!r}; it must lie in 0…1 (spot, long only), or be None: no opinion.")
        if self.last_bar is not None and bar.timestamp <= self.last_bar.timestamp:
            return None
        self.account, fill = step(self.account, bar, self.pending, self.costs)
        if fill is not None:
            self.ledger.append(fill)
        self.pending = next_order(self.account, bar, target, self.target, self.band)
        if target is not None:
            self.target = target
        self.last_bar = bar
        return fill

    def preview(self) -> Fill | None:
        """What the pending order would fill if the next bar opened at the last close; None if nothing is pending."""
        if self.last_bar is None:
            return None
        close = self.last_bar.close
        return step(self.account, Bar(self.last_bar.timestamp, close, close, close, close), self.pending, self.costs)[1]

    def replay(self, candles: pd.DataFrame, exposure: pd.Series) -> Iterator[Bar]:
        """Process every bar of `candles` with the exposure wanted at its close (missing: no opinion); yields each bar done.

        Raises `InputError` if the two have different timestamps.
        """
        if not candles.index.equals(exposure.index):
            raise InputError("candles and exposure have different timestamps; use exposure.reindex(candles.index).")
        prices = (candles[name].tolist() for name in ("open", "high", "low", "close"))
        times = pd.DatetimeIndex(candles.index).as_unit("ns").asi8.tolist()
        for time, open_, high, low, close, target in zip(times, *prices, exposure.tolist(), strict=True):
            bar = Bar(time, open_, high, low, close)
            self.process(bar, None if math.isnan(target) else target)
            yield bar

    def run(self, candles: pd.DataFrame, exposure: pd.Series) -> list[Fill]:
        """`replay` to the end; returns all fills so far."""
        for _ in self.replay(candles, exposure):
            pass
        return list(self.ledger.fills)

    def summary(self) -> dict[str, float]:
        """Worth, cash, profit after fees and fees paid (quote currency), position (BTC) and the number of fills."""
        return {
            "worth": self.equity,
            "cash": self.account.cash,
            "position": self.account.position,
            "profit": self.equity - self.ledger.initial_cash,
            "fees": self.ledger.fees,
            "fills": len(self.ledger.fills),
        }

    @property
    def equity(self) -> float:
        """Cash plus position at the last close; the starting cash before the first bar."""
        return self.account.equity(self.last_bar.close) if self.last_bar else self.account.cash
