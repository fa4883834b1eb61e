"""Figures, tables and sentences of an account: `account_statement` as a person reads it."""

from __future__ import annotations

import calendar
import re
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, Markdown
from plotly.subplots import make_subplots

from btclab.analysis.backtest import Result
from btclab.analysis.portfolio import INTEREST, OPEN, Statement
from btclab.market.candles import timeframe_delta
from btclab.reporting import tables
from btclab.reporting.charts import BLUE, GREEN, GREY, ORANGE, RED, _finish, _quote, _span

MONTHS = list(calendar.month_abbr)[1:]
MOST_POINTS = 4_000  # bars of a curve; more cannot be told apart on a screen
_COLOURS = [[0.0, RED], [0.5, "#ffffff"], [1.0, GREEN]]
_NAMES = {"target": "signal", "take_profit": "take-profit", "stop_limit": "stop-limit"}
_NAMES |= {"long": "bought", "short": "sold short"}
_EXITS = {"target": BLUE, "stop": RED, "take_profit": GREEN, "trailing_stop": ORANGE, "stop_limit": "#8c2f5c"}
_PARTS = {"exit": "why lots were closed", "category": "what spoke for opening them", "side": "side of the market"}
_EXITS |= {"margin_call": "#111111"}


def _base(attrs: dict[Any, Any]) -> str:
    return str(attrs.get("symbol") or "BTC").partition("/")[0]


def _day(moment: pd.Timestamp) -> str:
    return f"{moment:%Y-%m-%d}"


def _named(reason: str) -> str:
    """A reason or category as a person reads it; "target" is the kind of the orders that a strategy's signal gives."""
    return _NAMES.get(reason, reason.replace("_", " "))


def _money(value: float, form: str = "+,.2f") -> str:
    return f"{value + 0.0 if abs(value) >= 0.005 else 0.0:{form}}"  # never "−0.00"


# The whole


def summary(statement: Statement, held: Result | None = None) -> Markdown:
    """What the account earned, after fees, beside what holding would have, and whether that is more than luck."""
    m, curve, quote = statement.figures, statement.curve, _quote(statement.attrs)
    closed = curve.index[-1] + timeframe_delta(statement.attrs["timeframe"])
    seen = "**In sample, so worth nothing as evidence:** " if statement.in_sample else ""
    words = (
        f"{seen}From {_day(curve.index[0])} to {_day(closed)} the account earned "
        f"**{_money(statement.totals['profit'])} {quote}** "
        f"after fees, **{m['total_return']:+.2f} %**, with a deepest fall of {m['max_drawdown']:.1f} %"
    )
    if held is not None:
        other = held.metrics
        words += f"; holding would have returned **{other['total_return']:+.1f} %** with {other['max_drawdown']:.1f} %"
    if m["sharpe"] is None or m["deflated_sharpe"] is None:
        return Markdown(f"{words}. Its worth never changed, so that it has no Sharpe ratio.")
    tried = "one strategy was tried" if m["sharpe_trials"] == 1 else f"{m['sharpe_trials']:,} strategies were tried"
    return Markdown(
        f"{words}. Its Sharpe ratio is {m['sharpe']:.2f} a year; with a probability of **{100 * m['deflated_sharpe']:.0f} %** "
        f"that is more than luck, if {tried}."
    )


def account(statement: Statement) -> pd.DataFrame:
    """From the opening to the closing: what was put in, what was earned and how, and what the account holds."""
    t, quote, base = statement.totals, _quote(statement.attrs), _base(statement.attrs)
    last, lots = statement.curve.iloc[-1], statement.lots
    rows = [
        (f"opening, {_day(statement.curve.index[0])}", f"{t['opening']:,.2f}", quote),
        ("deposits less withdrawals", _money(t["deposits"]), quote),
        ("profit after fees", _money(t["profit"]), quote),
        ("· of closed lots", _money(t["closed"]), quote),
        ("· of open lots", _money(t["open"]), quote),
        ("· interest", _money(t["interest"]), quote),
        ("closing", f"{t['closing']:,.2f}", quote),
        ("· cash", _money(last["equity"] * (1 - last["exposure"]), ",.2f"), quote),
        (f"· {base}, {lots['quantity'].sum():.6f} at {last['close']:,.2f}", _money(lots["value"].sum(), ",.2f"), quote),
        ("fees paid, in the profit already", f"{t['fees']:,.2f}", quote),
    ]
    return pd.DataFrame(rows, columns=["account", "value", "unit"])


