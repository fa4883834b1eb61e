"""Every error a user can meet. Each says what was wrong, the value, and what to do next.

`exit_code` is what the command line returns: 2 when the input was wrong, 1 when the world failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LISTED = 40  # a longer list of valid names is no help


class BtclabError(Exception):
    """Base of all errors that btclab raises on purpose."""

    exit_code = 1


class InputError(BtclabError, ValueError):
    """The caller asked for something that cannot be: a wrong name, value, file or frame."""

    exit_code = 2


class CandleError(InputError):
    """A frame that is not a valid set of candles; the message names the first offending row."""


class TooFewBars(InputError):
    """There are fewer bars than the work needs; the message says how many are needed and why."""


class CheckpointError(InputError):
    """A checkpoint that is missing, damaged, or made for other data."""


class LookAheadError(BtclabError):
    """A feature knows the future; training on it is refused."""


class TrainingFailed(BtclabError):
    """A training could not go on: memory ran out, or the loss grew beyond all numbers; the message says what to change."""


class LedgerError(BtclabError):
    """A ledger and its account disagree, or what was asked would make them: nothing was written."""


class DataUnavailable(BtclabError):
    """No source could give the data; the message names each source and its error."""


class NotListed(DataUnavailable):
    """An exchange answered, and does not trade the market that was asked for."""

    exit_code = 2


class StorageError(BtclabError):
    """A folder or file could not be read or written."""


class RunFailed(BtclabError):
    """A notebook run stopped at a failing cell; its notebook and `run.json` are kept."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(exception_name: str) -> int:
    """Exit code of the btclab exception called `exception_name` (as a notebook kernel reports it); 1 if unknown."""
    found = globals().get(exception_name)
    return getattr(found, "exit_code", 1)


def unknown(kind: str, value: object, valid: Iterable[str], remedy: str = "") -> InputError:
    """An `InputError` for a name that does not exist, with the nearest valid names."""
    names = [str(name) for name in (sorted(valid) if isinstance(valid, set) else valid)]
    near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    listed = f"Valid: {', '.join(names)}." if len(names) <= MOST_LISTED else ""
    return InputError(" ".join(filter(None, (f"Unknown {kind}: {value!r}.", hint.strip(), listed, remedy))))
