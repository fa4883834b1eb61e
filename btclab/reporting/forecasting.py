"""Figures and tables of forecasts: what was learnt, what it is worth, whether it keeps its word, whether it has aged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML
from plotly.subplots import make_subplots
from scipy.special import ndtr, ndtri

from btclab.errors import TooFewBars
from btclab.forecasting.calibration import LEVELS, NAMES
from btclab.forecasting.skill import reliability
from btclab.market.candles import close_times, timeframe_delta, timeframe_of
from btclab.reporting.charts import BLUE, GREEN, GREY, ORANGE, RED, _finish, _quote
from btclab.reporting.tables import table

if TYPE_CHECKING:  # a checkpoint brings torch, which figures and tables do not need
    from btclab.analysis.drift import Drift
    from btclab.forecasting.checkpoints import Checkpoint

WINDOW = 720  # outcomes over which coverage is shown: a month of hours
KEPT = (88, 92)  # % of the outcomes: an interval that covers so many kept its word of 90 %
MOST_DRIFTED = 15
PAST_BARS = 24  # shown before a forecast at the least


def in_bars(number: int) -> str:
    """ "1 bar", "24 bars"."""
    return f"{number} bar{'' if number == 1 else 's'}"


# What was learnt


def learning_curves(checkpoint: Checkpoint) -> go.Figure:
    """Loss of each epoch on the training and the validation fold, and the epoch that was kept."""
    figure = go.Figure()
    for name, losses in checkpoint.curves.items():
        figure.add_scatter(x=list(range(1, len(losses) + 1)), y=losses, mode="lines+markers", name=name)
    best = checkpoint.provenance["best_epoch"] + 1
    figure.add_vline(
        x=best,
        line_dash="dot",
        line_color=GREY,
        annotation_text=f"kept: epoch {best}",
        annotation_position="bottom right",
    )
    figure.update_xaxes(title_text="epoch", dtick=1)
    figure.update_yaxes(title_text="loss")
    several = " of the first network" if len(checkpoint.members) > 1 else ""
    return _finish(figure, f"Learning curves{several}: {checkpoint.loss}", checkpoint.market, 340)


def fold_list(checkpoint: Checkpoint) -> pd.DataFrame:
    """The three folds, oldest first, what each was for, and how many of its outcomes rose."""
    uses = {
        "train": "selects the features, fits the scaling and the network",
        "validation": "stops the training, fits the calibration",
        "test": "measured after training: out of sample",
    }
    rows = []
    for name, use in uses.items():
        start, stop = (checkpoint.folds[f"{name}_{end}"][:16].replace("T", " ") for end in ("start", "stop"))
        rose = checkpoint.provenance["rose"][name]
        rows.append((name, start, stop, f"{100 * rose:.1f}", use))
    return pd.DataFrame(rows, columns=["fold", "from (UTC)", "to (UTC)", "rose (%)", "use"])


# What it is worth


def skill_table(checkpoint: Checkpoint) -> pd.DataFrame:
    """Out-of-sample figures of the first horizon, beside those of a ridge regression and of the naive forecast."""
    m = checkpoint.metrics
    ridge = m["ridge"]

    def both(form: str, name: str, factor: float = 1.0) -> list[str]:
        return ["–" if one[name] is None else format(factor * one[name], form) for one in (m, ridge)]

    def interval(form: str, name: str, factor: float = 1.0) -> list[str]:
        ends = [(one[f"{name}_low"], one[f"{name}_high"]) for one in (m, ridge)]
        return [
            "–" if low is None else f"{factor * low:{form}} … {factor * high:{form}}"
            for low, high in ends
        ]  # fmt: skip

    same = f"{m['bars']:,}"
    rows = [
        ("information coefficient", *both("+.4f", "ic"), "0", "rank correlation; above 0 is skill"),
        ("  95 % interval", *interval("+.4f", "ic"), "–", "block bootstrap"),
        ("error ratio (RMSE)", *both(".5f", "error_ratio"), "1", "below 1 beats the naive forecast"),
        ("  95 % interval", *interval(".5f", "error_ratio"), "–", "block bootstrap"),
        ("  Diebold-Mariano p", *both(".3f", "dm_p"), "–", "chance of such a gain without skill"),
        ("R² out of sample", *both("+.3f", "r2", 100), "0", "% of variance"),
        ("direction right", *both(".2f", "hit_rate", 100), "50", "%"),
        ("  95 % interval", *interval(".2f", "hit_rate", 100), "–", "block bootstrap"),
        ("coverage of the 90 % interval", *both(".1f", "coverage_90", 100), f"{100 * m['coverage_naive']:.1f}", "%"),
        (
            "  its width",
            *both(".3f", "width_90"),
            f"{m['width_naive']:.3f}",
            "volatilities, naive at the same coverage",
        ),
        ("CRPS, from five quantiles", *both(".5f", "crps"), f"{m['crps_naive']:.5f}", "volatilities; lower is better"),
        ("Brier score of prob_up", *both(".4f", "brier"), "0.2500", "lower is better"),
        ("calibration error of prob_up", *both(".4f", "ece"), "–", "lower is better"),
        ("  by chance alone", *both(".4f", "ece_chance"), "–", "of as many perfectly calibrated forecasts"),
        ("bars", same, same, same, "out of sample"),
    ]
    return pd.DataFrame(rows, columns=["measure", "network", "ridge", "naive", "unit"])


def horizon_table(checkpoint: Checkpoint) -> HTML:
    """One row for each horizon: skill with its interval, coverage, width against the naive one's, calibration."""
    if len(checkpoint.horizons) == 1:
        return HTML("<p>One horizon was learnt. Several by one network: <code>-p horizon=1,4,24</code>.</p>")
    first = {str(checkpoint.horizon): checkpoint.metrics}
    rows = [
        {
            "bars ahead": horizon,
            "information coefficient": f"{m['ic']:+.3f} ({m['ic_low']:+.3f} … {m['ic_high']:+.3f})",
            "of ridge": f"{m['ridge']['ic']:+.3f}",
            "error ratio": f"{m['error_ratio']:.4f}",
            "Diebold-Mariano p": f"{m['dm_p']:.3f}",
            "direction right (%)": "–" if m["hit_rate"] is None else f"{100 * m['hit_rate']:.2f}",
            "90 % covers (%)": f"{100 * m['coverage_90']:.1f}",
            "width (naive)": f"{m['width_90']:.2f} ({m['width_naive']:.2f})",
            "calibration error (by chance)": f"{m['ece']:.4f} ({m['ece_chance']:.4f})",
        }
        for horizon, m in {**first, **checkpoint.metrics["horizons"]}.items()
    ]
    return table(pd.DataFrame(rows))


