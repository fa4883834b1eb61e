"""A strategy as reports run it: the network that it reads, if any, its audit, the bars it is judged on, its account."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import HTML, Markdown

from btclab.analysis.backtest import Result, backtest
from btclab.analysis.metrics import equity_metrics
from btclab.errors import TooFewBars
from btclab.features.build import build_features
from btclab.market.candles import between
from btclab.records import Costs, OrderEvent
from btclab.reporting.features import box
from btclab.settings import RiskSettings, TradingSettings, settings
from btclab.trading.broker import MEMORY, PaperBroker
from btclab.trading.guard import guarded
from btclab.trading.inputs import checkpoint_of, fitting
from btclab.trading.risk import RiskRules
from btclab.trading.sizing import size_signals
from btclab.trading.strategies import Strategy, audit_strategy, run_strategy

if TYPE_CHECKING:
    from btclab.forecasting.checkpoints import Checkpoint

DEFAULT = "production"  # the checkpoint of a report that was told none
MOST_CUTS, LEAST_CUTS, LEAST_BARS, AUDIT_S = 32, 8, 1_000, 1.5
_SAID = ("fee_bps", "slippage_bps", "initial_cash")  # in every sentence of conditions, at their defaults or not
_SHORT = ("short_interest_pct", "maintenance_margin")


def network(chosen: Strategy, name: str, candles: pd.DataFrame) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint that `chosen` reads, and why it has none, as paper trading finds it. Raises as `checkpoint_of` does."""
    named = "" if name == DEFAULT else name
    checkpoint, notes = checkpoint_of(chosen, named)
    checkpoint, unfit = fitting(checkpoint, candles, chosen, named)
    return checkpoint, notes + unfit


def features_of(
    chosen: Strategy, candles: pd.DataFrame, series: pd.DataFrame | None
) -> tuple[pd.DataFrame | None, list[str]]:
    """The features that `chosen` reads, if it reads any, and why it has none: one that can do without runs on few bars, too.

    Raises as `build_features` does.
    """
    if "features" not in (*chosen.needs, *chosen.uses):
        return None, []
    try:
        return build_features(candles, series), []
    except TooFewBars as error:
        if "features" in chosen.needs:
            raise
        return None, [f"without features: {error}"]


def judged(
    candles: pd.DataFrame, forecasts: pd.DataFrame | None, start: object = None, end: object = None
) -> pd.DataFrame:
    """The bars that a report is about, from `start` to before `end`; beside forecasts those that training has not seen.

    Raises `TooFewBars` if there are fewer than two.
    """
    if forecasts is not None:
        from btclab.forecasting.forecaster import out_of_sample

        return out_of_sample(candles, forecasts, start or None, end or None)[0]
    bars = between(candles, start or None, end or None)
    if len(bars) < 2:
        raise TooFewBars(
            f"{len(bars)} bar(s) are left of {len(candles):,}; give another start or end, or more candles."
        )
    bars.attrs = dict(candles.attrs)
    return bars


def signals(
    chosen: Strategy,
    candles: pd.DataFrame,
    features: pd.DataFrame | None,
    forecasts: pd.DataFrame | None,
    bars: pd.Index,
) -> pd.DataFrame:
    """The sized signals of `chosen` over `bars` of `candles`, all at which it may have an opinion; earlier ones warm it up."""
    made = run_strategy(chosen, candles, features, forecasts, since=bars[0])
    return size_signals(made, candles, forecasts=forecasts).loc[bars]


# The audit


def audited(
    chosen: Strategy, candles: pd.DataFrame, features: pd.DataFrame | None, forecasts: pd.DataFrame | None
) -> dict[str, Any]:
    """What `audit_strategy` says of `chosen` on these bars, as JSON. Raises `LookAheadError` if it knows the future.

    A slow strategy is run on fewer shorter histories, and then on the newest bars alone, so that the audit takes a second
    or two.
    """
    chosen(*_newest(LEAST_BARS, candles, features, forecasts))  # what is compiled at the first call does not count
    began = time.perf_counter()
    chosen(candles, features, forecasts)
    took = time.perf_counter() - began
    cuts = max(LEAST_CUTS, min(MOST_CUTS, int(AUDIT_S / took)))
    share = min(1.0, AUDIT_S / (cuts * took))
    bars = min(len(candles), max(LEAST_BARS, int(share * len(candles))))
    cuts = min(cuts, bars - 1)
    audit_strategy(chosen, *_newest(bars, candles, features, forecasts), cuts)
    sentence = (
        f"Strategy audit passed: {chosen.name} wants the same at every bar, to the last digit, when the history ends there "
        f"({cuts} shorter histories)."
    )
    return {"passed": True, "sentence": sentence, "strategy": chosen.name, "cuts": cuts, "bars": bars, "seed": 0}


