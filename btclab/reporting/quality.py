"""Figures, tables and sentences of the data-quality report. Each takes the `Report` of `check_candles`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, Markdown

from btclab.market.candles import COLUMNS, lapse, timeframe_delta, timeframe_of
from btclab.market.check import Report
from btclab.market.quality import each
from btclab.market.venues import venue_of
from btclab.reporting import tables
from btclab.reporting.charts import BLUE, GREY, MOST_CANDLES, ORANGE, RED, _finish, _market, _quote

COLOURS = {"bad": RED, "suspicious": ORANGE, "note": BLUE}
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
BY_DAY = pd.Timedelta(days=550)  # a shorter span is shown by day of the month, a longer one by month of the year
PRESENT = [[0.0, RED], [0.9, "#f3b562"], [0.999, "#e6efe4"], [1.0, "#9fd3b4"]]


# Figures


def coverage(report: Report) -> go.Figure:
    """Share of the bars that are there, by month (or by day where the span is short)."""
    candles = report.candles
    index, step = pd.DatetimeIndex(candles.index), timeframe_delta(timeframe_of(candles))
    by_day = index[-1] - index[0] < BY_DAY
    expected = pd.date_range(index[0], index[-1], freq=step)
    rows, columns = (["year", "month"], ["day"]) if by_day else (["year"], ["month"])
    whole, there = (_counted(times, rows, columns) for times in (expected, index))
    share = 100 * there.reindex(index=whole.index, columns=whole.columns).fillna(0) / whole
    words = share.map(lambda value: "" if pd.isna(value) or value == 100 else f"{np.floor(10 * value) / 10:g}")
    keys: list[Any] = list(share.index)
    names = [f"{MONTHS[key[1] - 1]} {key[0]}" if by_day else str(key) for key in keys]
    figure = go.Figure(
        go.Heatmap(
            z=share.to_numpy(),
            x=[str(day) if by_day else MONTHS[day - 1] for day in list[Any](share.columns)],
            y=names,
            text=words.to_numpy(),
            texttemplate="%{text}",
            colorscale=PRESENT,
            zmin=0,
            zmax=100,
            xgap=2,
            ygap=2,
            showscale=False,
            hovertemplate="%{y} %{x}: %{z:.2f} % of the bars<extra></extra>",
            hoverongaps=False,
        )
    )
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text="day of the month (UTC)" if by_day else "", type="category", showgrid=False)
    figure.update_yaxes(
        title_text="month" if by_day else "year", type="category", autorange="reversed", showgrid=False, automargin=True
    )
    figure.update_yaxes(title_standoff=12)
    title = f"Bars that are there (%), {_market(candles.attrs)} {timeframe_of(candles)}"
    return _finish(figure, title, candles.attrs, 170 + 30 * len(names))


def _counted(times: pd.DatetimeIndex, rows: list[str], columns: list[str]) -> pd.DataFrame:
    parts = {part: getattr(times, part) for part in (*rows, *columns)}
    return pd.DataFrame(parts).groupby([*rows, *columns]).size().unstack(columns[0])


def price_with_findings(report: Report) -> go.Figure:
    """The close, with a mark at each finding; longer ones are shaded."""
    candles = report.candles
    shown = _thinned(candles["close"])
    figure = go.Figure(go.Scatter(x=shown.index, y=shown, name="close", line={"color": "#57606a", "width": 1}))
    span = candles.index[-1] - candles.index[0]
    for severity, colour in COLOURS.items():
        placed = report.findings["start"].notna() & (report.findings["finding"] != "low coverage")
        chosen = report.findings[(report.findings["severity"] == severity) & placed]
        place = np.clip(candles.index.searchsorted(pd.DatetimeIndex(chosen["start"])), 0, len(candles) - 1)
        for row in each(chosen):
            if span / 100 < row.end - row.start < 0.9 * span:  # a mark could not be told from a point; nor the whole
                figure.add_vrect(x0=row.start, x1=row.end, fillcolor=colour, opacity=0.10, line_width=0, layer="below")
        figure.add_scatter(
            x=chosen["start"],
            y=candles["close"].to_numpy()[place],
            mode="markers",
            name=f"{severity} ({len(chosen):,})",
            marker={"color": colour, "size": 9, "symbol": "circle-open", "line": {"width": 2}},
            customdata=chosen[["finding", "bars", "detail"]].to_numpy(),
            hovertemplate="%{x|%Y-%m-%d %H:%M} %{customdata[0]}, bars %{customdata[1]}: %{customdata[2]}<extra></extra>",
        )
    figure.update_layout(hovermode="closest")
    figure.update_yaxes(title_text=_quote(candles.attrs), type="log", nticks=6)
    return _finish(figure, f"Findings, {_market(candles.attrs)}", candles.attrs, 420)


def _thinned(series: pd.Series) -> pd.Series:
    return series.iloc[:: max(1, len(series) // MOST_CANDLES)]


def premium(report: Report) -> go.Figure | HTML:
    """Own close over the reference's: the middle of each stretch of bars, and how far it ranged within it."""
    if report.reference is None:
        return _no_reference()
    candles = report.candles
    apart = pd.Series(100 * (candles["close"] / report.reference["close"] - 1)).dropna()
    if apart.empty:
        return HTML(f"<p>{venue_of(report.reference)} has no bar in common with these candles.</p>")
    grouped = apart.groupby(np.arange(len(apart)) // max(1, len(apart) // 750))
    times = apart.index.to_series().groupby(np.arange(len(apart)) // max(1, len(apart) // 750)).first()
    low, middle, high = grouped.min(), grouped.median(), grouped.max()
    figure = go.Figure()
    hidden = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=times, y=high, showlegend=False, **hidden)
    figure.add_scatter(x=times, y=low, fill="tonexty", fillcolor="rgba(53,102,168,0.22)", name="range", **hidden)
    figure.add_scatter(
        x=times, y=middle, name="median", line={"color": BLUE, "width": 1.2}, hovertemplate="%{y:+.2f} %"
    )
    figure.add_hline(y=0, line_color=GREY, line_width=1)
    figure.update_yaxes(title_text="premium (%)", ticksuffix=" ")
    title = f"Price over that of {venue_of(report.reference)}, at its true dates"
    return _finish(figure, title, candles.attrs, 320)


def lag_correlations(report: Report) -> go.Figure | HTML:
    """How returns correlate with the reference's when its rows are moved by some bars: a clean series peaks at 0."""
    if report.reference is None:
        return _no_reference()
    if report.lags is None:
        return HTML(f"<p>Too few bars in common with {venue_of(report.reference)} to tell early from late.</p>")
    figure = go.Figure()
    for colour, ((start, end), part) in zip(
        [BLUE, ORANGE, GREY, RED] * len(report.lags), report.lags.groupby(["start", "end"]), strict=False
    ):
        name = f"{start:%Y-%m-%d} to {end:%Y-%m-%d}"
        figure.add_bar(x=part["lag"], y=part["correlation"], name=name, marker_color=colour)
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_xaxes(title_text="lag in bars (1: these rows are dated a bar late)", dtick=1, zeroline=False)
    figure.update_yaxes(title_text="correlation of returns", zeroline=True, zerolinecolor=GREY)
    title = f"Dates, judged by {venue_of(report.reference)}"
    return _finish(figure, title, report.candles.attrs, 320)


def _no_reference() -> HTML:
    return HTML(
        "<p>No second venue was named (parameter <code>against</code>), so there is nothing to compare with.</p>"
    )


# Tables


def findings_list(report: Report, most: int = 30) -> HTML:
    """`findings_table` with its times unbroken, and how many more there are."""
    rest = len(report.findings) - most
    more = f"<p>… and {rest:,} more: raise <code>most</code>.</p>" if rest > 0 else ""
    style = "<style>.btclab-findings td:nth-child(-n+5) {white-space: nowrap}</style>"
    return HTML(f'<div class="btclab-findings">{style}{tables.table(findings_table(report, most)).data}{more}</div>')


def findings_table(report: Report, most: int = 30) -> pd.DataFrame:
    """The first `most` findings, worst first."""
    rows = report.findings.head(most)
    return pd.DataFrame(
        {
            "finding": rows["finding"],
            "severity": rows["severity"],
            "from (UTC)": rows["start"].map(_time),
            "to (UTC)": rows["end"].map(_time),
            "bars": rows["bars"].map("{:,}".format),
            "detail": rows["detail"],
        }
    )


def _time(moment: pd.Timestamp) -> str:
    return "–" if pd.isna(moment) else f"{moment:%Y-%m-%d %H:%M}"


def counts_table(report: Report) -> pd.DataFrame:
    """How often each finding came, worst first."""
    return report.counts.assign(bars=report.counts["bars"].map("{:,}".format))


def data_window(report: Report) -> pd.DataFrame:
    """Where the candles come from and what they span; of closes alone, too."""
    whole = report.candles.reindex(columns=COLUMNS)
    whole.attrs = report.candles.attrs
    return tables.data_window(whole)


# Sentences


def verdict(report: Report) -> Markdown:
    """Whether the candles can be trusted, and what is worst about them."""
    findings = report.findings
    bad, odd = (findings[findings["severity"] == severity] for severity in ("bad", "suspicious"))
    if findings.empty:
        return Markdown("**Nothing was found** against these candles.")
    rest = f"; {len(odd):,} more are suspicious" if len(odd) else ""
    if bad.empty:
        return Markdown(f"**Nothing bad was found**{rest}. Look at them, or name a second venue that can tell." if rest
                        else "**Nothing bad was found**; the notes below are good to know.")  # fmt: skip
    kinds = bad.groupby("finding", sort=False).size().sort_values(ascending=False, kind="stable")
    listed = ", ".join(f"{kind} ({times:,})" for kind, times in kinds.items())
    many = f"{len(bad):,} finding{'s' if len(bad) > 1 else ''}"
    return Markdown(f"**{many} would mislead a model or a backtest**: {listed}{rest}.")


def holes(report: Report) -> Markdown:
    """How much is missing, and the longest hole."""
    missing = report.findings[report.findings["finding"] == "gap"]
    if missing.empty:
        return Markdown("No bar between the first and the last is missing.")
    step, longest = (
        timeframe_delta(timeframe_of(report.candles)),
        missing.iloc[int(missing["bars"].to_numpy().argmax())],
    )
    many = f"{len(missing):,} gap{'s' if len(missing) > 1 else ''}"
    share = 100 * missing["bars"].sum() / (len(report.candles) + missing["bars"].sum())
    return Markdown(
        f"**{missing['bars'].sum():,} bars** ({share:.3f} %) are missing in {many}; the longest lasts "
        f"**{lapse(longest['bars'] * step)}** from {_time(longest['start'])} UTC. No label or feature reaches across one."
    )


def dates(report: Report) -> Markdown:
    """Whether the rows are dated as the reference's are."""
    if report.reference is None:
        return Markdown("Without a second venue nobody can tell whether these rows are dated right.")
    venue, told = venue_of(report.reference), None if report.shifts is None else report.shifts[report.shifts["told"]]
    if told is None or told.empty:
        return Markdown(f"Whether the rows are dated right **cannot be told** from {venue}; the findings say why.")
    moved = told[told["lag"] != 0]
    if moved.empty:
        return Markdown(
            f"The rows are **dated as those of {venue}** (correlation of returns {told['correlation'].min():.2f})."
        )
    words = "; ".join(
        f"**{abs(row.lag)} bar{'s' if abs(row.lag) > 1 else ''} {'late' if row.lag > 0 else 'early'}** "
        f"from {row.start:%Y-%m-%d} to {row.end:%Y-%m-%d}"
        for row in each(moved)
    )
    return Markdown(f"Against {venue} the rows are dated {words}. A model trained on them is off by as much.")


def prices(report: Report) -> Markdown:
    """How far the prices are from the reference's."""
    if report.reference is None:
        return Markdown("Without a second venue a large move is only suspicious: it may be a crash or a bad tick.")
    apart = pd.Series(100 * (report.candles["close"] / report.reference["close"] - 1)).dropna()
    venue = venue_of(report.reference)
    if apart.empty:
        return Markdown(f"{venue} has no bar in common with these candles.")
    furthest = int(apart.abs().to_numpy().argmax())
    return Markdown(
        f"Half of the closes are within **{apart.abs().median():.2f} %** of {venue}, 99 % within "
        f"{apart.abs().quantile(0.99):.2f} %; the furthest is {apart.iloc[furthest]:+.1f} % "
        f"at {apart.index[furthest]:%Y-%m-%d %H:%M} UTC."
    )
