"""What is told: one template an event, all in one table, and the digest of several."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from btclab.errors import InputError, unknown
from btclab.market.candles import lapse, utc

LEVELS = ("info", "success", "warning", "failure")  # as Apprise has them, the worst last
MOST_TEXT = 600  # characters of one figure: an error may quote a whole page
MOST_LINE = 300  # characters of a digest's line; a longer message is told by its title
UTC = ZoneInfo("UTC")


@dataclass(frozen=True)
class Event:
    """One kind of message. In the `body`, a part between dots is left out when none of its figures is known.

    A figure is written {name:form}; the forms are the keys of `FORMS`. `cooldown_min`: minutes to the next of the kind.
    """

    title: str
    body: str
    level: str = "info"
    cooldown_min: float = 0.0


# fmt: off
EVENTS = {
    "start": Event("Paper trading started",
                   "{strategy} on {symbol} {timeframe} · equity {equity:money} · {position:holding}"),
    "stop": Event("Paper trading stopped", "{reason} · equity {equity:money} · {position:holding}", "warning"),
    "signal": Event("New signal: {side}", "exposure {before:share} → {exposure:share} · confidence {confidence:share}"
                    " · close {price:money} · {reasons}"),
    "order": Event("Order: {type}", "{side} {quantity:amount} · to an exposure of {exposure:share} · limit {limit:money}"
                   " · stop {stop:money} · {reason} · {order}"),
    "fill": Event("Filled: {side} {quantity:amount} at {price:money}", "{reason} · value {value:money} · fee {fee:money}"
                  " · {position:holding} · equity {equity:money} · {order}", "success"),
    "triggered": Event("Triggered: {type}", "{side} {quantity:amount} at {price:money} · {order}", "warning"),
    "price_move": Event("{symbol} {change:change}", "{before:money} → {price:money} · bar of {timestamp:time}", "info", 5),
    "profit": Event("Profit and loss {change:change}", "{pnl:money} since the start · equity {equity:money}"
                    " · bar of {timestamp:time}"),
    "drawdown": Event("Drawdown {drawdown:share}", "equity {equity:money}, at its highest {peak:money}"
                      " · bar of {timestamp:time}", "warning"),
    "feed_stale": Event("No new bar for {age:duration}", "{source} · newest bar {timestamp:time}"
                        " · nothing is traded until bars come again", "warning", 30),
    "training_due": Event("Training is due", "{checkpoint} · trained {age:duration} ago · type: btclab train", "info", 1440),
    "training_failed": Event("Training failed", "{error} · see: btclab runs", "failure", 10),
    "error": Event("Error in {where}", "{error}", "failure", 10),
    "test": Event("Test", "btclab can tell you things here · sent {timestamp:time}"),
}
# fmt: on


@dataclass(frozen=True)
class Message:
    """What a channel is given: plain text, and how serious it is (`LEVELS`)."""

    kind: str
    title: str
    body: str
    level: str = "info"


class _Filler(string.Formatter):
    """Fills a template; knows in what the market's amounts and prices are counted, and whose clock times are told by."""

    def __init__(self, symbol: str, zone: tzinfo) -> None:
        self.base, _, self.quote = symbol.partition(":")[0].partition("/")
        self.zone = zone

    def format_field(self, value: Any, format_spec: str) -> str:
        if _missing(value):
            return "–"
        return FORMS[format_spec](self, value)

    def fill(self, template: str, figures: Mapping[str, Any]) -> str:
        return self.vformat(template, (), figures)

    def known(self, part: str, figures: Mapping[str, Any]) -> bool:
        """Whether a part has no figures, or one that is known."""
        names = [name for _, name, _, _ in self.parse(part) if name]
        return not names or not all(_missing(figures[name]) for name in names)


def _text(_: _Filler, value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " …"


def _amount(filler: _Filler, value: Any) -> str:
    return f"{float(value):,.8f}".rstrip("0").rstrip(".") + f" {filler.base}"


def _holding(filler: _Filler, value: Any) -> str:
    return f"{'short' if round(float(value), 8) < 0 else 'holding'} {_amount(filler, abs(float(value)))}"


def _time(filler: _Filler, value: Any) -> str:
    return f"{utc(value).tz_convert(filler.zone):%Y-%m-%d %H:%M %Z}"


FORMS: dict[str, Callable[[_Filler, Any], str]] = {
    "": _text,
    "amount": _amount,  # of the base currency
    "holding": _holding,  # a position, below 0 when sold short
    "money": lambda filler, value: f"{float(value):,.2f} {filler.quote}".rstrip(),  # of the quote currency
    "share": lambda _, value: f"{100 * float(value):.1f} %",  # of a fraction
    "change": lambda _, value: f"{100 * float(value):+.2f} %",  # of a fraction
    "duration": lambda _, value: lapse(pd.Timedelta(seconds=float(value))),  # of seconds
    "time": _time,  # of ns since 1970, a Timestamp or text; naive means UTC
}


def _missing(value: Any) -> bool:
    return value == "" if isinstance(value, str) else bool(pd.api.types.is_scalar(value) and pd.isna(value))


def render(kind: str, figures: Mapping[str, Any], symbol: str = "BTC/USDT", zone: tzinfo = UTC) -> Message:
    """The message of an event. A figure that is None, NaN or '' is not known; one that is not given is an error.

    Raises `InputError` for an unknown kind, a figure that its template needs and that is not given, and one of a wrong type.
    """
    if kind not in EVENTS:
        raise unknown("kind of notification", kind, list(EVENTS))
    event, given = EVENTS[kind], {"symbol": symbol, **figures}
    filler = _Filler(str(given["symbol"]), zone)
    try:
        title = filler.fill(event.title, given)
        parts = [filler.fill(part, given) for part in event.body.split(" · ") if filler.known(part, given)]
    except KeyError as error:
        needed = sorted({name for _, name, _, _ in filler.parse(event.title + event.body) if name} - {"symbol"})
        raise InputError(f"The notification {kind!r} lacks the figure {error}; it needs {', '.join(needed)}.") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"A figure of the notification {kind!r} is of a wrong type: {error}.") from None
    return Message(kind, title, " · ".join(parts), event.level)


def dated(message: Message, at: float, zone: tzinfo) -> Message:
    """A message that comes late, with the time `at` (s since 1970) of its event."""
    return Message(message.kind, message.title, f"{message.body} · of {_moment(at, zone):%d %b %H:%M}", message.level)


def digest(told: Sequence[tuple[float, Message]], most: int, zone: tzinfo) -> Message:
    """Several messages (each with the time of its event, s since 1970) as one, of at most about `most` characters.

    What does not fit is counted, not told: the newest are left out.
    """
    lines: list[str] = []
    room = most - 40  # for the line that counts the rest
    for at, message in told:
        head = " ".join(f"{_moment(at, zone):%d %b %H:%M} {message.title}".split())
        line = " ".join(f"{head}: {message.body}".split())
        line = line if len(line) <= min(room, MOST_LINE) else head[:MOST_LINE]
        if len(line) > room:
            break
        lines.append(line)
        room -= len(line) + 1
    if left := len(told) - len(lines):
        lines.append(f"… and {left:,} more")
    worst = max((message.level for _, message in told), key=LEVELS.index)
    title = f"{len(told):,} messages since {_moment(told[0][0], zone):%d %b %H:%M}"
    return Message("digest", title, "\n".join(lines), worst)


def _moment(at: float, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(at, zone)
