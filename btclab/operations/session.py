"""From a choice (source, strategy, ledger) to a paper trader that runs: `trade` is what `btclab paper run` does."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
from filelock import FileLock, Timeout

from btclab.errors import BtclabError, DataUnavailable, InputError, NotListed
from btclab.market.candles import timeframe_delta, utc
from btclab.market.feed import Feed, ReplayFeed
from btclab.market.rules import trading_rules
from btclab.market.sources import RECORDED, load_candles
from btclab.operations.decision import Decider, bars_kept
from btclab.operations.interrupts import held_back, on_signals
from btclab.operations.notify import Notifier
from btclab.operations.paper import Ended, PaperTrader, Progress, Stop, follow, waits
from btclab.operations.telling import Teller
from btclab.records import Bar, Costs, Margin, Market
from btclab.settings import settings
from btclab.trading.broker import PaperBroker
from btclab.trading.inputs import checkpoint_of, fitting
from btclab.trading.ledger import WrongLedger
from btclab.trading.ledger.database import Database, address
from btclab.trading.risk import RiskRules
from btclab.trading.strategies import Strategy, strategy

if TYPE_CHECKING:
    from btclab.forecasting.checkpoints import Checkpoint

Asked = TypeVar("Asked")
_log = logging.getLogger(__name__)
CONTEXT_S = 3_600.0  # between two looks for new context; most series are daily


@dataclass(frozen=True)
class Choice:
    """What to trade, where and by what; None is what the settings say.

    `source` as of `load_candles`: an exchange is followed live, what is recorded is replayed at `speed` bars a second, from
    `start` on (default: the first bar with enough history that no network was trained on) and for `bars` bars at the most.
    `patience_s` is how long a live start waits for an exchange to answer.
    """

    source: str | None = None
    symbol: str | None = None
    timeframe: str = "1h"
    strategy: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    ledger: str | None = None
    bars: int | None = None
    start: str | None = None
    speed: float = math.inf
    notify: bool | None = None  # None: of live bars only
    patience_s: float = math.inf

    @property
    def live(self) -> bool:
        """Whether the bars are those of now."""
        return self.source is None or self.source.partition(":")[0] not in RECORDED

    @property
    def url(self) -> str:
        """Where the ledger lies."""
        return self.ledger or settings().trading.ledger


@dataclass(frozen=True)
class Session:
    """A trader that is ready, and where its bars come from; `count` is how many there are (None: without end)."""

    trader: PaperTrader
    make_feed: Callable[[], Feed]
    choice: Choice
    count: int | None
    notes: tuple[str, ...] = ()

    def run(self, progress: Progress | None = None, stop: Stop | None = None) -> Ended:
        """Trade until the feed ends or a signal comes; the start and the end are told. Raises as `follow` does."""
        trader, teller = self.trader, self.trader.teller
        if self.count == 0:
            return "the recording has ended"
        ended_here = threading.Event()
        if self.choice.live and trader.decider.series:
            threading.Thread(target=_keep_context, args=(trader.decider.series, ended_here), daemon=True).start()
        teller.start(f"{trader.decider.name} on {trader.source}", trader.broker, trader.guard.state.peak)
        try:
            ended = follow(trader, self.make_feed, self.choice.bars, progress, stop)
        except BaseException as error:
            teller.stop(f"{type(error).__name__}: {error}", trader.broker)
            raise
        finally:
            ended_here.set()
        teller.stop(ended, trader.broker)
        return ended


def _keep_context(names: tuple[str, ...], ended: threading.Event) -> None:
    """Fetch what the strategy reads beside the candles, now and then; the trader reads what is stored, and waits for nobody."""
    from btclab.context.fetch import fetch_context

    while not ended.is_set():
        try:
            failed = [f"{one.name}: {one.failed}" for one in fetch_context(names) if one.failed]
        except BtclabError as error:
            failed = [str(error)]
        for one in failed:
            _log.warning("context %s", one)
        ended.wait(CONTEXT_S)


@contextmanager
def opened(choice: Choice) -> Iterator[Session]:
    """All that `choice` names, ready to run; the ledger is locked until the block ends.

    It trades at the costs, latency and margin of the settings and by the exchange's rules for orders. Where no exchange answers
    it waits for one, as a running trader does. Raises `InputError` and `NotListed` for what does not exist or does not fit
    together, `DataUnavailable` naming each source when `patience_s` is over, `LedgerBusy` where another process trades,
    `KeyboardInterrupt` if a signal comes before it is ready, and as `Ledger.open` does.
    """
    with ExitStack() as held:
        with on_signals():  # SIGTERM, too, ends it at once
            ready = _ready(choice, held)
        yield ready


def _ready(choice: Choice, held: ExitStack) -> Session:
    """The session of `opened`; what it opens is closed with `held`."""
    own = settings()
    if choice.bars is not None and choice.bars < 1:
        raise InputError(f"bars is {choice.bars!r}; it must be at least 1.")
    if not choice.speed > 0:
        raise InputError(f"speed is {choice.speed!r}; it must be above 0 bars a second.")
    address(choice.url)  # a wrong one is said before anything is fetched
    chosen = strategy(choice.strategy or own.strategy.name, **choice.parameters)
    with held_back():  # it may load torch
        checkpoint, notes = checkpoint_of(chosen, choice.checkpoint or "")
    notifier = Notifier.from_settings() if (choice.live if choice.notify is None else choice.notify) else None
    if notifier is not None:
        held.callback(notifier.close)
    kept = bars_kept(chosen, checkpoint, choice.timeframe)
    candles, source = _waited(choice, notifier, lambda: _candles(choice, kept))
    checkpoint, unfit = fitting(checkpoint, candles, chosen, choice.checkpoint or "")
    first = _first(choice, chosen, checkpoint, candles, None)
    decider = Decider(chosen, candles.iloc[:first], checkpoint)
    _check(decider)
    symbol = str(candles.attrs.get("symbol") or choice.symbol or own.market.symbol)
    if choice.symbol not in (None, symbol):
        raise InputError(f"{source} is {symbol}, not {choice.symbol}.")
    latency, margin = own.trading.latency_bars, Margin.from_settings()
    broker = PaperBroker.open(
        choice.url, None, Costs.from_settings(), Market(symbol), choice.timeframe, latency=latency, margin=margin
    )
    ledger: Any = broker.ledger
    held.callback(ledger.close)
    state = ledger.state()[1]
    market, said = _rules(source, symbol, state.get("market", {}))
    broker.conditions = replace(broker.conditions, market=market)
    last = broker.last_bar
    if last is not None:
        if choice.live and last.timestamp < candles.index[0].as_unit("ns").value:  # it was away for longer
            earlier = pd.Timestamp(last.timestamp, tz="UTC") - len(candles) * timeframe_delta(choice.timeframe)
            again = partial(load_candles, source, choice.timeframe, start=earlier, symbol=choice.symbol)
            candles = _waited(choice, notifier, again)
        first = _first(choice, chosen, checkpoint, candles, last)
        memory = state.get("trader", {}).get("decider")
        decider = Decider(chosen, candles.iloc[:first], checkpoint, memory=memory)
    simulated = bool(candles.attrs.get("simulated"))
    teller = Teller(notifier, own.notifications, symbol, choice.timeframe, simulated)
    trader = PaperTrader(broker, decider, RiskRules.from_settings(), teller, source, choice.live)
    if choice.live:
        make_feed, count = _live(trader, source, symbol, choice.timeframe), choice.bars
        _tell_age(teller, checkpoint)
    else:
        rest = candles.iloc[first : None if choice.bars is None else first + choice.bars]
        make_feed, count = lambda: ReplayFeed(rest, choice.speed), len(rest)
    return Session(trader, make_feed, choice, count, (*notes, *unfit, *said))


def _waited(choice: Choice, notifier: Notifier | None, ask: Callable[[], Asked]) -> Asked:
    """What `ask` gives; while no exchange answers a live start, it is asked again and again, and that is said and told."""
    until, waiting, said = time.monotonic() + choice.patience_s, waits(), ""
    while True:
        try:
            return ask()
        except NotListed:
            raise
        except DataUnavailable as error:
            wait = next(waiting)
            if not choice.live or time.monotonic() + wait > until:
                raise
            news = "" if str(error) == said else f" {error}\nSee what answers: btclab doctor"
            _log.error("Trading begins once an exchange answers; asked again in %.0f s.%s", wait, news)
            said = str(error)
            if notifier is not None:
                notifier.send("error", f"start:{said}", where="the start of paper trading", error=said)
        time.sleep(wait)


def _rules(source: str, symbol: str, kept: Mapping[str, Any]) -> tuple[Market, list[str]]:
    """The exchange's rules for orders; if they cannot be had, those `kept` by the ledger, or none, and a note that says so."""
    try:
        return trading_rules(source, symbol), []
    except DataUnavailable as error:
        market = Market(**kept) if kept else Market(symbol)
        by = (
            "without a step, a minimum or a tick"
            if market == Market(symbol)
            else "by those that the ledger was written by"
        )
        said = f"The exchange's rules for orders are not known; it trades {by}. {error}"
        _log.warning(said)
        return market, [said]