def metrics(statement: Statement, held: Result | None = None) -> pd.DataFrame:
    """The metrics of the account, and of holding over the same bars."""
    results: dict[str, Result] = {"account": statement}
    return tables.metrics_table(results if held is None else {**results, "buy and hold": held})


def equity(statement: Statement, held: Result | None = None) -> go.Figure:
    """Equity as the ledger marks it, with deposits; drawdown, to which they are nothing; and exposure."""
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, row_heights=[0.55, 0.25, 0.2], vertical_spacing=0.05)
    curve = _thinned(statement.curve)
    lines = [("account", curve["equity"], curve["drawdown"], ORANGE)]
    if held is not None:
        fall = 100 * (held.equity / held.equity.cummax().clip(lower=held.initial_cash) - 1)
        lines.append(("buy and hold", held.equity.reindex(curve.index), fall.reindex(curve.index), GREY))
    for name, worth, fall, colour in reversed(lines):  # the account is drawn on top
        style: dict[str, Any] = {"name": name, "legendgroup": name}
        figure.add_scatter(x=curve.index, y=worth.round(2), line={"color": colour, "width": 1.6}, row=1, col=1, **style)
        fill = {"fill": "tozeroy"} if name == "account" else {}
        figure.add_scatter(
            x=curve.index,
            y=fall.round(3),
            line={"color": colour, "width": 1},
            showlegend=False,
            row=2,
            col=1,
            **style,
            **fill,
        )
    moved = statement.curve[statement.curve["flow"] != 0]
    if len(moved):
        figure.add_scatter(
            x=moved.index,
            y=moved["equity"].round(2),
            mode="markers",
            name="deposit or withdrawal",
            text=[_money(flow) for flow in moved["flow"]],
            marker={"symbol": "diamond", "size": 10, "color": BLUE, "line": {"width": 1, "color": "white"}},
            row=1,
            col=1,
        )
    share = (100 * curve["exposure"]).round(2)
    figure.add_scatter(
        x=curve.index,
        y=share,
        name="exposure",
        line={"color": ORANGE, "width": 1, "shape": "hv"},
        fill="tozeroy",
        showlegend=False,
        row=3,
        col=1,
    )
    figure.update_yaxes(title_text=_quote(statement.attrs), row=1, col=1)
    figure.update_yaxes(title_text="drawdown (%)", row=2, col=1)
    figure.update_yaxes(title_text="in BTC (%)", range=_span(share), row=3, col=1)
    where = "IN SAMPLE, " if statement.in_sample else ""
    figure.update_layout(legend_traceorder="reversed")
    return _finish(figure, f"Equity, drawdown and exposure, {where}after costs", statement.attrs, 620)


def _thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """`curve` with so many bars that a screen can show, evenly spread, the last, the highest and the deepest among them."""
    if len(curve) <= MOST_POINTS:
        return curve
    step = -(-len(curve) // MOST_POINTS)
    edges = [len(curve) - 1, int(curve["equity"].argmax()), int(curve["drawdown"].argmin())]
    return curve.iloc[np.union1d(np.arange(0, len(curve), step), edges)]


# By time


def months(statement: Statement) -> go.Figure:
    """Profit of each month and year: the colour is its return, the numbers are profit (quote currency) and return."""
    parts, years = statement.by("month"), statement.by("year")
    rows = [str(year) for year in pd.PeriodIndex(years.index)]
    value = np.full((len(rows), 13), np.nan)
    text = np.full((len(rows), 13), "", dtype=object)
    for table, column in ((parts, pd.PeriodIndex(parts.index).month - 1), (years, np.full(len(years), 12))):
        places = [rows.index(str(name.year)) for name in pd.PeriodIndex(table.index)]
        value[places, column] = table["return_pct"]
        text[places, column] = [
            f"<b>{_money(earned, '+,.0f')}</b><br>{share:+.1f} %"
            for earned, share in zip(table["profit"], table["return_pct"], strict=True)
        ]
    most = float(np.nanmax(np.abs(value))) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=value,
            x=[*MONTHS, "year"],
            y=rows,
            text=text,
            texttemplate="%{text}",
            textfont={"size": 12, "color": "#24292f"},
            hovertemplate="%{y} %{x}<br>%{text}<extra></extra>",
            zmin=-most,
            zmax=most,
            colorscale=_COLOURS,
            opacity=0.75,
            xgap=3,
            ygap=3,
            showscale=False,
        )
    )
    figure.add_vline(x=11.5, line_color="#c9ced6", line_width=1)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed", type="category", title_text="year")
    quote = _quote(statement.attrs)
    figure = _finish(
        figure, f"Profit by month, after fees ({quote}, and % of equity)", statement.attrs, 130 + 62 * len(rows)
    )
    return figure.update_layout(hovermode="closest")


