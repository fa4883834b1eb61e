"""Figures and tables of the features: what they cover, how they are distributed, which say the same, which matter.

A feature table is one of `build_features`, whose `attrs` name the market and the group of each column.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML
from plotly.subplots import make_subplots

from btclab.context.series import SERIES
from btclab.errors import TooFewBars
from btclab.features.build import build_features
from btclab.features.spec import FeatureSpec, resolve_spec
from btclab.forecasting.dataset import CLIP, Scaler
from btclab.market.candles import close_times, timeframe_of
from btclab.reporting.charts import BLUE, GREEN, GREY, ORANGE, RED, _finish
from btclab.reporting.tables import folded, table

if TYPE_CHECKING:  # a checkpoint brings torch, which figures and tables do not need
    from btclab.features.audit import Audit
    from btclab.forecasting.checkpoints import Checkpoint

MOST_STRETCHES = 120  # columns of the coverage heat-map
MOST_ROWS = 10_000  # for quantiles, evenly spread: more rows move no second decimal
MOST_BARS = 40  # columns in the importance figure, noise not counted
MOST_NAMED = 6
FURTHEST = 20  # columns in the first view of the distributions
LENGTHS = {"D": "day", "W": "week from", "M": "month", "Q": "quarter", "Y": "year"}
QUANTILES = (0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999)
PRESENT = [[0.0, "#e9ebee"], [0.005, "#f3b562"], [0.99, "#f8e3c0"], [1.0, "#9fd3b4"]]
SERIES_NAME = re.compile(rf"\b({'|'.join(sorted(SERIES, key=len, reverse=True))})\b")
VARYING = re.compile(
    r"(?<=^needs )[\d,]+|(?<=^missing in )[\d.,]+ %"
)  # what differs between reasons that are else alike


def feature_table(
    candles: pd.DataFrame, series: pd.DataFrame | None = None, spec: str | FeatureSpec = "default"
) -> pd.DataFrame:
    """`build_features`, less the columns that the bars are too few for: `attrs["missing"]` then names these, too.

    Raises `TooFewBars` if they are too few for all of them.
    """
    wanted, timeframe = resolve_spec(spec), timeframe_of(candles)
    slow = {one.name: one.warmup_at(timeframe) for one in wanted.features if one.warmup_at(timeframe) >= len(candles)}
    some = 0 < len(slow) < len(wanted.features)
    features = build_features(candles, series, wanted.without(slow) if some else wanted)
    reasons = {name: f"needs {bars:,} bars to warm up; there are {len(candles):,}" for name, bars in slow.items()}
    features.attrs = {**features.attrs, "missing": {**features.attrs["missing"], **reasons}}
    return features


def groups_of(features: pd.DataFrame) -> dict[str, str]:
    """The group of each column."""
    facts = features.attrs.get("features", {})
    return {str(name): str(facts.get(name, {}).get("group", "features")) for name in features.columns}


def with_values(features: pd.DataFrame) -> pd.DataFrame:
    """The columns that hold a value."""
    kept = features.loc[:, features.notna().any()]
    kept.attrs = features.attrs
    return kept


# Coverage


def coverage(features: pd.DataFrame) -> go.Figure:
    """Share of the bars that have a value, by stretch of time, and by column or group of columns that are alike in this.

    Columns that hold nothing at all are in `left_out` instead.
    """
    kept, facts = with_values(features), features.attrs.get("features", {})
    present = kept.notna().to_numpy()
    warm = np.array([facts.get(name, {}).get("warmup", 0) for name in kept.columns])
    stretch, labels, length = _stretches(pd.DatetimeIndex(kept.index))
    bars = np.bincount(stretch, minlength=len(labels)).astype(float)
    bars[bars == 0] = np.nan
    share = 100 * _counted(present, stretch, len(labels)) / bars[:, None]
    holes = _counted(~present & (np.arange(len(kept))[:, None] >= warm), stretch, len(labels)) / bars[:, None]
    rows: dict[tuple[Any, ...], list[int]] = {}
    for number, group in enumerate(groups_of(kept).values()):
        rows.setdefault((group, *np.nan_to_num(holes[:, number]).round(1)), []).append(number)
    ordered = sorted(rows.items(), key=lambda row: [key[0] for key in rows].index(row[0][0]))
    names = [
        f"{key[0]} · {kept.columns[found[0]] if len(found) == 1 else f'{len(found)} columns'}" for key, found in ordered
    ]
    figure = go.Figure(
        go.Heatmap(
            z=np.array([np.floor(share[:, found].mean(axis=1)) for _, found in ordered]).astype(np.float32),
            x=labels,
            colorscale=PRESENT,
            zmin=0,
            zmax=100,
            xgap=1,
            ygap=2,
            showscale=False,
            hovertemplate="%{x}: %{z} % of the bars<extra></extra>",
            hoverongaps=False,
        )
    )
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text=f"{length} (UTC)", type="category", nticks=8, tickangle=0, showgrid=False)
    figure.update_yaxes(
        title_text="", tickvals=list(range(len(names))), ticktext=names, autorange="reversed", showgrid=False,
        automargin=True,
    )  # fmt: skip
    title = "Bars with a value: all (green), some (orange), none (grey)"
    return _finish(figure, title, features.attrs, 150 + 24 * len(names))


def _counted(flags: np.ndarray, stretch: np.ndarray, stretches: int) -> np.ndarray:
    """How many of `flags` [time, column] are set in each stretch [stretch, column]."""
    counts = np.zeros((stretches, flags.shape[1]), dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], stretch[1:] != stretch[:-1]]))
    counts[stretch[starts]] = np.add.reduceat(flags.astype(np.int64), starts, axis=0)
    return counts


def _stretches(index: pd.DatetimeIndex) -> tuple[np.ndarray, list[str], str]:
    """Number of the stretch each bar lies in, the stretches by name, and how long they are: the shortest that fit."""
    times = index.tz_localize(None)
    fits = (letter for letter in LENGTHS if len(pd.period_range(times[0], times[-1], freq=letter)) <= MOST_STRETCHES)
    letter = next(fits, "Y")
    every = pd.period_range(times[0], times[-1], freq=letter)
    names = [f"{one.start_time:%Y-%m-%d}" if letter == "W" else str(one) for one in every]
    return np.asarray(every.get_indexer(times.to_period(letter))), names, LENGTHS[letter]


def left_out(reasons: Mapping[str, str], spec: str | FeatureSpec) -> HTML:
    """The columns that hold nothing, a row for each kind of reason; `reasons` by column, as in `features.attrs["missing"]`."""
    group_of = {one.name: one.group for one in resolve_spec(spec).features}
    size = Counter(group_of.values())
    kinds: dict[str, list[tuple[str, str, str]]] = {}
    for name, reason in reasons.items():
        name_of, varying = SERIES_NAME.search(reason), VARYING.search(reason)
        kind = VARYING.sub("…", SERIES_NAME.sub("a series", reason))
        kinds.setdefault(kind, []).append(
            (name, name_of.group() if name_of else "", varying.group() if varying else "")
        )
    rows = []
    for kind, found in kinds.items():
        counts = Counter(group_of.get(name, "") for name, _, _ in found)
        whole = {group for group, number in counts.items() if number == size[group]}
        named = [f"{group} ({size[group]})" for group in dict.fromkeys(group_of.values()) if group in whole]
        named += [f"{name} ({n})" if n else name for name, _, n in found if group_of.get(name) not in whole]
        series = list(dict.fromkeys(one for _, one, _ in found if one))
        rows.append((len(found), ", ".join(named), kind, ", ".join(series) or "–"))
    return table(pd.DataFrame(rows, columns=["number", "columns", "reason", "series"]))


# Distributions


def tails(features: pd.DataFrame) -> pd.DataFrame:
    """By column: quantiles of its scaled values, skewness, and the share (%) beyond the ±6 sd where networks cut them off."""
    kept = with_values(features)
    scaled = Scaler.fit(values := kept.to_numpy(dtype=float))
    scaled_values = (values - scaled.mean) / scaled.scale
    known = np.isfinite(values)
    thinned = scaled_values[:: max(1, len(kept) // MOST_ROWS)]
    found = pd.DataFrame(thinned, columns=kept.columns).quantile(list(QUANTILES)).T
    found["skewness"] = np.nanmean(scaled_values**3, axis=0)
    found["beyond"] = 100 * ((np.abs(scaled_values) > CLIP) & known).sum(axis=0) / known.sum(axis=0)
    found["group"] = list(groups_of(kept).values())
    found.attrs = {}
    return found


def distributions(features: pd.DataFrame) -> go.Figure:
    """The spread of each column's scaled values, with skewness and the share beyond ±6 sd; a menu chooses the group."""
    found = tails(features)
    views = {"furthest out": found.sort_values("beyond", ascending=False, kind="stable").head(FURTHEST)}
    views |= {str(group): found[found["group"] == group] for group in found["group"].unique()}
    figure = go.Figure()
    buttons = []
    for number, (name, view) in enumerate(views.items()):
        traces = _strips(view)
        for trace in traces:
            figure.add_trace(trace.update(visible=number == 0))
        shown = [place // len(traces) == number for place in range(len(views) * len(traces))]
        layout = {"height": _height(view), "yaxis.range": [len(view) - 0.5, -1.6]}
        layout |= {"yaxis.tickvals": list(range(len(view))), "yaxis.ticktext": list(view.index)}
        buttons.append({"label": f"{name} ({len(view)})", "method": "update", "args": [{"visible": shown}, layout]})
    first = views["furthest out"]
    figure.update_layout(hovermode="closest", showlegend=False)
    figure.update_layout(
        updatemenus=[{"buttons": buttons, "x": 1.0, "xanchor": "right", "y": 1.0, "yanchor": "bottom", "pad": {"b": 8}}]
    )
    figure.update_xaxes(
        title_text="standard deviations from the mean", range=[-CLIP - 0.3, CLIP + 4.2], tickvals=list(range(-6, 7, 2))
    )
    figure.update_yaxes(
        title_text="", range=[len(first) - 0.5, -1.6], tickvals=list(range(len(first))), ticktext=list(first.index),
        automargin=True, showgrid=False,
    )  # fmt: skip
    for x, text in ((CLIP + 1.2, "skewness"), (CLIP + 3.1, "beyond ±6 sd")):
        figure.add_annotation(x=x, y=-1, text=f"<b>{text}</b>", showarrow=False, font_size=12)
    figure.add_vline(x=CLIP + 0.2, line_color="#c9ced6", line_width=1)
    return _finish(figure, "Distributions, scaled", features.attrs, _height(first))


def _height(view: pd.DataFrame) -> int:
    return max(340, 160 + 19 * len(view))


def _strips(view: pd.DataFrame) -> list[go.Scatter]:
    """Traces of one view: 0.1–99.9 %, 5–95 % and 25–75 % as ever thicker lines, the median, and the numbers beside them."""
    rows = np.arange(len(view), dtype=float)
    traces = []
    for low, high, width, colour in (
        (0.001, 0.999, 1, "#9aa1ab"),
        (0.05, 0.95, 5, "#b8cae4"),
        (0.25, 0.75, 9, BLUE),
    ):
        ends = view[[low, high]].clip(-CLIP, CLIP).round(2).to_numpy(dtype=object)
        x = [value for one, other in ends for value in (one, other, None)]
        y = [value for row in rows for value in (row, row, None)]
        line = {"width": width, "color": colour}
        traces.append(go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip"))
    numbers = view[[*QUANTILES]].round(2).to_numpy()
    said = "<br>".join(f"{100 * level:g} %: %{{customdata[{place}]}}" for place, level in enumerate(QUANTILES))
    traces.append(
        go.Scatter(
            x=view[0.5].clip(-CLIP, CLIP).round(2).to_list(),
            y=rows,
            mode="markers",
            marker={"color": "white", "size": 7, "line": {"color": "#24292f", "width": 1.5}},
            customdata=numbers.tolist(),
            text=list(view.index),
            hovertemplate=f"<b>%{{text}}</b><br>{said}<extra></extra>",
        )
    )
    beside = [f"{value:+.1f}" for value in view["skewness"]] + [percent(value) for value in view["beyond"]]
    places = [CLIP + 1.2] * len(view) + [CLIP + 3.1] * len(view)
    traces.append(go.Scatter(x=places, y=[*rows, *rows], mode="text", text=beside, hoverinfo="skip"))
    return traces


def percent(value: float) -> str:
    """A small share (%) in words."""
    return "–" if value == 0 else "< 0.01 %" if value < 0.01 else f"{value:.2f} %"


# Selection


def selection_table(selection: Mapping[str, Any] | None, features: pd.DataFrame) -> HTML:
    """What was weighed: the chosen columns, most information first, with those that each speaks for; below it the others.

    `selection` as a checkpoint holds it; None where there was nothing to choose. The groups are those of `features`.
    """
    if selection is None:
        return HTML("<p>There were no more columns than a network may have, so all were taken.</p>")
    weighed = pd.DataFrame(selection["table"])
    weighed["group"] = weighed["feature"].map(groups_of(features)).fillna("noise")
    weighed = weighed.sort_values("information", ascending=False, kind="stable")
    weighed["millinats"] = [_number(1000 * value) for value in weighed["information"].astype(float)]
    chosen, others = weighed[weighed["kept"]], weighed[~weighed["kept"]]
    alike = others[others["cluster"] >= 0].groupby("cluster")["feature"].agg(list).to_dict()
    shown = pd.DataFrame(
        {
            "column": chosen["feature"],
            "group": chosen["group"],
            "information (10⁻³ nats)": chosen["millinats"],
            "above noise": chosen["above_noise"].map({True: "yes", False: "no"}),
            "speaks for": [_listed(alike.get(number, [])) for number in chosen["cluster"]],
        }
    )
    rest = others[["feature", "group", "millinats", "reason"]]
    rest.columns = ["column", "group", "information (10⁻³ nats)", "why not"]
    below = folded(rest, f"{len(rest)} columns that were not chosen").data if len(rest) else ""
    return HTML(table(shown).data + below)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - MOST_NAMED} more" if len(every) > MOST_NAMED else ""
    return ", ".join(every[:MOST_NAMED]) + more or "–"


# Importance


def measured_importance(
    checkpoint: Checkpoint, candles: pd.DataFrame, series: pd.DataFrame | None = None
) -> pd.DataFrame | None:
    """`bl.feature_importance` in its table; None where too few bars are unseen for one, which is no reason to have no report."""
    from btclab.forecasting.importance import feature_importance

    try:
        return feature_importance(checkpoint, candles, series, progress=False)
    except TooFewBars:
        return None


def importance(weighed: pd.DataFrame | None, attrs: Mapping[Any, Any]) -> go.Figure | HTML:
    """What the forecast loses when a column is shuffled, with 95 % intervals and the line that noise reaches.

    `weighed` as from `bl.feature_importance`, or None; `attrs` are those of the candles.
    """
    if weighed is None:
        return HTML("<p>Importance is measured on 200 unseen bars or more.</p>")
    ordered = weighed.sort_values("importance", ascending=False, kind="stable")
    own = ordered[~ordered["noise"]].head(MOST_BARS)
    shown = ordered[ordered["noise"] | ordered["feature"].isin(own["feature"])]
    colours = np.where(shown["noise"], GREY, np.where(shown["above_noise"], ORANGE, "#f3cf9f"))
    spans = {"array": shown["high"] - shown["importance"], "arrayminus": shown["importance"] - shown["low"]}
    figure = go.Figure(
        go.Bar(
            x=shown["importance"].round(7),
            y=list(range(len(shown))),
            orientation="h",
            marker_color=colours,
            error_x={"type": "data", "symmetric": False, "thickness": 1.2, "width": 3, "color": "#57606a"}
            | {side: values.round(7).to_list() for side, values in spans.items()},
            customdata=shown[["feature", "group", "low", "high"]].to_numpy().tolist(),
            hovertemplate="<b>%{customdata[0]}</b>, %{customdata[1]}<br>%{x:.3g} % "
            "(%{customdata[2]:.3g} to %{customdata[3]:.3g})<extra></extra>",
        )
    )
    line = weighed.attrs["noise_line"]
    figure.add_vline(x=line, line_dash="dash", line_color="#24292f", line_width=1.2)
    figure.update_layout(hovermode="closest", bargap=0.35)
    figure.update_xaxes(title_text="growth of the loss when the column is shuffled (%)", zeroline=True)
    figure.update_xaxes(zerolinecolor=GREY)
    figure.update_yaxes(
        tickvals=list(range(len(shown))), ticktext=shown["feature"].to_list(), autorange="reversed", automargin=True,
        showgrid=False, title_text="",
    )  # fmt: skip
    rest = int((~weighed["noise"]).sum()) - len(own)
    title = "Importance on unseen bars" + (f", the first {len(own)} of {len(own) + rest} columns" if rest else "")
    title += " (dashed: as far as noise reaches)"
    return _finish(figure, title, dict(attrs), 150 + 19 * len(shown))


# Audit


def certificate(of: Checkpoint | Audit | Mapping[str, Any]) -> HTML:
    """The look-ahead audit of features, as a box: green where nothing leaked, red with the names of the columns that do.

    Of a checkpoint it says that these are what the network reads: it is no audit of a strategy.
    """
    said: Mapping[str, Any] = of if isinstance(of, Mapping) else of.audit if hasattr(of, "audit") else of.certificate()
    lines = [f"<b>{escape(str(said['sentence']))}</b>"]
    if said["leaky"]:
        names = ", ".join(f"<code>{escape(name)}</code>" for name in said["leaky"])
        know = "knows" if len(said["leaky"]) == 1 else "know"
        lines.insert(
            0, f"<b>LOOK-AHEAD:</b> {names} {know} the future. No number that rests on it is evidence of anything."
        )
    if name := getattr(of, "name", ""):
        lines.insert(0, f"<small>The features that the network of checkpoint {escape(name)} reads:</small>")
    lines.append(f"<small>Checked on {said['bars']:,} bars, seed {said['seed']}.</small>")
    lines += [
        f"<small>Not verified: <code>{escape(name)}</code>, {escape(str(reason))}.</small>"
        for name, reason in said["unverified"].items()
    ]
    return box(lines, good=not said["leaky"])


def box(lines: list[str], good: bool) -> HTML:
    """What an audit found, as lines of HTML: green if it is `good`, else red."""
    edge, ground = (GREEN, "#e8f5ee") if good else (RED, "#fdecec")
    style = f"border-left:6px solid {edge};background:{ground};color:#24292f;padding:.7em 1em;margin:.5em 0"
    return HTML(f'<div class="btclab-certificate" style="{style}">{"<br>".join(lines)}</div>')


# Time


def known_when(candles: pd.DataFrame, features: pd.DataFrame, names: Iterable[str], bars: int = 24) -> go.Figure:
    """The newest `bars` candles, and when each value of the columns `names` was known: from the close of its bar on.

    A bar in the middle is shaded; the line at its end is the first moment at which its row may be used.
    """
    shown, opens, closes = candles.iloc[-bars:], candles.index[-bars:], close_times(candles)[-bars:]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.5, 0.5], vertical_spacing=0.06)
    prices = {name: shown[name] for name in ("open", "high", "low", "close")}
    middles = opens + (closes - opens) / 2  # so that a candle is as wide as the time it stands for
    colours = {"increasing_line_color": GREEN, "decreasing_line_color": RED}
    figure.add_candlestick(x=middles, **prices, name="bars", line_width=1, showlegend=False, **colours, row=1, col=1)
    for name, colour in zip(names, (ORANGE, BLUE, GREY), strict=False):
        values = features[name].reindex(shown.index)
        line = {"shape": "hv", "color": colour, "width": 1.6}
        figure.add_scatter(x=closes, y=values, name=name, mode="lines+markers", line=line, row=2, col=1)
    place = bars // 2
    figure.add_vrect(x0=opens[place], x1=closes[place], fillcolor=GREY, opacity=0.18, line_width=0)
    figure.add_vline(x=closes[place], line_color="#24292f", line_width=1.2, line_dash="dot")
    said = f"row {opens[place]:%H:%M} is known from {closes[place]:%H:%M} on"
    figure.add_annotation(
        x=closes[place], y=1.0, yref="paper", text=said, showarrow=False, xanchor="left", yanchor="bottom", xshift=4
    )
    units = {str(features.attrs.get("features", {}).get(name, {}).get("unit", "")) for name in names}
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(rangeslider_visible=False)
    figure.update_yaxes(title_text="price", row=1, col=1)
    figure.update_yaxes(title_text=", ".join(sorted(units)), row=2, col=1)
    return _finish(figure, "When a value is known", features.attrs, 460)