def _newest(
    bars: int, candles: pd.DataFrame, features: pd.DataFrame | None, forecasts: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame | None]:
    features, forecasts = (None if one is None else one.iloc[-bars:] for one in (features, forecasts))
    return candles.iloc[-bars:], features, forecasts


def certificate(audit: dict[str, Any]) -> HTML:
    """The look-ahead audit of a strategy, as a box."""
    lines = [
        f"<b>{escape(audit['sentence'])}</b>",
        f"<small>Checked on {audit['bars']:,} bars, seed {audit['seed']}.</small>",
    ]
    return box(lines, good=audit["passed"])


# Under which rules it traded, and what they refused


def conditions(costs: Costs, initial_cash: float, signals: pd.DataFrame) -> dict[str, Any]:
    """All that a run depends on beside its candles, as JSON: the strategy, and `[trading]`, `[strategy]` and `[risk]`.

    The costs and the start are those that were given.
    """
    own, ran = settings(), signals.attrs["strategy"]
    trading = own.trading.model_dump(mode="json", exclude={"ledger"}) | asdict(costs) | {"initial_cash": initial_cash}
    return {
        "ran": {key: ran[key] for key in ("name", "parameters", "filters")},
        "trading": trading,
        "strategy": own.strategy.model_dump(mode="json", exclude={"name"}),
        "risk": own.risk.model_dump(mode="json"),
    }


def conditions_said(said: dict[str, Any]) -> Markdown:
    """The costs, and every limit, cost, latency and leave to sell short that is not as by default."""
    trading = said["trading"]
    skipped = {*_SAID, *(() if trading["allow_short"] else _SHORT)}
    other = []
    for section, model in (("trading", TradingSettings), ("risk", RiskSettings)):
        for name, value in said[section].items():
            if name not in skipped and value != model.model_fields[name].default:
                other.append(f"`{name}` {str(value).lower() if isinstance(value, bool) else value}")
    words = (
        f"Each side of a trade pays a fee of {trading['fee_bps']:g} bps and slippage of {trading['slippage_bps']:g} bps"
    )
    rest = f"Not as by default: {', '.join(other)}" if other else "All else is as by default"
    return Markdown(f"{words}. {rest} (`[trading]` and `[risk]` in `data/config.toml`, for paper trading alike).")


def refusals(events: Sequence[OrderEvent]) -> Markdown:
    """When the drawdown halt ended trading, and how often every other rule refused something."""
    refused = [one for one in events if one.event == "refused"]
    halts = sorted((one for one in refused if one.rule == "max_drawdown"), key=lambda one: one.timestamp)
    others = pd.Series([one.rule for one in refused if one.rule != "max_drawdown"], dtype=str).value_counts()
    said = []
    if halts:
        when = pd.Timestamp(halts[0].timestamp, tz="UTC")
        said.append(f"**Halted on {when:%Y-%m-%d %H:%M}**: {halts[0].text}")
        if len(halts) > 1:
            said.append(f"It refused {len(halts) - 1:,} later signals.")
    if len(others):
        counts = ", ".join(f"{count:,} by `{rule}`" for rule, count in others.items())
        said.append(f"Refused{' besides' if halts else ''}: {counts}.")
    return Markdown(" ".join(said) or "The rules refused nothing.")


def deflated(result: Result, trials: int) -> Result:
    """`result` with its Sharpe ratio deflated for so many trials, which are counted once it is there."""
    mark = "in_sample_" if "in_sample_sharpe" in result.metrics else ""
    found = equity_metrics(result.equity, result.initial_cash, trials)
    again = {f"{mark}{name}": found[name] for name in ("deflated_sharpe", "sharpe_trials")}
    return replace(result, metrics=result.metrics | again)


def acting(risk: RiskRules, own: Result, candles: pd.DataFrame, signals: pd.DataFrame) -> RiskRules | None:
    """`risk`, or None where it changed no fill of `own` and watches no equity: without rules a backtest takes milliseconds."""
    if risk.max_drawdown or risk.daily_loss:
        return risk
    free = backtest(candles, signals, own.costs, own.initial_cash)
    return None if free.fills.equals(own.fills) else risk


def account(
    candles: pd.DataFrame, signals: pd.DataFrame, costs: Costs, initial_cash: float
) -> tuple[PaperBroker, list[OrderEvent]]:
    """The paper account that has followed `signals` under the rules of the settings, and what became of its orders."""
    broker = PaperBroker.open(MEMORY, initial_cash, costs)
    walked = guarded(broker, candles, signals["exposure"], (), RiskRules.from_settings(), True)
    return broker, walked.events