def skill_beside_placebo(checkpoint: Checkpoint) -> go.Figure:
    """Information coefficients out of sample, with 95 % intervals: network, ridge, and the same training on shuffled outcomes."""
    m = checkpoint.metrics
    placebo = m["placebo"]
    figure = go.Figure()
    for name, one, colour in (("network", m, ORANGE), ("ridge", m["ridge"], BLUE)):
        figure.add_scatter(
            x=[one["ic"]],
            y=[name],
            mode="markers",
            marker={"size": 11, "color": colour},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [one["ic_high"] - one["ic"]],
                "arrayminus": [one["ic"] - one["ic_low"]],
            },
            name=name,
        )
    if placebo:
        figure.add_scatter(
            x=placebo,
            y=["placebo"] * len(placebo),
            mode="markers",
            marker={"size": 10, "color": GREY, "symbol": "circle-open", "line": {"width": 2}},
            name="placebo",
        )
    figure.add_vline(x=0, line_color="#24292f", line_width=1)
    figure.update_layout(hovermode="closest", showlegend=False)
    figure.update_xaxes(title_text="information coefficient (0: no skill)")
    figure.update_yaxes(title_text="", autorange="reversed")
    return _finish(figure, "Skill beside the placebo", checkpoint.market, 250)


def skill_by_forecast(checkpoint: Checkpoint, forecasts: pd.DataFrame, outcomes: pd.Series) -> go.Figure | HTML:
    """Mean outcome of the out-of-sample bars in ten groups from the lowest to the highest forecast, with 95 % intervals."""
    known = forecasts["mean"].notna() & outcomes.notna() & ~forecasts["in_sample"]
    expected, happened = 1e4 * forecasts["mean"][known], 1e4 * outcomes[known]
    if expected.nunique() < 10:
        return HTML("<p>The forecast never changes: it is the naive one.</p>")
    groups = pd.qcut(expected.rank(method="first"), 10, labels=False)
    grouped = pd.DataFrame({"expected": expected, "happened": happened}).groupby(groups).agg(["mean", "sem"])
    low, high = grouped["expected"]["mean"].min(), grouped["expected"]["mean"].max()
    figure = go.Figure()
    figure.add_scatter(
        x=[low, high], y=[low, high], mode="lines", name="as forecast", line={"color": GREY, "dash": "dot"}
    )
    figure.add_scatter(
        x=grouped["expected"]["mean"],
        y=grouped["happened"]["mean"],
        mode="markers",
        name="what happened",
        marker={"size": 9},
        error_y={"type": "data", "array": 1.96 * grouped["happened"]["sem"]},
    )
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text=f"forecast return over {in_bars(checkpoint.horizon)} (bps)")
    figure.update_yaxes(title_text="mean return that followed (bps)")
    return _finish(figure, "Forecast and outcome out of sample, in ten groups", forecasts.attrs)


