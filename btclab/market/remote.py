"""One GET for JSON, through the cache: with retries, a time limit that holds, and a reason in every failure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import orjson
import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from btclab.errors import DataUnavailable
from btclab.market.cache import Answer, cached
from btclab.market.wire import TimedSession, TooLong, rebased, root_cause, without_login
from btclab.settings import settings

logging.getLogger("urllib3").setLevel(logging.INFO)  # at DEBUG it logs whole addresses, and so keys
TRIES = 3
MOST_REDIRECTS = 3
MOST_BYTES = 64_000_000  # no answer that btclab asks for is nearly as long
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class _Transient(DataUnavailable):
    """A failure that may pass; `wait` is what the server asked for in seconds, or None."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def get_json(
    source: str,
    url: str,
    parameters: dict[str, str] | None = None,
    *,
    kind: str,
    secret: dict[str, str] | None = None,
    base: str | None = None,
    check: Callable[[Any], str] | None = None,
) -> Answer:
    """The JSON at `url`, from the cache while it is young enough for its `kind` (see `cache.LIFETIMES`).

    `secret` parameters are sent, and are in no key and no message. `base` replaces scheme and host of `url`.
    `check(content)` says '' or why the content is no valid answer; such content is neither returned nor cached.
    Raises `DataUnavailable` naming the source and the cause, after at most about three times `market.timeout_s`.
    """
    address = rebased(url, base) if base else url
    query = urlencode(sorted((parameters or {}).items()))

    def ask() -> Any:
        content = _ask(source, address, {**(parameters or {}), **(secret or {})})
        if check and (wrong := check(content)):
            raise DataUnavailable(f"{source}: {wrong.rstrip('.')}.")
        return content

    return cached(source, f"{without_login(address)}?{query}", kind, ask)


def _ask(source: str, address: str, parameters: dict[str, str]) -> Any:
    timeout = settings().market.timeout_s

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, _Transient) else None
        return min(timeout, 0.1 * timeout * state.attempt_number if asked is None else asked)

    again = Retrying(retry=retry_if_exception_type(_Transient), stop=stop_after_attempt(TRIES), wait=wait, reraise=True)
    return again(_once, source, address, parameters, timeout)


def _once(source: str, address: str, parameters: dict[str, str], timeout: float) -> Any:
    """One request, done within `timeout`, its redirects and all."""
    from btclab import __version__

    headers = {"User-Agent": f"btclab/{__version__}"}
    try:
        with TimedSession() as session:
            session.max_redirects = MOST_REDIRECTS
            answer = session.request(
                "GET", address, params=parameters, headers=headers, timeout=timeout, stream=True, most_bytes=MOST_BYTES
            )
            body = answer.content
    except TooLong:
        raise DataUnavailable(f"{source}: its answer is longer than {MOST_BYTES / 1e6:.0f} MB.") from None
    except requests.ReadTimeout:
        raise _Transient(f"{source}: its answer was not complete after {timeout:g} s.") from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        raise DataUnavailable(f"{source}: its address is none: {without_login(address)!r}.") from None
    except requests.TooManyRedirects:
        raise DataUnavailable(f"{source}: sends from one address to the next without end.") from None
    except requests.RequestException as error:  # its text may hold the address and so a key
        raise _Transient(f"{source}: {type(error).__name__}: {_cause(error)}.") from None
    _refuse(source, answer, timeout)
    try:
        return orjson.loads(body)  # as the cache reads it again
    except ValueError:
        shown = bytes(body[:80]).decode("utf-8", "replace")
        raise DataUnavailable(f"{source}: did not answer in JSON but with {shown!r}.") from None


def _refuse(source: str, answer: requests.Response, timeout: float) -> None:
    status = answer.status_code
    if status < 300:
        return
    said = f"{source}: answered {status} {answer.reason}".rstrip()
    asked = answer.headers.get("retry-after", "")
    wait = float(asked) if asked.isdigit() else None
    if wait is not None and wait > timeout:
        raise DataUnavailable(f"{said}; it asks to wait {wait:g} s. Try again then.")
    if status in TRANSIENT:
        raise _Transient(f"{said}.", wait)
    raise DataUnavailable(f"{said}.")


def _cause(error: BaseException) -> str:
    """The system's own words (connection refused, no such host) below those of requests."""
    root = root_cause(error)
    return (getattr(root, "strerror", None) or type(root).__name__).rstrip(".")
