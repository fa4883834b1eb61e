"""The ledger that a command of `btclab paper` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from btclab.trading.ledger import Ledger

Url = Annotated[str | None, typer.Option("--ledger", help="The ledger's address. Default: that of the settings.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def url_of(given: str | None) -> str:
    """The address that was given, or that of the settings."""
    from btclab.settings import settings

    return given or settings().trading.ledger


def opened(url: str) -> Ledger:
    """The ledger at `url` for reading and for requests. Raises `WrongLedger` if none has begun there."""
    from btclab.trading.ledger import Ledger

    return Ledger.open(url, mode="read")
