"""The main job: train, backtest, signal, on the same candles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from btclab.errors import DataUnavailable, NotListed
from btclab.market.candles import timeframe_delta
from btclab.market.sources import load_candles
from btclab.operations.runs import Run, Step, check_parameters, run_notebook

STAGES = ("train", "backtest", "signal")
SIMULATED = "simulated:1"


@dataclass(frozen=True)
class Choice:
    """The source that a pipeline settled on, and the errors of those that failed before it."""

    source: str
    errors: tuple[str, ...] = ()


def choose_source(source: str | None, timeframe: str, symbol: str, simulate: bool = True) -> Choice:
    """`source` itself if one is named. Otherwise the first that has data; if none has, the simulated market and why.

    Not if `simulate` is off: a checkpoint of a real market has nothing to say about a simulated one.

    What an exchange answers is stored here, so that all stages read the same bars from the store.
    """
    if source is not None:
        candles = load_candles(source, timeframe, symbol=symbol)
        kind, _, rest = source.partition(":")
        if kind == "file":  # whoever reads run.json later may stand in another folder
            return Choice(f"file:{Path(rest).expanduser().resolve()}")
        return Choice(source if kind in ("simulated", "store") else f"store:{candles.attrs['source']}")
    try:
        candles = load_candles(None, timeframe, symbol=symbol)
    except NotListed:
        raise
    except DataUnavailable as error:
        if not simulate or timeframe_delta(timeframe) < timeframe_delta("1h"):
            raise  # the simulated market is hourly
        return Choice(SIMULATED, tuple(line.strip(" ·") for line in str(error).splitlines()[1:]))
    return Choice(f"store:{candles.attrs['source']}", tuple(candles.attrs.get("notes", ())))


def facts_of(choice: Choice) -> dict[str, Any]:
    """What `run.json` says of the source beyond the notebook's parameters."""
    return {"failed_sources": list(choice.errors)}


def run_pipeline(
    choice: Choice,
    timeframe: str,
    symbol: str,
    on_step: Callable[[str, Step], None],
    on_done: Callable[[str, Run], None],
) -> list[Run]:
    """Run the three stages on the chosen source; the checkpoint that `train` stores is what the others read."""
    common: dict[str, Any] = {"source": choice.source, "timeframe": timeframe, "symbol": symbol}
    for stage in STAGES:
        check_parameters(stage, common)
    runs: list[Run] = []
    for stage in STAGES:
        extra = {"checkpoint": runs[0].results["checkpoint"]} if runs else {}
        runs.append(run_notebook(stage, {**common, **extra}, partial(on_step, stage), **facts_of(choice)))
        on_done(stage, runs[-1])
    return runs