def _candles(choice: Choice, kept: int) -> tuple[pd.DataFrame, str]:
    """The candles that are there, and the source's name: of an exchange the last `kept`, of a recording all."""
    if not choice.live:
        assert choice.source is not None
        return load_candles(choice.source, choice.timeframe, symbol=choice.symbol), choice.source
    # Beside those that are kept the one that is decided on, and a day for what an exchange lacks.
    step = timeframe_delta(choice.timeframe)
    start = pd.Timestamp.now("UTC").floor(step) - (kept + 2) * step - pd.Timedelta(days=1)
    names = [choice.source] if choice.source else [one for one in settings().market.exchanges if one != "coingecko"]
    if names in ([], ["coingecko"]):
        raise InputError("coingecko has daily bars only, and no feed; name an exchange: --source binance")
    errors: list[DataUnavailable] = []
    for name in names:
        try:
            return load_candles(name, choice.timeframe, start=start, symbol=choice.symbol), name
        except DataUnavailable as error:
            if choice.source:
                raise
            errors.append(error)
    said = "\n".join(f"  · {error}" for error in errors)
    if all(isinstance(error, NotListed) for error in errors):
        raise NotListed(f"No exchange of the settings has what is to be traded.\n{said}")
    raise DataUnavailable(f"No exchange could be reached.\n{said}")


