"""The checkpoint whose forecasts a strategy reads, if it reads any: reports and paper trading ask here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from btclab.errors import CheckpointError, InputError
from btclab.settings import settings
from btclab.trading.strategies import Strategy

if TYPE_CHECKING:
    from btclab.forecasting.checkpoints import Checkpoint


def needs_forecasts(chosen: Strategy) -> bool:
    """Whether it cannot run without: it says so, or the settings do, by `min_confidence` or a size by Kelly."""
    own = settings()
    return (
        "forecasts" in chosen.needs
        or own.strategy.min_confidence > 0
        or own.risk.sizing in ("kelly_binary", "kelly_normal")
    )


def checkpoint_of(chosen: Strategy, name: str = "") -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint that `chosen` reads (`name` "": production), and why it has none.

    Only one that is not named and that the strategy can do without may be missing. Raises `CheckpointError` as
    `load_checkpoint` does, and `InputError` for one that is named and never read.
    """
    if "forecasts" not in chosen.uses and not needs_forecasts(chosen):
        if name:
            raise InputError(f"Strategy {chosen.name!r} reads no forecasts; leave the checkpoint {name!r} out.")
        return None, []
    from btclab.forecasting.checkpoints import load_checkpoint

    try:
        return load_checkpoint(name or "production"), []
    except CheckpointError as error:
        return _without(chosen, name, error)


def fitting(
    checkpoint: Checkpoint | None, candles: pd.DataFrame, chosen: Strategy, name: str = ""
) -> tuple[Checkpoint | None, list[str]]:
    """`checkpoint`, if it is of the market of `candles`, and why it is left out. Raises as `checkpoint_of` does."""
    if checkpoint is None:
        return None, []
    from btclab.forecasting.forecaster import check_market

    try:
        check_market(checkpoint, candles)
    except CheckpointError as error:
        return _without(chosen, name, error)
    return checkpoint, []


def _without(chosen: Strategy, name: str, error: CheckpointError) -> tuple[None, list[str]]:
    if name or needs_forecasts(chosen):
        raise error
    return None, [f"without forecasts: {error}"]