# Whether it keeps its word


def reliability_diagram(forecasts: pd.DataFrame, outcomes: pd.Series) -> go.Figure | HTML:
    """How often the price rose after each probability of up, out of sample, in ten groups of bars, with 95 % intervals."""
    known = forecasts["prob_up"].notna() & outcomes.notna() & ~forecasts["in_sample"]
    said, rose = forecasts["prob_up"][known].to_numpy(), (outcomes[known] > 0).to_numpy()
    if np.ptp(said) == 0:
        return HTML(
            f"<p>The probability of up is {100 * said[0]:.0f} % at every bar; {100 * rose.mean():.1f} % of them rose.</p>"
        )
    groups = 100 * reliability(said, rose)[["forecast", "frequency", "low", "high"]]
    ends = [float(groups["forecast"].min()), float(groups["forecast"].max())]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.75, 0.25], vertical_spacing=0.06)
    line = {"color": GREY, "dash": "dot"}
    figure.add_scatter(x=ends, y=ends, mode="lines", name="as said", line=line, row=1, col=1)
    spans = {"array": groups["high"] - groups["frequency"], "arrayminus": groups["frequency"] - groups["low"]}
    figure.add_scatter(
        x=groups["forecast"],
        y=groups["frequency"],
        mode="markers",
        marker_size=9,
        error_y={"type": "data", "symmetric": False} | spans,
        name="what happened",
        row=1,
        col=1,
    )
    counts, edges = np.histogram(100 * said, bins=40)
    middles = (edges[:-1] + edges[1:]) / 2
    figure.add_bar(x=middles, y=counts, marker_color="#c9ced6", showlegend=False, name="bars", row=2, col=1)
    figure.update_layout(hovermode="closest", bargap=0)
    figure.update_yaxes(title_text="rose (%)", row=1, col=1)
    figure.update_yaxes(title_text="bars", row=2, col=1)
    figure.update_xaxes(title_text="probability of up (%)", row=2, col=1)
    return _finish(figure, "Reliability of the probability of up, out of sample", forecasts.attrs, 420)