def profit(statement: Statement, period: str = "day") -> go.Figure:
    """Profit of each day, month or year after fees, as bars."""
    parts = statement.by(period)
    times = pd.PeriodIndex(parts.index).start_time
    figure = go.Figure(
        go.Bar(
            x=times,
            y=parts["profit"].round(2),
            name="profit",
            marker_color=np.where(parts["profit"] >= 0, GREEN, RED).tolist(),
            marker_line_width=0,
        )
    )
    figure.add_hline(y=0, line_color=GREY, line_width=1)
    figure.update_yaxes(title_text=_quote(statement.attrs))
    return _finish(figure, f"Profit by {period}, after fees", statement.attrs, 300)


def period_table(statement: Statement, period: str = "month", most: int = 24) -> pd.DataFrame:
    """The newest `most` days, months or years, newest last, and the sum of all there are."""
    parts, t = statement.by(period), statement.totals
    whole = pd.DataFrame(
        {
            "profit": t["profit"],
            "return_pct": statement.figures["total_return"],
            "fees": t["fees"],
            "trades": len(statement.trades),
            "deposits": t["deposits"],
            "equity": t["closing"],
        },
        [f"all {len(parts)}"],
    )
    shown = pd.concat([parts.iloc[-most:].set_axis([str(name) for name in parts.index[-most:]]), whole])
    return pd.DataFrame(
        {
            period: shown.index,
            "profit": shown["profit"].map(_money),
            "return (%)": shown["return_pct"].map("{:+.2f}".format),
            "fees": shown["fees"].map("{:,.2f}".format),
            "closed lots": shown["trades"],
            "deposits": shown["deposits"].map(_money),
            "closing": shown["equity"].map("{:,.2f}".format),
        }
    )


def adds_up(statement: Statement) -> Markdown:
    """That the parts are the whole: a statement that does not add up is never made."""
    t, count = statement.totals, len(statement.by("month"))
    return Markdown(
        f"{'One month' if count == 1 else f'The {count} months'}, and {_money(t['closed'])} of closed lots, "
        f"{_money(t['open'])} of open ones and {_money(t['interest'])} of interest, each add up to "
        f"**{_money(t['profit'])} {_quote(statement.attrs)}**: {t['opening']:,.2f} {_money(t['deposits'])} "
        f"{_money(t['profit'])} = {t['closing']:,.2f}."
    )


def exposure(statement: Statement) -> Markdown:
    """For how much of the time, on which side, and with how much, the account was in the market."""
    share, m, base = 100 * statement.exposure, statement.figures, _base(statement.attrs)
    words, last = f"It held {base} in **{100 * (share > 0).mean():.0f} %** of the bars", share.iloc[-1]
    if (share < 0).any():
        words += f" and had sold it short in **{100 * (share < 0).mean():.0f} %**"
    return Markdown(
        f"{words}, on average {share.abs().mean():.0f} % of equity, and turned its equity over {m['turnover']:,.1f} times a "
        f"year; at the closing {abs(last):.0f} % are {'sold short' if last < 0 else 'in the market'}."
    )


# Trades and positions


def lots(statement: Statement) -> HTML:
    """The open lots: when and at what price they were opened, and what they have earned, before and after that fee."""
    held = statement.lots
    if held.empty:
        return HTML("<p>No lot is open: the account is in cash.</p>")
    return tables.table(
        pd.DataFrame(
            {
                "opened (UTC)": held["entry"].map("{:%Y-%m-%d %H:%M}".format),
                "side": held["side"],
                "age (days)": held["age_days"].map("{:,.1f}".format),
                _base(statement.attrs): held["quantity"].map("{:.6f}".format),
                "price": held["price"].map("{:,.2f}".format),
                "cost": held["cost"].map("{:,.2f}".format),
                "value": held["value"].map("{:,.2f}".format),
                "unrealised": held["unrealised"].map(_money),
                "unrealised (%)": (100 * held["unrealised"] / held["cost"].abs()).map("{:+.2f}".format),
                "fee": held["fees"].map("{:,.2f}".format),
            }
        )
    )


