"""Results read in one sentence each, as Markdown. The words follow from the numbers, never the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from IPython.display import Markdown

from btclab.analysis.backtest import Result
from btclab.features.selection import REDUNDANT
from btclab.reporting.clusters import Clusters
from btclab.reporting.features import percent, tails, with_values
from btclab.reporting.tables import age
from btclab.trading.broker import PaperBroker

if TYPE_CHECKING:  # a checkpoint brings torch, which figures and tables do not need
    from btclab.forecasting.checkpoints import Checkpoint


def verdict(checkpoint: Checkpoint) -> Markdown:
    """Whether the network beats the naive forecast out of sample."""
    m = checkpoint.metrics
    if leaky := checkpoint.audit["leaky"]:
        return Markdown(
            f"**Worth nothing as evidence:** {_names(leaky)} knew the future when this network was trained and measured, so "
            f"its information coefficient of {m['ic']:+.3f} says how much of it leaked, and nothing about skill. Do not trade it."
        )
    if m["ic"] == 0:
        return Markdown("Validation saw **no skill**, so the forecast is the naive one at every bar. Do not trade it.")
    interval = (
        f"information coefficient {m['ic']:+.3f}, 95 % interval {m['ic_low']:+.3f} to {m['ic_high']:+.3f}, "
        f"over {m['bars']:,} unseen bars"
    )
    if m["distinguishable"]:
        error = f"its error is {m['error_ratio']:.4f} × that of the naive forecast"
        return Markdown(f"The network has **skill that can be told from luck** ({interval}); {error}.")
    if m["ic_high"] < 0:
        return Markdown(f"The network's forecasts **point the wrong way** ({interval}). Do not trade it.")
    advice = "Do not trade it: the naive forecast does as well."
    return Markdown(f"The network's skill **cannot be told from zero** ({interval}). {advice}")


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def origin(checkpoint: Checkpoint) -> Markdown:
    """Which checkpoint forecasts, and what it was trained on."""
    market, until = checkpoint.market, checkpoint.folds["test_start"][:16].replace("T", " ")
    return Markdown(
        f"The forecasts are those of checkpoint `{checkpoint.name}`, trained on {market['symbol']} {market['timeframe']} "
        f"of {market['source']}; it has seen the bars before {until} UTC."
    )


def learning(checkpoint: Checkpoint) -> Markdown:
    """When the validation loss stopped falling, and what calibration made of the forecast."""
    kept, epochs = checkpoint.provenance["best_epoch"] + 1, len(checkpoint.curves["train"])
    slope = checkpoint.calibration.slope
    trust = (
        "validation saw no skill, so the forecast is the naive one"
        if slope == 0
        else f"calibration keeps {100 * slope:.0f} % of the network's forecast"
    )
    return Markdown(
        f"Validation loss was lowest after epoch **{kept}** of {epochs}; that network is kept, and {trust}."
    )


def coverage(checkpoint: Checkpoint) -> Markdown:
    """Whether the 90 % interval kept its word."""
    measured = 100 * checkpoint.metrics["coverage_90"]
    word = "kept its word" if 88 <= measured <= 92 else "did **not** keep its word"
    return Markdown(f"The 90 % interval {word} out of sample: it covered **{measured:.1f} %** of the outcomes.")


def features_held(features: pd.DataFrame) -> Markdown:
    """How many columns hold values, and which of them misses most once it has warmed up."""
    kept, facts = with_values(features), features.attrs["features"]
    number = len(kept.columns)
    every = len({*features.columns, *features.attrs["missing"]})
    words = (
        f"All **{number}** columns hold values" if number == every else f"**{number}** of {every} columns hold values"
    )
    missed = pd.Series({name: kept[name].iloc[facts[name]["warmup"] :].isna().mean() for name in kept.columns})
    if missed.max() == 0:
        return Markdown(f"{words}, and once warmed up none of them misses a bar.")
    return Markdown(
        f"{words}; once warmed up, `{missed.idxmax()}` misses most: {percent(100 * missed.max())} of its bars."
    )


def features_beyond(features: pd.DataFrame) -> Markdown:
    """Which column lies beyond what networks see most often."""
    beyond = tails(features)["beyond"].sort_values(ascending=False, kind="stable")
    if beyond.iloc[0] == 0:
        return Markdown("No value lies beyond ±6 standard deviations, so none is cut off.")
    return Markdown(
        f"Beyond ±6 standard deviations a network sees ±6: **{(beyond > 0).sum()}** of {len(beyond)} columns go that far, most "
        f"often `{beyond.index[0]}` (in {percent(beyond.iloc[0])} of the bars)."
    )


def features_alike(found: Clusters) -> Markdown:
    """How many different things the columns tell."""
    members = found.members()
    largest = max(members, key=len)
    if len(largest) == 1:
        return Markdown(f"No two of the {len(members)} columns say the same.")
    return Markdown(
        f"**{len(found.cluster)}** columns say **{len(members)}** different things: a frame holds those whose rank correlations "
        f"average {REDUNDANT} or more, and the largest, around `{largest[0]}`, holds {len(largest)}."
    )


def features_chosen(checkpoint: Checkpoint) -> Markdown:
    """What the selection weighed, and how much of what it chose tells more than noise does."""
    said = checkpoint.selection
    own = [one.name for one in checkpoint.spec.features if one.group != "noise"]
    noise = set(checkpoint.spec.columns) - set(own)
    if said is None:
        return Markdown(f"All **{len(own)}** columns were taken: there was nothing to choose.")
    weighed = pd.DataFrame(said["table"])
    weighed = weighed[~weighed["feature"].isin(noise)]
    repeats = int(weighed["reason"].str.startswith("as ").sum())
    above = int(weighed.loc[weighed["kept"], "above_noise"].sum())
    return Markdown(
        f"**{len(own)}** of {len(weighed)} columns were chosen on {said['rows']:,} training bars; {repeats} repeat another. "
        f"Taken alone, **{above}** of the chosen tell more of the coming return than shuffled columns do "
        f"({1000 * said['noise_line']:.2f} · 10⁻³ nats)."
    )


def features_used(weighed: pd.DataFrame | None) -> Markdown:
    """How many columns a network relies on more than it does on noise; `weighed` as from `bl.feature_importance`, or None."""
    if weighed is None:
        return Markdown("Too few bars are unseen to tell which columns the network uses.")
    own, line = weighed[~weighed["noise"]], weighed.attrs["noise_line"]
    above = own[own["above_noise"]].sort_values("importance", ascending=False, kind="stable")
    reach = (
        f"which reaches {line:.2g} % of the squared error" if weighed["noise"].any() else "for which no column stands"
    )
    bars = weighed.attrs["bars"]
    words = f"**{len(above)} of {len(own)} columns stand above the noise**, {reach}, over {bars:,} unseen bars"
    if len(above):
        words += f"; most of all {_names(above['feature'].head(3).to_list())}"
    if not weighed.attrs["calibrated"]:
        words += "; the calibration leaves nothing of the forecast, so this is what the network alone makes of them"
    return Markdown(words + ".")


def performance(own: Result, held: Result, checkpoint: Checkpoint | None = None) -> Markdown:
    """The strategy beside buy-and-hold, after costs; with `checkpoint`, whether its forecasts may be believed at all."""
    mark = "in_sample_" if "in_sample_total_return" in own.metrics else ""
    gain, other = own.metrics[f"{mark}total_return"], held.metrics["total_return"]
    words = (
        f"After costs the strategy returned **{gain:+.1f} %** with a deepest fall of {own.metrics[f'{mark}max_drawdown']:.1f} %; "
        f"buy-and-hold returned **{other:+.1f} %** with {held.metrics['max_drawdown']:.1f} %."
    )
    if mark:
        words = "**In sample, so worth nothing as evidence:** " + words
    if checkpoint is not None and (leaky := checkpoint.audit["leaky"]):
        words = f"**Worth nothing as evidence, for {_names(leaky)} knew the future:** {words}"
    if own.fills.empty:
        words += " The forecast never crossed the entry threshold, so nothing was traded."
    return Markdown(words)


def costs(own: Result, table: pd.DataFrame) -> Markdown:
    """How much of the result the costs take, and where they take all of it."""
    if own.fills.empty:
        return Markdown(
            "Nothing was traded, so costs change nothing. Lower `enter` to see what trading would have cost."
        )
    returns = table.iloc[:, -1]
    free, paid = returns.iloc[0], returns[table["multiple"] == 1.0].iloc[0]
    words = (
        f"Without costs the same signals would have returned {free:+.1f} %; fees of {own.costs.fee_bps:g} bps "
        f"and slippage of {own.costs.slippage_bps:g} bps leave {paid:+.1f} %"
    )
    lost = table.loc[returns <= 0, "cost_bps"]
    if free > 0 and len(lost):
        words += f"; at {lost.min():g} bps a side nothing is left"
    return Markdown(words + ".")


def trades(own: Result) -> Markdown:
    """How many lots were closed, and how they went."""
    lots = own.trades
    if lots.empty:
        return Markdown("No lot was closed.")
    won, held = (lots["pnl"] > 0).mean(), lots["bars_open"].median()
    return Markdown(
        f"**{len(lots):,}** lots were closed, {100 * won:.0f} % with a profit after fees, "
        f"held for {held:,.0f} bars (median); the newest stand below."
    )


def latest(signals: pd.DataFrame, candles: pd.DataFrame) -> Markdown:
    """The newest signal with its reasons and the age of the data."""
    row = signals.iloc[-1]
    held = "nothing yet" if pd.isna(row["exposure"]) else f"{100 * row['exposure']:.0f} % BTC"
    sure = "" if pd.isna(row["confidence"]) else f" (confidence {100 * row['confidence']:.1f} %)"
    return Markdown(
        f"**{row['side'].upper()}**, target {held}{sure}: {row['reasons']}. Age of the data: {age(candles)}."
    )


def broker_plan(broker: PaperBroker, symbol: str) -> Markdown:
    """What the paper broker does at the next open."""
    preview, quote = broker.preview(), symbol.partition("/")[2]
    base = symbol.partition("/")[0]
    if preview is None:
        return Markdown(
            f"At the next open the broker does **nothing**; the account is worth {broker.equity:,.2f} {quote}."
        )
    return Markdown(
        f"At the next open the broker will **{preview.side} about {preview.quantity:.6f} {base}** "
        f"at about {preview.price:,.2f} {quote} (slippage included), fee {preview.fee:,.2f} {quote}."
    )
