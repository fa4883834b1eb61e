"""Results read in one sentence each, as Markdown. The words follow from the numbers, never the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from btclab.analysis.backtest import Result
from btclab.features.selection import REDUNDANT
from btclab.forecasting.skill import stands_out
from btclab.reporting.clusters import Clusters
from btclab.reporting.features import percent, tails, with_values
from btclab.reporting.forecasting import KEPT, in_bars
from btclab.reporting.tables import age
from btclab.trading.broker import PaperBroker

if TYPE_CHECKING:  # a checkpoint brings torch, which figures and tables do not need
    from btclab.analysis.drift import Drift
    from btclab.forecasting.checkpoints import Checkpoint


def verdict(checkpoint: Checkpoint) -> Markdown:
    """What the network is worth out of sample: the answer first, then the figures that it rests on."""
    m = checkpoint.metrics
    if leaky := checkpoint.audit["leaky"]:
        return Markdown(
            f"**Worth nothing as evidence:** {_names(leaky)} knew the future when this network was trained and measured, so "
            f"its information coefficient of {m['ic']:+.3f} says how much of it leaked, and nothing about skill. Do not trade it."
        )
    return Markdown(" ".join([_conclusion(m), _figures(m), _placebo(m)]))


def _conclusion(m: dict[str, Any]) -> str:
    if m["ic"] == 0:
        return "Validation saw **no skill**, so the forecast says nothing of the direction. Do not trade it."
    if m["ic_high"] < 0:
        return "The network's forecasts **point the wrong way**. Do not trade it."
    if not m["distinguishable"]:
        return "The network's skill **cannot be told from zero**. Do not trade it: the naive forecast does as well."
    if m["placebo"] and not stands_out(m["ic"], m["placebo"]):
        return (
            "The network's skill **does not stand out from the placebo's**: trained where nothing can be learnt it seems "
            "to have as much. Do not trade it."
        )
    return "The network has **skill that can be told from luck**; whether it pays the costs is for the backtest to say."


def _figures(m: dict[str, Any]) -> str:
    words = f"Over {m['bars']:,} unseen bars the 90 % interval covered {100 * m['coverage_90']:.1f} %"
    if m["ic"] == 0:
        return words + "."
    right = ""
    if m["hit_rate"] is not None:
        right = (
            f", the direction was right in {100 * m['hit_rate']:.1f} % "
            f"({100 * m['hit_rate_low']:.1f} to {100 * m['hit_rate_high']:.1f})"
        )
    error = f"{m['error_ratio']:.4f} ({m['error_ratio_low']:.4f} to {m['error_ratio_high']:.4f})"
    other = ""
    if (m["dm_p"] < 0.05) != m[
        "distinguishable"
    ]:  # two tests that do not agree, and the words above follow one of them
        other = (
            ", a test of the squared errors alone, which a few large moves can decide; whether there is skill is judged by the "
            "information coefficient, for which every bar counts the same"
        )
    return (
        f"{words}, the information coefficient was {m['ic']:+.3f} (95 % interval {m['ic_low']:+.3f} to {m['ic_high']:+.3f})"
        f"{right}, and the error {error} × that of the naive forecast; Diebold-Mariano p = {m['dm_p']:.2g}{other}."
    )


def _placebo(m: dict[str, Any]) -> str:
    if not m["placebo"]:
        return "No placebo was run."
    reached = ", ".join(f"{one:+.3f}" for one in m["placebo"])
    return f"The placebo, the same training on shuffled outcomes, reached {reached}."


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def origin(checkpoint: Checkpoint | None, notes: Sequence[str] = ()) -> Markdown:
    """Which checkpoint forecasts, and what it was trained on; if there is none, the `notes` that say why."""
    if checkpoint is None:
        return Markdown(_lacking(notes) or "The strategy reads no forecasts.")
    market, until = checkpoint.market, checkpoint.folds["test_start"][:16].replace("T", " ")
    return Markdown(
        f"The forecasts are those of checkpoint `{checkpoint.name}`, trained on {market['symbol']} {market['timeframe']} "
        f"of {market['source']}; it has seen the bars before {until} UTC."
    )


def _lacking(notes: Sequence[str]) -> str:
    """Notes such as "without forecasts: There is none." as sentences."""
    parts = [note.partition(":") for note in notes]
    return " ".join(f"The strategy runs **{what}**:{why}" for what, _, why in parts)


def learning(checkpoint: Checkpoint) -> Markdown:
    """When the validation loss stopped falling, and what calibration made of the forecast."""
    kept, epochs = checkpoint.provenance["best_epoch"] + 1, len(checkpoint.curves["train"])
    words = f"Validation loss was lowest after epoch **{kept}** of {epochs}; that network is kept. "
    if len(checkpoint.members) > 1:
        shares = ", ".join(
            f"{one.describe().get('variant', one.kind)} {100 * weight:.0f} %"
            for one, weight in zip(checkpoint.members, checkpoint.weights, strict=True)
        )
        words += f"The members weigh {shares}. "
    said = []
    for horizon, one in zip(checkpoint.horizons, checkpoint.calibrations, strict=True):
        ahead = "" if len(checkpoint.horizons) == 1 else f" over {in_bars(horizon)}"
        said.append(
            f"validation saw no skill{ahead}, so that the forecast says nothing of the direction"
            if one.slope == 0
            else f"calibration keeps {100 * one.slope:.0f} % of the forecast{ahead}"
        )
    how = {"even": "one half", "platt": "Platt's curve", "isotonic": "isotonic steps"}[
        checkpoint.calibrations[0].method
    ]
    said.append(f"the probability of up is {how}")
    listed = "; ".join(said)
    words += listed[:1].upper() + listed[1:]
    return Markdown(words + ".")


def coverage(checkpoint: Checkpoint) -> Markdown:
    """Whether the 90 % interval kept its word."""
    measured = 100 * checkpoint.metrics["coverage_90"]
    word = "kept its word" if KEPT[0] <= measured <= KEPT[1] else "did **not** keep its word"
    return Markdown(f"The 90 % interval {word} out of sample: it covered **{measured:.1f} %** of the outcomes.")


def sharpness(checkpoint: Checkpoint) -> Markdown:
    """Whether the interval is narrower than the naive one that covers as much, and how far prob_up is off."""
    m = checkpoint.metrics
    width = 100 * (m["width_90"] / m["width_naive"] - 1)
    than = "as wide as" if abs(width) < 0.05 else f"{abs(width):.1f} % {'wider' if width > 0 else 'narrower'} than"
    return Markdown(
        f"The 90 % interval is {than} the naive one that covers as much. The probability of up was off by "
        f"**{100 * m['ece']:.1f}** points on average (expected calibration error), of which chance alone makes "
        f"{100 * m['ece_chance']:.1f}."
    )


def aged(drift: Drift | None) -> Markdown:
    """Whether a training is due, and why; None: too few bars are unseen to tell."""
    if drift is None:
        return Markdown("Too few bars are unseen to tell whether the market has left the one of the training.")
    if not drift.due:
        return Markdown(str(drift))
    return Markdown(f"**Training is due:** {'; '.join(drift.reasons)}. Train anew: `btclab train`.")


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
    reach = f"which reaches {line:.2g} % of the loss" if weighed["noise"].any() else "for which no column stands"
    bars = weighed.attrs["bars"]
    words = f"**{len(above)} of {len(own)} columns stand above the noise**, {reach}, over {bars:,} unseen bars"
    if len(above):
        words += f"; most of all {_names(above['feature'].head(3).to_list())}"
    if not weighed.attrs["calibrated"]:
        words += "; the calibration leaves nothing of the forecast, so this is what the network alone makes of them"
    return Markdown(words + ".")


def strategy(signals: pd.DataFrame, notes: Sequence[str] = ()) -> Markdown:
    """Which strategy made the signals, with what parameters, what may forbid it to enter, and what it lacks by `notes`."""
    said = signals.attrs["strategy"]
    values = ", ".join(f"{name} {value}" for name, value in said["parameters"].items() if not isinstance(value, dict))
    filters = [f"{name} {value}" for name, value in said["filters"].items() if value]
    words = f"The strategy is **{said['name']}**" + (f" ({values})" if values else "")
    enters = f"only as {', '.join(filters)} allow" if filters else "without any filter"
    return Markdown(f"{words}; it enters {enters}. {_lacking(notes)}".strip())


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
        words += " The strategy never entered, so nothing was traded."
    return Markdown(words)


def costs(own: Result, table: pd.DataFrame) -> Markdown:
    """How much of the result the costs take, and where they take all of it."""
    if own.fills.empty:
        return Markdown("Nothing was traded, so costs change nothing.")
    returns = table.iloc[:, -1]
    free, paid = returns.iloc[0], returns[table["multiple"] == 1.0].iloc[0]
    words = (
        f"Without costs the same signals would have returned {free:+.1f} %; fees of {own.costs.fee_bps:g} bps "
        f"and slippage of {own.costs.slippage_bps:g} bps leave {paid:+.1f} %"
    )
    if free > 0 and (returns <= 0).any():
        words += f"; at about {_break_even(table['cost_bps'], returns):.2g} bps a side nothing is left"
    return Markdown(words + ".")


def _break_even(costs: pd.Series, returns: pd.Series) -> float:
    """The cost (bps) at which nothing is left, between two points of the grid: what is kept falls evenly in logarithms."""
    place = int((returns <= 0).to_numpy().argmax())
    before, after = np.log(np.maximum(1 + returns.iloc[[place - 1, place]].to_numpy() / 100, 1e-9))
    low, high = costs.iloc[[place - 1, place]]
    return float(low + (high - low) * before / (before - after))


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
    row, wish = signals.iloc[-1], signals["exposure"].iloc[-1]
    held = "nothing yet" if pd.isna(wish) else f"{round(100 * abs(wish), 1):g} % {'sold short' if wish < 0 else 'BTC'}"
    if row["side"] == "hold" and not pd.isna(wish):
        changes = signals.index[signals["side"] != "hold"]
        held += f", unchanged since {changes[-1]:%Y-%m-%d %H:%M}" if len(changes) else ", unchanged"
    sure = (
        "" if pd.isna(row["confidence"]) else f" (by the forecast {100 * row['confidence']:.1f} % likely to be right)"
    )
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
