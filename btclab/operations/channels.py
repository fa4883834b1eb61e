"""A channel (Discord, Telegram, e-mail, Slack, …): one address of Apprise, which is never told to anyone.

Apprise says whether a message went out, not why it did not: the answer's status and Retry-After are noted here, where its
services speak to the network. What they log or raise may hold the address, and is kept to itself.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests
from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat, NotifyType, OverflowMode

from btclab.errors import InputError
from btclab.market.wire import TimedSession, TooLong, root_cause
from btclab.operations.messages import Message

MOST_BYTES = 1_000_000  # of an answer
MOST_CHARACTERS = 4_000  # of a digest, where the service takes as much
MARKDOWN = {"Discord"}  # services that read plain text as Markdown
REFUSED = {400, 413, 414, 415, 422}  # it is the message that is refused, and would be again
PLAIN = {"webhooks", "services"}  # parts of many addresses, and no secret
REASONS = {
    401: "the address is not accepted (any more)",
    403: "the address is not accepted (any more)",
    404: "there is no such address (any more)",
    413: "the message is too long",
    429: "too many messages",
}

logging.getLogger("urllib3").setLevel(logging.INFO)  # at DEBUG it logs whole addresses


@dataclass(frozen=True)
class Outcome:
    """What became of a delivery: `why` not, `wait` (s) if the service asked for it, `refused` if it never takes this message."""

    delivered: bool
    why: str = ""
    wait: float | None = None
    refused: bool = False


class _Heard(threading.local):
    """What a delivery in this thread has met."""

    timeout_s = 10.0
    status: int | None = None
    wait: float | None = None
    cause = ""
    words = ""


class _Wait(Exception):
    """The service asked for a pause (s, None: it did not say how long)."""

    def __init__(self, wait: float | None) -> None:
        self.wait = wait


class _Words(logging.Handler):
    """Keeps the last thing that Apprise said in this thread, and lets no other handler have it."""

    def emit(self, record: logging.LogRecord) -> None:
        _heard.words = record.getMessage()


class _Requests:
    """Stands in for `requests` in the modules of Apprise's services: bounds each answer, and notes how it was."""

    def __getattr__(self, name: str) -> Any:
        return getattr(requests, name)

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        _heard.status, _heard.wait = None, None
        options |= {"timeout": _heard.timeout_s, "stream": True, "most_bytes": MOST_BYTES}
        try:
            with TimedSession() as session:
                answer = session.request(method, url, **options)
        except TooLong:
            _heard.cause = f"its answer is longer than {MOST_BYTES / 1e6:g} MB"
            raise requests.RequestException(_heard.cause) from None
        except requests.ReadTimeout as error:
            _heard.cause = f"no complete answer within {_heard.timeout_s:g} s"
            raise error
        except requests.RequestException as error:  # its text may hold the address
            root = root_cause(error)
            _heard.cause = f"no connection: {getattr(root, 'strerror', None) or type(root).__name__}"
            raise
        _heard.status, _heard.wait = answer.status_code, asked_wait(answer)
        return answer

    def get(self, url: str, params: Any = None, **options: Any) -> requests.Response:
        return self.request("GET", url, params=params, **options)

    def post(self, url: str, data: Any = None, json: Any = None, **options: Any) -> requests.Response:
        return self.request("POST", url, data=data, json=json, **options)

    def put(self, url: str, data: Any = None, **options: Any) -> requests.Response:
        return self.request("PUT", url, data=data, **options)

    def patch(self, url: str, data: Any = None, **options: Any) -> requests.Response:
        return self.request("PATCH", url, data=data, **options)


_heard = _Heard()
_requests = _Requests()
_apprise_log = logging.getLogger("apprise")
_apprise_log.propagate = False
_apprise_log.setLevel(logging.WARNING)
_apprise_log.addHandler(_Words())
_asset = AppriseAsset(app_id="btclab", app_desc="btclab", app_url="", image_url_mask="", image_url_logo="")


def asked_wait(answer: requests.Response) -> float | None:
    """Seconds that an answer 429 or 503 asks to wait: by Retry-After (seconds or a date), else by `retry_after` in its JSON."""
    if answer.status_code not in (429, 503):
        return None
    asked: Any = answer.headers.get("Retry-After", "")
    try:
        if asked and not re.fullmatch(r"[\d.]+", asked):
            until = parsedate_to_datetime(asked)
            return max(0.0, (until - datetime.now(until.tzinfo)).total_seconds())
        if not asked:
            content = json.loads(answer.content)
            asked = content.get("retry_after", content.get("parameters", {}).get("retry_after"))
        return max(0.0, float(asked))
    except (ValueError, TypeError, AttributeError):
        return None