def _first(
    choice: Choice, chosen: Strategy, checkpoint: Checkpoint | None, candles: pd.DataFrame, last: Bar | None
) -> int:
    """The number of the first bar to decide on."""
    index = pd.DatetimeIndex(candles.index)
    if last is not None:
        return _after(choice, candles, last)
    if choice.live:
        return len(index) - 1  # the one that closed last: the feed begins with it
    if choice.start is not None:
        first = int(index.searchsorted(utc(choice.start)))
        if first == len(index):
            raise InputError(f"start is {choice.start}; {choice.source} ends at {index[-1]:%Y-%m-%d %H:%M}.")
        return first
    first = min(bars_kept(chosen, checkpoint, choice.timeframe), len(index) // 2)
    return (
        first if checkpoint is None else max(first, min(int(index.searchsorted(checkpoint.test_start)), len(index) - 1))
    )


def _after(choice: Choice, candles: pd.DataFrame, last: Bar) -> int:
    """The number of the first bar after the last one that was processed. A recording must be the one that was traded."""
    opened = pd.Timestamp(last.timestamp, tz="UTC")
    number = int(candles.index.searchsorted(opened))
    if not choice.live and number < len(candles) and candles.index[number] == opened:
        close = float(candles["close"].iloc[number])
        if close != last.close:
            raise WrongLedger(
                f"The ledger's last bar, {opened:%Y-%m-%d %H:%M}, closed at {last.close:,.2f}; in {choice.source} it closed at "
                f"{close:,.2f}: that is another recording. Name another ledger (--ledger), or: btclab paper reset"
            )
    return int(candles.index.searchsorted(opened, side="right"))


def _check(decider: Decider) -> None:
    """What is wrong with the strategy from the start is said before it trades; what it raises otherwise may pass."""
    try:
        decider.check()
    except BtclabError:
        raise
    except Exception as error:  # noqa: BLE001  a strategy may raise anything; the trader says so at the bar
        _log.error("strategy %s, on the history: %s: %s", decider.name, type(error).__name__, error)


def _live(trader: PaperTrader, source: str, symbol: str, timeframe: str) -> Callable[[], Feed]:
    """Feeds that begin after the last bar that was processed, or before the one that closed last."""
    known = trader.decider.candles

    def make() -> Feed:
        from btclab.market.live_feed import LiveFeed

        last = trader.broker.last_bar
        since = known.index[-1] if last is None else pd.Timestamp(last.timestamp, tz="UTC")
        before = float(known["close"].iloc[-1]) if last is None else last.close
        return LiveFeed(source, symbol, timeframe, since, before, ticks=False)

    return make


def _tell_age(teller: Teller, checkpoint: Checkpoint | None) -> None:
    """Say that a training is due, if the checkpoint is too old by the settings."""
    if checkpoint is not None:
        age = pd.Timestamp.now("UTC") - utc(checkpoint.folds["test_end"])
        if age > pd.Timedelta(days=settings().retraining.age_days):
            teller.training_due(checkpoint.name, age)


# What others want to know


def running(url: str) -> int | None:
    """The id of the process that trades on the ledger at `url`; 0 if it is not known which, None if there is none."""
    _, path = address(url)
    if path is None:  # PostgreSQL: it may be a process of another machine
        asked = Database(url, writes=False)
        try:
            asked.connect()
            return None if asked.writer() is None else 0
        finally:
            asked.close()
    noted = Path(f"{path}.pid")
    try:
        process = int(noted.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None  # asked first: to look at the lock is to hold it for a moment
    except (OSError, ValueError):
        process = 0
    try:
        with FileLock(f"{path}.lock", timeout=0):
            return None
    except Timeout:
        return process


def age_of(bar: pd.Timestamp, timeframe: str) -> pd.Timedelta:
    """How long ago the bar that opened at `bar` closed."""
    return pd.Timestamp.now("UTC") - (bar + timeframe_delta(timeframe))