def trades(statement: Statement) -> go.Figure | HTML:
    """Each closed lot when it was closed: its return after fees (%), by why it was closed; a triangle was sold short."""
    closed = statement.trades
    if closed.empty:
        return HTML("<p>No lot was closed, so there is no trade to show.</p>")
    figure = go.Figure()
    named = closed["reason"].where(closed["reason"].isin(list(_EXITS)), "another order")
    for reason, rows in closed.groupby(named):
        figure.add_scatter(
            x=rows["exit"],
            y=rows["return_pct"].round(3),
            mode="markers",
            name=_named(str(reason)),
            marker={
                "size": np.where(rows["side"] == "short", 11, 8),
                "symbol": np.where(rows["side"] == "short", "triangle-down", "circle"),
                "color": _EXITS.get(str(reason), GREY),
                "opacity": 0.8,
                "line": {"width": 1, "color": "white"},
            },
            customdata=rows[["pnl", "bars_open", "side"]].round({"pnl": 2}).to_numpy(),
            hovertemplate="%{customdata[2]} · %{y:+.2f} % · %{customdata[0]:+,.2f} · %{customdata[1]:,} bars",
        )
    figure.add_hline(y=0, line_color=GREY, line_width=1)
    figure.update_yaxes(title_text="return after fees (%)")
    shorts = "; triangles were sold short" if (closed["side"] == "short").any() else ""
    return _finish(figure, f"Closed lots, by why they were closed{shorts}", statement.attrs, 340).update_layout(
        hovermode="closest"
    )


def trade_list(statement: Statement, most: int = 12) -> pd.DataFrame:
    """The newest `most` closed lots, newest first, with why each was closed."""
    rows = tables.trade_list(statement, most)
    return rows.assign(**{"closed by": [_named(one) for one in statement.trades["reason"].iloc[::-1].head(most)]})


def trading(statement: Statement) -> Markdown:
    """How many lots were closed, how many of them with a profit, and what a good one is beside a bad one."""
    closed, m, quote = statement.trades, statement.figures, _quote(statement.attrs)
    if closed.empty:
        return Markdown("No lot was closed yet.")
    won, lost = closed.loc[closed["pnl"] > 0, "pnl"], closed.loc[closed["pnl"] <= 0, "pnl"]
    words = f"**{len(closed):,}** lots were closed, **{m['win_rate']:.0f} %** with a profit after fees"
    if len(won) and len(lost):
        words += f": {_money(won.mean())} {quote} on average, against {_money(lost.mean())} of the others"
    if m["profit_factor"] is not None:
        words += f". The profit factor, gains over losses, is **{m['profit_factor']:.2f}**"
    return Markdown(f"{words}; a lot was held for {closed['bars_open'].median():,.0f} bars (median).")


def refusals(events: pd.DataFrame) -> HTML:
    """What was refused, rule by rule, with the newest words; `events` as of `Ledger.event_table`."""
    refused = events[events["event"] == "refused"]
    if refused.empty:
        return HTML("<p>Nothing was refused.</p>")
    grouped = refused.groupby("rule", sort=False)
    rows = pd.DataFrame({"times": grouped.size(), "the newest": grouped["text"].last()})
    rows["of (UTC)"] = [f"{group.index[-1]:%Y-%m-%d %H:%M}" for _, group in grouped]
    rows = rows.sort_values("times", ascending=False).reset_index()
    return tables.table(rows[["rule", "times", "of (UTC)", "the newest"]])


# Costs, and where the profit came from


def fees(statement: Statement) -> Markdown:
    """What fees and interest took, beside what the account would have earned without them."""
    t, quote, interest = statement.totals, _quote(statement.attrs), -statement.totals["interest"]
    if not t["fees"]:
        return Markdown("No fee was paid.")
    traded, gross = statement.fills["value"].sum(), t["profit"] + t["fees"] + interest
    words = f"Fees took **{t['fees']:,.2f} {quote}**, {1e4 * t['fees'] / traded:.1f} bps of the {traded:,.0f} traded"
    if interest:
        words += f", and interest **{interest:,.2f} {quote}**"
    words += (
        f": before {'them' if not interest else 'both'} the account earned {_money(gross)}, after {_money(t['profit'])}"
    )
    if gross > 0 > t["profit"]:
        words += "; they made a loss of a profit"
    return Markdown(words + ".")


