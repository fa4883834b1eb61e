"""What the paper trader tells: its signals, orders, fills and thresholds, handed to the notifier, which never holds it up."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pandas as pd

from btclab.market.feed import Status
from btclab.operations.notify import Watch
from btclab.records import Bar, Fill, Order, OrderEvent
from btclab.settings import NotificationSettings
from btclab.trading.broker import PaperBroker
from btclab.trading.risk import PROTECTIVE

ROUNDING = 1e-12  # of a fill: what the engine's sums may leave of a position that was closed


class Sends(Protocol):
    """What a `Notifier` can do."""

    def send(self, kind: str, key: str = "", **figures: Any) -> None: ...


class Teller:
    """Turns what the trader did into notifications. Money of a simulated market is called simulated in every one of them.

    `notifier` None: nothing is told. `symbol` as "BTC/USDT".
    """

    def __init__(
        self, notifier: Sends | None, rules: NotificationSettings, symbol: str, timeframe: str, simulated: bool = False
    ) -> None:
        base, _, quote = symbol.partition("/")
        self._notifier, self._rules, self._timeframe = notifier, rules, timeframe
        self._symbol = f"{base}/simulated {quote}" if simulated else symbol
        self._watch: Watch | None = None

    def _send(self, kind: str, key: str = "", **figures: Any) -> None:
        if self._notifier is not None:
            self._notifier.send(kind, key, symbol=self._symbol, **figures)

    def start(self, strategy: str, broker: PaperBroker, peak: float) -> None:
        """Trading begins, or goes on."""
        self._watch = Watch(self._rules, broker.initial_cash, peak)
        position = broker.account.position
        self._send("start", strategy=strategy, timeframe=self._timeframe, equity=broker.equity, position=position)

    def stop(self, reason: str, broker: PaperBroker) -> None:
        """Trading ends."""
        self._send("stop", reason=reason, equity=broker.equity, position=broker.account.position)

    def error(self, where: str, error: str, key: str = "") -> None:
        """Something is wrong that the user should know of."""
        self._send("error", f"{where}:{key or error}", where=where, error=error)

    def status(self, status: Status, broker: PaperBroker, source: str) -> None:
        """The state of the feed has changed."""
        if status.state == "stale":
            last = broker.last_bar
            newest = pd.Timestamp(last.timestamp, tz="UTC") if last else None
            since = status.since if status.since is not None else newest
            age = None if since is None else max(0.0, (status.time - since).total_seconds())
            self._send("feed_stale", str(since), age=age, source=source, timestamp=newest)

    def training_due(self, checkpoint: str, age: pd.Timedelta) -> None:
        """The checkpoint is old."""
        self._send(
            "training_due", f"{checkpoint}:{time.strftime('%Y-%m-%d')}", checkpoint=checkpoint, age=age.total_seconds()
        )

    def bar(
        self,
        bar: Bar,
        broker: PaperBroker,
        signal: Mapping[str, Any],
        before: float,
        fills: Sequence[Fill],
        orders: Sequence[Order],
        events: Sequence[OrderEvent],
        peak: float,
    ) -> None:
        """A bar was processed and written; `before` is the exposure that was asked for until then."""
        if self._notifier is None:
            return
        if signal["side"] != "hold":
            told = {"before": before, "exposure": signal["exposure"], "confidence": signal["confidence"]}
            told |= {"side": signal["side"], "price": bar.close, "reasons": signal["reasons"]["text"]}
            self._send("signal", str(bar.timestamp), **told)
        for order in orders:
            if order.kind == "margin_call":  # its fill is told, and nobody placed it
                continue
            wanted = {
                "type": _words(order.kind),
                "side": order.side,
                "quantity": order.quantity,
                "exposure": order.exposure,
            }
            prices = {"limit": order.limit, "stop": order.stop, "reason": order.reason, "order": order.id}
            self._send("order", order.id, **wanted, **prices)
        after = broker.account.position - sum(_signed(fill) for fill in fills)
        for number, fill in enumerate(fills):
            held, after = after, after + _signed(fill)
            key, traded = f"{fill.order}:{bar.timestamp}:{number}", {"side": fill.side, "quantity": fill.quantity}
            traded |= {"price": fill.price, "order": fill.order}
            if fill.reason in (*PROTECTIVE, "margin_call"):
                self._send("triggered", key, type=_words(fill.reason), **traded)
            self._send(
                "fill",
                key,
                reason=", ".join(filter(None, (_words(fill.reason), _effect(held, after, fill.quantity)))),
                value=fill.quantity * fill.price,
                fee=fill.fee,
                position=after,
                equity=broker.equity,
                **traded,
            )
        for event in events:
            if event.event == "refused":
                self._send(
                    "error", f"{event.order}:{bar.timestamp}:{event.rule}", where=f"rule {event.rule}", error=event.text
                )
        if self._watch is not None:
            for kind, key, figures in self._watch.step(bar.timestamp, bar.close, broker.equity):
                self._send(kind, key, **figures)


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _signed(fill: Fill) -> float:
    return fill.quantity if fill.side == "buy" else -fill.quantity


def _effect(before: float, after: float, quantity: float) -> str:
    """What a fill did to what is sold short, in words; nothing, if nothing was or is."""
    dust = ROUNDING * quantity
    if min(before, after) >= -dust:
        return ""
    if before > dust:
        return "from long to short"
    if after > dust:
        return "from short to long"
    if after < before:
        return "sold short"
    return (
        "all that was sold short is bought back" if after >= -dust else "a part of what was sold short is bought back"
    )