def secrets_in(url: str) -> tuple[str, ...]:
    """What must not be told of an address: itself, and its user, password, tokens; the longest first."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].partition(":")[0]
    found = {piece for piece in re.split(r"[/:@?&=+]+", url.partition("://")[2]) if len(piece) >= 6}
    found -= PLAIN | ({host} if "." in host else set())
    found |= {url} | {unquote(piece) for piece in found} | {quote(unquote(piece), safe="") for piece in found}
    return tuple(sorted(found, key=len, reverse=True))


def hidden(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets."""
    for secret in secrets:
        text = text.replace(secret, "(hidden)")
    return text


class Channel:
    """A place to which messages go, under the user's `name` for it."""

    def __init__(self, name: str, url: str, timeout_s: float) -> None:
        """Raises `InputError`, without the address, if Apprise cannot read it."""
        service = Apprise.instantiate(url, asset=_asset)
        if not isinstance(service, NotifyBase):
            variable = f"BTCLAB_NOTIFICATIONS__SECRET_URLS__{name.upper()}"
            raise InputError(
                f"The address of the channel {name!r} is none that Apprise reads. Set {variable} in .env, e.g. to "
                "https://discord.com/api/webhooks/<ID>/<TOKEN>; all forms: https://appriseit.com/services/"
            )
        self.name, self.secrets, self._timeout_s = name, secrets_in(url), timeout_s
        service.overflow_mode = OverflowMode.TRUNCATE
        service.socket_connect_timeout = service.socket_read_timeout = timeout_s  # of services that are not HTTP
        service.throttle = _throttle
        for module in {sys.modules[kind.__module__] for kind in type(service).__mro__}:
            if getattr(module, "requests", None) is requests:
                module.requests = _requests  # type: ignore[attr-defined]
        self._service, self._busy = service, threading.Lock()

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {self.service!r})"

    @property
    def service(self) -> str:
        """Apprise's name of the service, e.g. Discord."""
        return str(self._service.service_name)

    @property
    def most_characters(self) -> int:
        """How long a message may be; a fifth is left for what escaping adds."""
        return min(MOST_CHARACTERS, int(0.8 * self._service.body_maxlen))

    def deliver(self, message: Message) -> Outcome:
        """Try once, for at most about `timeout_s`. Never raises; no part of the outcome holds a part of the address."""
        title, body = message.title, message.body
        if self._service.service_name in MARKDOWN:
            title, body = f"**{_as_markdown(title)}**", _as_markdown(body)
        with self._busy:
            _heard.timeout_s, _heard.status, _heard.wait, _heard.cause, _heard.words = (
                self._timeout_s,
                None,
                None,
                "",
                "",
            )
            try:
                if self._service.notify(
                    body=body, title=title, notify_type=NotifyType(message.level), body_format=NotifyFormat.TEXT
                ):
                    return Outcome(True)
            except _Wait as asked:
                wait = asked.wait if _heard.wait is None else _heard.wait
                return Outcome(False, self._why(wait), wait)
            except Exception as error:  # noqa: BLE001  hundreds of services; whatever one of them raises is a failed delivery
                return Outcome(False, hidden(f"{type(error).__name__}: {error}", self.secrets))
            return Outcome(False, self._why(_heard.wait), _heard.wait, _heard.status in REFUSED)

    def _why(self, wait: float | None) -> str:
        asks = "" if wait is None else f"asks to wait {wait:.1f} s"
        status = _heard.status
        if status is None or 200 <= status < 300:
            return hidden(asks or _heard.cause or _heard.words or "Apprise gives no reason", self.secrets)
        return "; ".join(filter(None, (f"answered {status}", REASONS.get(status, ""), asks)))


def _throttle(last_io: Any = None, wait: float | None = None) -> None:
    """Where Apprise would sleep before a request: the queue waits instead, and nothing is sent right after a 429."""
    if wait or _heard.status == 429:
        raise _Wait(wait)


def _as_markdown(text: str) -> str:
    """`text` so that Markdown shows it as it is, and an @everyone in it calls no one."""
    return re.sub(r"([\\*_~`|>#\[\]])", r"\\\1", text).replace("@", "@\u200b")
