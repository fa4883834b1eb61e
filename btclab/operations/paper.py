"""The paper trader: follows a feed, decides at the close of each bar, and writes all that it did before it goes on.

A bar, what filled in it, the signal and the orders decided at its close, the answers to requests, and all that the next bar
depends on are one durable transaction. So a trader that was killed goes on at the bar after the last one that is written, as
if nothing had happened, and does nothing twice. `btclab paper run` is this; the way to it from a source is `follow`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import pandas as pd

from btclab.errors import BtclabError, DataUnavailable, InputError, NotListed
from btclab.market.candles import timeframe_delta
from btclab.market.feed import BarClosed, Feed, Status
from btclab.operations.decision import Decider
from btclab.operations.interrupts import on_signals
from btclab.operations.telling import Teller
from btclab.records import Bar, Fill, Movement, Order, OrderEvent
from btclab.trading.broker import PaperBroker
from btclab.trading.guard import Guard, average_true_range
from btclab.trading.ledger import Ledger, Request, WrongLedger
from btclab.trading.orders import order_of, wrong
from btclab.trading.protection import _on_tick
from btclab.trading.risk import Holding, RiskRules, RiskState, check, reset

REQUESTS = ("order", "cancel", "close", "resume")
FIRST_WAIT_S, MOST_WAIT_S = 5.0, 600.0  # after no exchange answered, or the live feed gave up; doubled each time
_log = logging.getLogger(__name__)


class Tape:
    """The ledger as the broker writes to it; what the trader adds to a bar is written in the same transaction."""

    def __init__(self, ledger: Ledger, memory: Callable[[], dict[str, Any]]) -> None:
        self.ledger, self._memory = ledger, memory
        self.signal: dict[str, Any] | None = None
        self.said: list[OrderEvent] = []  # refusals of the risk rules, and answers to requests
        self.written: tuple[list[Order], list[OrderEvent]] = [], []

    def append(
        self,
        bar: Bar,
        fills: list[Fill],
        events: list[OrderEvent],
        state: dict[str, Any],
        orders: Sequence[Order] = (),
        movements: Sequence[Movement] = (),
    ) -> None:
        """Write the bar; what was added to it is then used up."""
        held = state["state"]["cash"], state["state"].get("position", 0.0)
        whole = [*events, *self.said]
        kept = {**state, "trader": self._memory()}
        self.ledger.append(bar, fills, whole, kept, orders, self.signal, movements, held)
        self.written, self.said, self.signal = (list(orders), whole), [], None

    def knows(self, order_id: str) -> bool:
        """Whether an order of this id was ever written."""
        return self.ledger.knows(order_id)

    def close(self) -> None:
        """Give the ledger back."""
        self.ledger.close()


class PaperTrader:
    """One account that a strategy trades bar by bar. `on_bar` takes each closed bar; the rest it asks of its parts.

    `decider` says what the strategy wants, `rules` what is allowed of it. `live` bars are those of now: a request counts at
    the first close after it was made. On recorded bars it counts at the next. Raises `WrongLedger` if the ledger was traded on
    another simulated market, or on a real one.
    """

    def __init__(
        self,
        broker: PaperBroker,
        decider: Decider,
        rules: RiskRules,
        teller: Teller,
        source: str,
        live: bool = False,
    ) -> None:
        self.broker, self.decider, self.teller = broker, decider, teller
        self.source, self.live = source, live
        ledger: Any = broker.ledger
        self._simulated = bool(decider.candles.attrs.get("simulated"))
        _, kept = ledger.state()
        before = kept.get("trader", {})
        self._check_source(before)
        held = before.get("risk")
        self.guard = Guard(rules, RiskState.from_dict(held) if held else RiskState.start(broker.equity))
        self.ignored: Counter[str] = Counter(before.get("ignored", {}))
        self.failures: Counter[str] = Counter()  # bars of this run without a decision, by what the strategy raised
        self._step = timeframe_delta(ledger.timeframe).value
        self.tape = broker.ledger = Tape(ledger, lambda: self.memory)

    def _check_source(self, before: Mapping[str, Any]) -> None:
        was = before.get("source", self.source)
        if before.get("simulated", self._simulated) != self._simulated or (self._simulated and was != self.source):
            raise WrongLedger(
                f"This ledger was traded on {was}, not on {self.source}: prices that were drawn and real ones, or those of two "
                "simulated markets, do not belong into one account. Name another one (--ledger sqlite:///data/other.db), or "
                "put this one aside: btclab paper reset"
            )

    @property
    def memory(self) -> dict[str, Any]:
        """What the next process needs to go on, beside the broker's own state, as JSON values."""
        checkpoint = self.decider.checkpoint
        return {
            "source": self.source,
            "simulated": self._simulated,
            "strategy": self.decider.name,
            "checkpoint": checkpoint.name if checkpoint else "",
            "decider": self.decider.memory,
            "risk": self.guard.state.to_dict(),
            "ignored": dict(self.ignored),
        }

    # A bar

    def on_bar(self, event: BarClosed) -> bool:
        """Take a closed bar: fill, decide, write, tell. Returns whether it was one to act on.

        A bar that is not after the last one, lies off the grid of the timeframe, or cannot have traded changes nothing: it is
        counted, and told. Raises `LedgerError` or `StorageError` if it could not be written; the account is then as it was.
        """
        bar = self._sound(event)
        if bar is None:
            return False
        kept = self.guard.state, dict(vars(self.decider))
        try:
            self._act(bar, event)
        except BaseException:  # it may be tried again
            self.guard.state = kept[0]
            vars(self.decider).update(kept[1])
            raise
        return True

    def _act(self, bar: Bar, event: BarClosed) -> None:
        self.decider.add(event)
        self.tape.signal, self.tape.said = self._signal(), []
        before, atr = self.broker.state.target, self._atr()
        allowed = self.guard.allow(self.broker, bar, self.tape.signal["exposure"], atr)
        self.tape.said += allowed.refused
        told = self.tape.signal

        def then(_: PaperBroker) -> None:
            self.guard.protect(self.broker, bar, allowed, atr)
            self._take_requests(bar)

        self.broker.process(bar, allowed.target, then)
        self.teller.bar(bar, self.broker, told, before, allowed.fills, *self.tape.written, self.guard.state.peak)

    def _sound(self, event: BarClosed) -> Bar | None:
        """The bar as the engine sees it; None if it is not to be acted on."""
        time, last = event.timestamp.as_unit("ns").value, self.broker.last_bar
        values = (event.open, event.high, event.low, event.close, event.volume)
        if last is not None and time <= last.timestamp:
            same = (last.open, last.high, last.low, last.close, last.volume) == values
            what = "repeated" if time == last.timestamp and same else "changed" if time == last.timestamp else "late"
            self._ignore(what, event, f"it is not after the last bar, {_said(last.timestamp)}")
            return None
        if self.live and time > pd.Timestamp.now("UTC").as_unit("ns").value:
            self._ignore("of the future", event, "it has not opened yet; is a clock wrong?")
            return None
        if time % self._step:
            self._ignore("off the grid", event, f"no bar of {self.tape.ledger.timeframe} opens then")
            return None
        try:
            bar = Bar(time, *values)
        except InputError as error:
            self._ignore("impossible", event, str(error))
            return None
        if last is not None and (missing := (time - last.timestamp) // self._step - 1):
            self.ignored["missing"] += missing
            _log.warning("%s: %d bars are missing before %s", self.source, missing, _said(time))
        return bar

    def _ignore(self, what: str, event: BarClosed, why: str) -> None:
        self.ignored[what] += 1
        _log.warning("%s: the bar %s is %s and was ignored: %s", self.source, event.timestamp, what, why)
        if what != "repeated":  # a feed may say twice what it said; that it says something else, the user should know
            self.teller.error(f"a bar of {self.source}", f"The bar {event.timestamp} is {what}: {why}", what)

    def _signal(self) -> dict[str, Any]:
        try:
            return self.decider.decide()
        except Exception as error:  # noqa: BLE001  a strategy may raise anything; what is held stays, and it is told
            said = str(error) if isinstance(error, BtclabError) else f"{type(error).__name__}: {error}"
            new = not (said in self.failures or isinstance(error, BtclabError))
            _log.error("strategy %s: %s", self.decider.name, said, exc_info=new)  # where it failed is said once
            self.failures[said] += 1
            self.teller.error(f"strategy {self.decider.name}", said)
            return {
                "side": "hold",
                "exposure": None,
                "confidence": None,
                "reasons": {"text": f"no decision: {said}", "error": said},
            }

    def _atr(self) -> float:
        return float(average_true_range(self.decider.candles.iloc[-self.decider.window :], self.guard.rules)[-1])

    # Requests

    def _take_requests(self, bar: Bar) -> None:
        closed = bar.timestamp + self._step
        placed: dict[str, Request] = {}  # whose orders entered the book at this close
        for request in self.tape.ledger.pending():
            if not self.live or request.created <= closed:  # else it may know more than this close
                parent = _left_with(request, placed)
                try:
                    self._answer(request, bar, parent is not None)
                except (
                    TypeError,
                    ValueError,
                    KeyError,
                    OverflowError,
                    InputError,
                ) as error:  # it was no `btclab paper`
                    self._note(request, "refused", "request", f"It cannot be read: {error}")
                if any(one.id == request.id for one in self.broker.open_orders):
                    placed[request.id] = request
                elif parent is not None:
                    self.broker.cancel(parent.id)
                    del placed[parent.id]
                    text = f"{request.id!r}, which was to protect it, was refused; unprotected it is not wanted."
                    self._note(parent, "refused", "unprotected", text)

    def _answer(self, request: Request, bar: Bar, protects: bool) -> None:
        """`protects`: it is an order that was left together with its parent, which is in the book."""
        broker, body = self.broker, request.body
        if request.kind == "order":
            self._place(request, bar, protects)
        elif request.kind == "cancel":
            events = broker.cancel(str(body["order"]))
            unknown = next((one for one in events if one.event == "refused"), None)
            if unknown:
                self._note(request, "refused", unknown.rule, unknown.text)
            else:
                self._note(request, "done", "cancel", f"Order {body['order']!r} is cancelled.")
        elif request.kind == "close":
            events = broker.close(
                "closed by hand", request.id
            )  # whose order answers it; if it is refused, with the rule
            if all(one.order != request.id for one in events):
                self._note(
                    request, "done", "close", "Every open order is cancelled; there was an order to close the position."
                )
        elif request.kind == "resume":
            self.guard.state = reset(self.guard.state)
            self._note(request, "done", "resume", "Halts and pauses of the risk rules are lifted.")
        elif request.kind == "refused":  # for the record: who asked for it saw that no account could place it
            self._note(request, "refused", str(body["rule"]), str(body["text"]))
        else:
            self._note(request, "refused", "request", f"{request.kind!r} is none of {', '.join(REQUESTS)}.")

    def _place(self, request: Request, bar: Bar, protects: bool) -> None:
        broker = self.broker
        order = order_of({**request.body, "decided": bar.timestamp, "id": request.id})
        if protects and 0 < order.stop < math.inf:  # who left them may not have known the tick
            order = replace(order, stop=_on_tick(order.stop, broker.conditions.market))
        state = broker.state
        holding = Holding(state.cash, state.position, bar.close, state.target)
        rules, short = self.guard.rules, broker.conditions.margin is not None
        sound = wrong(order, broker.conditions.market, short) is None  # else the engine says what is wrong
        checked = partial(check, self.guard.state, order, rules, holding, broker.open_orders, short)
        allowed, refused = checked() if sound else (order, [])
        if allowed is None:
            for rule, text in refused:
                self._note(request, "refused", rule, text)
        else:
            broker.submit(order)  # its event has the request's id, and so answers it

    def _note(self, request: Request, event: str, rule: str, text: str) -> None:
        time = self.broker.last_bar.timestamp if self.broker.last_bar else 0
        self.tape.said.append(OrderEvent(time, request.id, event, rule, text))


def _left_with(request: Request, placed: Mapping[str, Request]) -> Request | None:
    """The one of the requests `placed` whose order that of `request` is to protect, if both were left together."""
    parent = placed.get(str(request.body.get("parent", "")))  # of another program it may be no text
    return parent if parent is not None and parent.created == request.created else None


def _said(ns: int) -> str:
    return f"{pd.Timestamp(ns, tz='UTC'):%Y-%m-%d %H:%M}"


# The process

Progress = Callable[[BarClosed, bool], object]  # a bar, and whether it was acted on
Ended = Literal["interrupted", "the recording has ended", "as many bars as were asked for"]


class Stop:
    """Asks a running `follow` to end after the bar that it is at; `set` may be called from anywhere, also a signal handler."""

    def __init__(self) -> None:
        self.asked = False
        self._woken: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def set(self, *_: object) -> None:
        """End before the next bar; asked a second time, at once: a strategy may hang."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self._woken is not None:
            loop, event = self._woken
            loop.call_soon_threadsafe(event.set)

    async def within(self, seconds: float | None) -> bool:
        """Wait until it is asked, or for so long; whether it was."""
        if self._woken is None:
            self._woken = asyncio.get_running_loop(), asyncio.Event()
        if not self.asked:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken[1].wait(), seconds)
        return self.asked


def waits() -> Iterator[float]:
    """Seconds until each further try to reach an exchange that does not answer."""
    wait = FIRST_WAIT_S
    while True:
        yield wait
        wait = min(2 * wait, MOST_WAIT_S)


def follow(
    trader: PaperTrader,
    make_feed: Callable[[], Feed],
    most: int | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Ended:
    """Trade the bars of a feed until it ends, `most` bars were acted on, or SIGINT or SIGTERM comes: then after the bar in hand.

    A live feed that gave up is made anew, from the last bar that was written on, after a pause. Raises what the ledger raises,
    and `NotListed`.
    """
    return asyncio.run(_follow(trader, make_feed, most, progress, stop or Stop()))


async def _follow(
    trader: PaperTrader, make_feed: Callable[[], Feed], most: int | None, progress: Progress | None, stop: Stop
) -> Ended:
    left, waiting = [math.inf if most is None else most], waits()
    with on_signals(stop.set):
        while True:
            before = trader.broker.last_bar
            try:
                return await _follow_one(trader, make_feed(), left, progress, stop)
            except NotListed:
                raise
            except DataUnavailable as error:
                if not trader.live:
                    raise
                if trader.broker.last_bar is not before:
                    waiting = waits()
                wait = next(waiting)
                _log.error("%s: %s; asked again in %.0f s", trader.source, error, wait)
                trader.teller.error(f"the feed {trader.source}", str(error))
            if await stop.within(wait):
                return "interrupted"


async def _follow_one(
    trader: PaperTrader, feed: Feed, left: list[float], progress: Progress | None, stop: Stop
) -> Ended:
    asked = asyncio.create_task(stop.within(None))
    try:
        while not stop.asked:
            taking = asyncio.create_task(feed.take())
            await asyncio.wait({taking, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
                break
            events = taking.result()
            if not events:
                return "the recording has ended"
            for event in events:
                if stop.asked:
                    break
                if isinstance(event, Status):
                    trader.teller.status(event, trader.broker, trader.source)
                elif isinstance(event, BarClosed):
                    acted = trader.on_bar(event)
                    left[0] -= acted
                    if progress is not None:
                        progress(event, acted)
                    if left[0] <= 0:
                        return "as many bars as were asked for"
                    await asyncio.sleep(0)  # a signal, and the feed's own work
        return "interrupted"
    finally:
        asked.cancel()
        await feed.aclose()