def fee_table(statement: Statement) -> HTML:
    """Fees by what filled, makers apart from takers."""
    if statement.fills.empty:
        return HTML("<p>Nothing was traded.</p>")
    sort = np.where(statement.fills["maker"], "maker", "taker")
    grouped = statement.fills.groupby(["reason", sort])
    rows = grouped.agg(fills=("fee", "size"), traded=("value", "sum"), fees=("fee", "sum")).reset_index()
    rows["bps"] = (1e4 * rows["fees"] / rows["traded"]).map("{:.1f}".format)
    rows = rows.sort_values("fees", ascending=False).rename(columns={"level_1": "as"})
    rows["reason"] = rows["reason"].map(_named)
    for name in ("traded", "fees"):
        rows[name] = rows[name].map("{:,.2f}".format)
    return tables.table(rows)


def attribution(statement: Statement, by: str = "exit") -> go.Figure | HTML:
    """Profit after fees, by why lots were closed ("exit"), by what spoke for opening them ("category"), or by "side"."""
    rows = _parts(statement, by).iloc[::-1]  # Plotly draws from below
    if rows.empty:
        return HTML("<p>Nothing was traded, so there is nothing to attribute.</p>")
    colours = [GREY if name in (OPEN, INTEREST) else GREEN if pnl >= 0 else RED for name, pnl in rows["pnl"].items()]
    said = [
        _money(pnl) + (f" · {wins:,} of {lots:,} won" if name not in (OPEN, INTEREST) else "")
        for name, lots, wins, pnl in rows.itertuples()
    ]
    figure = go.Figure(
        go.Bar(
            x=rows["pnl"].round(2),
            y=[_named(str(name)) for name in rows.index],
            orientation="h",
            marker_color=colours,
            text=said,
            textposition="outside",
            cliponaxis=False,
            name="profit",
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )
    low, high = min(0.0, rows["pnl"].min()), max(0.0, rows["pnl"].max())
    room = 0.35 * (high - low or 1.0)  # for the words beside a bar
    figure.update_xaxes(range=[low - (room if low < 0 else 0), high + (room if high > 0 else 0)])
    figure.add_vline(x=0, line_color=GREY, line_width=1)
    figure.update_xaxes(title_text=f"profit after fees ({_quote(statement.attrs)})")
    figure.update_yaxes(showgrid=False, automargin=True)
    figure = _finish(figure, f"Profit by {_PARTS[by]}", statement.attrs, 190 + 44 * len(rows))
    return figure.update_layout(hovermode="closest", showlegend=False, margin_b=64)


def attributed(statement: Statement, by: str = "exit") -> Markdown:
    """Which part earned most, and which lost most."""
    rows, quote = _parts(statement, by), _quote(statement.attrs)
    if rows.empty:
        return Markdown("Nothing was traded yet.")
    rows = rows.sort_values("pnl")
    (worst, best), (least, most) = rows.index[[0, -1]], rows["pnl"].iloc[[0, -1]].tolist()
    parts = [f"most came from **{_named(str(best))}** ({_money(most)} {quote})"] if most > 0 else []
    parts += [f"most was lost by **{_named(str(worst))}** ({_money(least)} {quote})"] if least < 0 else []
    words = ", ".join(parts) or "no part earned or lost anything"
    return Markdown(f"Of {_money(statement.totals['profit'])} {quote} {words}.")


def _parts(statement: Statement, by: str) -> pd.DataFrame:
    return {"exit": statement.by_exit, "category": statement.by_category, "side": statement.by_side}[by]()


# Whose statement it is


def banner(statement: Statement, note: str = "") -> HTML:
    """What a reader must know first: that the market is simulated, or, by `note`, that this is a demonstration."""
    market = tables.banner(statement.curve).data
    if not note:
        return HTML(market)
    said = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(note))
    style = (
        "border-left:6px solid #e8850c;background:#fff4e5;color:#24292f;padding:.7em 1em;margin:.5em 0;font-size:1.05em"
    )
    return HTML(f'<div class="btclab-banner" style="{style}">{said}</div>{market}')