def coverage_over_time(forecasts: pd.DataFrame, outcomes: pd.Series) -> go.Figure:
    """Share of the last outcomes inside the 90 % interval, out of sample: as calibrated once, and as it follows drift."""
    known = forecasts["interval_low"].notna() & outcomes.notna() & ~forecasts["in_sample"]
    rows, happened = forecasts[known], outcomes[known]
    window = min(WINDOW, max(20, len(rows) // 4))
    figure = go.Figure()
    figure.add_hrect(y0=KEPT[0], y1=KEPT[1], fillcolor=GREEN, opacity=0.12, line_width=0)
    for name, column, colour in (("calibrated once", "interval", GREY), ("following drift", "adaptive", ORANGE)):
        inside = (happened >= rows[f"{column}_low"]) & (happened <= rows[f"{column}_high"])
        share = (100 * inside.rolling(window).mean()).dropna()
        thin = share.iloc[:: max(1, len(share) // 1000)].round(2)
        line = {"color": colour, "width": 1.8}
        figure.add_scatter(x=thin.index, y=thin, name=f"{name} ({100 * inside.mean():.1f} %)", line=line)
    figure.update_yaxes(title_text=f"covered, last {window:,} outcomes (%)")
    return _finish(figure, "Coverage of the 90 % interval out of sample", forecasts.attrs, 340)


# One forecast


def distribution(checkpoint: Checkpoint, row: pd.Series, attrs: dict[Any, Any]) -> go.Figure:
    """The calibrated distribution of the coming return at one bar: chance of each range, with the 90 % interval."""
    if np.isnan(row["mean"]):
        return _finish(go.Figure(), "No forecast for this bar: its window is incomplete", attrs, 340)
    values = 100 * row[list(NAMES)].to_numpy(dtype=float)
    edges, chance = _chances(values)
    middle = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure(
        go.Bar(
            x=middle,
            y=100 * chance,
            marker_color=np.where(middle > 0, GREEN, RED),
            name="chance",
            hovertemplate="%{x:.2f} %: %{y:.1f} %<extra></extra>",
        )
    )
    low, high = 100 * row["interval_low"], 100 * row["interval_high"]
    figure.add_vrect(x0=low, x1=high, fillcolor=BLUE, opacity=0.08, line_width=0)
    figure.add_annotation(
        x=(low + high) / 2,
        y=1,
        yref="paper",
        text="90 % interval",
        showarrow=False,
        font={"color": BLUE},
        yanchor="bottom",
    )
    figure.update_layout(bargap=0.05, hovermode="closest")
    figure.update_xaxes(
        title_text=f"log return over the next {in_bars(checkpoint.horizon)} (%)", zeroline=True, zerolinecolor=GREY
    )
    figure.update_yaxes(title_text="chance (%)")
    return _finish(figure, "Forecast distribution of the coming return", attrs, 340)


def _chances(quantiles: np.ndarray, bins: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Edges [bin + 1] and chances [bin] of the distribution through the five quantiles, normal between and beyond them."""
    scores = ndtri(LEVELS)
    values = np.maximum.accumulate(quantiles + 1e-9 * np.arange(len(quantiles)))
    outer = (values[1] - values[0]) / (scores[1] - scores[0]), (values[-1] - values[-2]) / (scores[-1] - scores[-2])
    reach = 1.2  # beyond the outer quantiles, in normal scores: to 0.2 % on each side
    values = np.concatenate([[values[0] - outer[0] * reach], values, [values[-1] + outer[1] * reach]])
    scores = np.concatenate([[scores[0] - reach], scores, [scores[-1] + reach]])
    edges = np.linspace(values[0], values[-1], bins + 1)
    return edges, np.diff(ndtr(np.interp(edges, values, scores)))


def fan(checkpoint: Checkpoint, candles: pd.DataFrame, row: pd.Series) -> go.Figure:
    """The last closes, and from the newest on the price that is forecast: median, 50 % and 90 % of what may come."""
    past = candles["close"].iloc[-max(PAST_BARS, 3 * max(checkpoint.horizons)) :]
    times = close_times(candles)[-len(past) :]
    figure = go.Figure(go.Scatter(x=times, y=past, name="close", line={"color": "#24292f", "width": 1.4}))
    if np.isnan(row["mean"]):
        return _finish(figure, "No forecast for this bar: its window is incomplete", candles.attrs, 380)
    now, close = times[-1], float(past.iloc[-1])
    horizons = sorted(checkpoint.horizons)
    ahead = [now, *(now + horizon * timeframe_delta(timeframe_of(candles)) for horizon in horizons)]
    behind = ["" if horizon == checkpoint.horizon else f"_{horizon}" for horizon in horizons]

    def level(name: str) -> list[float]:
        return [close, *(close * float(np.exp(row[f"{name}{end}"])) for end in behind)]

    for low, high, name, opacity in (("q05", "q95", "90 %", 0.15), ("q25", "q75", "50 %", 0.3)):
        colour = f"rgba(232,133,12,{opacity})"
        edge = {"width": 0}
        figure.add_scatter(x=ahead, y=level(low), mode="lines", line=edge, showlegend=False, hoverinfo="skip")
        figure.add_scatter(x=ahead, y=level(high), mode="lines", line=edge, fill="tonexty", fillcolor=colour, name=name)
    figure.add_scatter(x=ahead, y=level("q50"), name="median", line={"color": ORANGE, "dash": "dot", "width": 2})
    figure.update_yaxes(title_text=_quote(candles.attrs))
    return _finish(figure, f"Price and what is forecast for the next {in_bars(horizons[-1])}", candles.attrs, 380)


# Whether it has aged


def measured_drift(
    checkpoint: Checkpoint, candles: pd.DataFrame, forecasts: pd.DataFrame, series: pd.DataFrame | None = None
) -> Drift | None:
    """`bl.check_drift`; None where too few bars are unseen for it, which is no reason to have no report."""
    from btclab.analysis.drift import check_drift

    try:
        return check_drift(checkpoint, candles, forecasts, series)
    except TooFewBars:
        return None


def drift_table(drift: Drift | None) -> pd.DataFrame:
    """The rules of the retraining policy: what was measured, the limit, and whether it is past it."""
    if drift is None:
        return pd.DataFrame()
    checks = drift.checks
    return pd.DataFrame(
        {
            "rule": checks["rule"],
            "measured": ["–" if np.isnan(value) else f"{value:.4g}" for value in checks["measured"]],
            "limit": [f"{value:g}" for value in checks["limit"]],
            "unit": checks["unit"],
            "past it": np.where(checks["past"], "yes", "no"),
        }
    )


def drifted_features(drift: Drift | None, attrs: dict[Any, Any]) -> go.Figure | HTML:
    """The features that moved furthest from what training saw, by population stability index."""
    if drift is None:
        return HTML("<p>Drift is measured on 100 unseen bars or more.</p>")
    shown, limit = drift.features.head(MOST_DRIFTED), drift.features.attrs["limit"]
    figure = go.Figure(
        go.Bar(
            x=shown["psi"].round(3),
            y=shown["feature"],
            orientation="h",
            marker_color=np.where(shown["psi"] > limit, ORANGE, "#c9ced6"),
            customdata=shown[["ks"]].round(3),
            hovertemplate="<b>%{y}</b><br>PSI %{x}, KS %{customdata[0]}<extra></extra>",
        )
    )
    figure.add_vline(x=limit, line_dash="dash", line_color="#24292f", line_width=1.2)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text="population stability index (dashed: limit)")
    figure.update_yaxes(title_text="", autorange="reversed", automargin=True, showgrid=False)
    title = f"Features furthest from the training bars, last {drift.bars:,} bars"
    return _finish(figure, title, attrs, 120 + 22 * len(shown))
