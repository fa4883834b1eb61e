"""The durable ledger: what an account did, append-only, exact to the last digit; everything else follows from it."""

from btclab.trading.ledger.database import LedgerBusy, WrongLedger
from btclab.trading.ledger.postings import Entry, Request
from btclab.trading.ledger.store import Ledger

__all__ = ["Entry", "Ledger", "LedgerBusy", "Request", "WrongLedger"]
