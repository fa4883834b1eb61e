"""Tables that notebooks and dashboard share: frames with names and units a person reads, as plain HTML."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML

from btclab.analysis.backtest import Result
from btclab.analysis.metrics import UNITS
from btclab.features.spec import FeatureSpec
from btclab.market.candles import close_times, fingerprint, lapse, timeframe_of
from btclab.reporting.charts import provenance_label
from btclab.trading.broker import PaperBroker

MOST_SPANS = 5  # repaired spans named in a banner


def table(frame: pd.DataFrame) -> HTML:
    """`frame` without its index, missing values as a dash."""
    if frame.empty:
        return HTML("<p>None.</p>")
    return HTML(frame.to_html(index=False, border=0, na_rep="–", classes="btclab-table", justify="left"))


def folded(frame: pd.DataFrame, summary: str) -> HTML:
    """`table`, hidden until the reader unfolds its `summary`."""
    return HTML(f"<details><summary>{escape(summary)}</summary>{table(frame).data}</details>")


def banner(candles: pd.DataFrame) -> HTML:
    """What a reader must know before anything else: that the market is simulated, the data stale, or a source failed."""
    attrs = candles.attrs
    lines = []
    if attrs.get("simulated"):
        lines.append(
            f"<b>SIMULATED MARKET</b> ({escape(str(attrs.get('source')))}): these prices were drawn by a random number "
            "generator. They show that the suite works; they say nothing about Bitcoin."
        )
    if attrs.get("stale"):
        lines.append(f"<b>STALE DATA</b>: {escape(str(attrs['stale']))}.")
    if attrs.get("repaired"):
        spans = [f"{span['bars']:,} from {span['start'][:16]} ({span['venue']})" for span in attrs["repaired"]]
        lines.append(
            f"<b>FILLED GAPS</b>, bars of another venue: {escape('; '.join(spans[:MOST_SPANS]))}"
            f"{f' and {len(spans) - MOST_SPANS} more' if len(spans) > MOST_SPANS else ''}."
        )
    lines += [f"{escape(str(remark))}." for remark in attrs.get("remarks", [])]
    lines += [f"Source failed: {escape(str(note))}" for note in attrs.get("notes", [])]
    style = (
        "border-left:6px solid #d1393b;background:#fdecec;color:#24292f;padding:.7em 1em;margin:.5em 0;font-size:1.05em"
    )
    return HTML(f'<div class="btclab-banner" style="{style}">{"<br>".join(lines)}</div>' if lines else "")


def age(candles: pd.DataFrame, now: pd.Timestamp | None = None) -> str:
    """How long ago the last bar closed, as `lapse` words it; 'none: simulated' for simulated candles."""
    if candles.attrs.get("simulated"):
        return "none: simulated"
    return lapse((now or pd.Timestamp.now("UTC")) - close_times(candles)[-1])


def data_window(candles: pd.DataFrame) -> pd.DataFrame:
    """Where the candles come from and what they span, with their fingerprint."""
    rows = [
        ("market", f"{candles.attrs.get('symbol')} {timeframe_of(candles)}"),
        ("source", candles.attrs.get("source")),
        ("first bar opens", f"{candles.index[0]:%Y-%m-%d %H:%M} UTC"),
        ("last bar opens", f"{candles.index[-1]:%Y-%m-%d %H:%M} UTC"),
        ("bars", f"{len(candles):,}"),
        ("fingerprint", fingerprint(candles)),
        ("state", provenance_label(candles.attrs) or "as fetched"),
    ]
    return pd.DataFrame(rows, columns=["data", "value"])


def feature_list(spec: FeatureSpec, timeframe: str) -> pd.DataFrame:
    """Features by group, with how each is computed, its unit and its warm-up (bars of `timeframe`)."""
    rows = spec.table(timeframe).reset_index().replace({"unit": {"": "–"}})
    rows["indicator"] = [
        f"{call} of {read}" if read else call for call, read in zip(rows["indicator"], rows.pop("inputs"), strict=True)
    ]
    return rows[["group", "feature", "indicator", "unit", "warmup"]].rename(columns={"warmup": "warm-up (bars)"})


def metrics_table(results: dict[str, Result]) -> pd.DataFrame:
    """The metrics of several results side by side, with units; interest only where some was paid."""
    rows = []
    for name, unit in UNITS.items():
        found = {
            label: result.metrics.get(name, result.metrics.get(f"in_sample_{name}"))
            for label, result in results.items()
        }
        if name == "interest" and not any(found.values()):
            continue
        in_sample = any(f"in_sample_{name}" in result.metrics for result in results.values())
        rows.append(
            {"metric": ("in sample: " if in_sample else "") + name.replace("_", " ")}
            | {k: _number(v) for k, v in found.items()}
            | {"unit": unit}
        )
    return pd.DataFrame(rows)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def trade_list(result: Result, most: int = 12) -> pd.DataFrame:
    """The newest `most` closed trades, newest first; profit in quote currency, fees included."""
    trades = result.trades.iloc[::-1].head(most)
    rows = pd.DataFrame(
        {
            "entry (UTC)": trades["entry"].map("{:%Y-%m-%d %H:%M}".format),
            "exit (UTC)": trades["exit"].map("{:%Y-%m-%d %H:%M}".format),
            "BTC": trades["quantity"].map("{:.6f}".format),
            "entry price": trades["entry_price"].map("{:,.2f}".format),
            "exit price": trades["exit_price"].map("{:,.2f}".format),
            "profit": trades["pnl"].map("{:+,.2f}".format),
            "profit (%)": trades["return_pct"].map("{:+.2f}".format),
            "bars held": trades["bars_open"],
        }
    )
    if (trades["side"] == "short").any():
        rows.insert(2, "side", trades["side"])
    return rows


def latest_bar(candles: pd.DataFrame) -> pd.DataFrame:
    """The newest closed bar and how old it is."""
    row, quote = candles.iloc[-1], str(candles.attrs.get("symbol")).partition("/")[2]
    rows = [
        ("market", f"{candles.attrs.get('symbol')} {timeframe_of(candles)} from {candles.attrs.get('source')}"),
        ("bar opened", f"{candles.index[-1]:%Y-%m-%d %H:%M} UTC"),
        ("bar closed", f"{close_times(candles)[-1]:%Y-%m-%d %H:%M} UTC"),
        ("age of the data", age(candles)),
        ("close", f"{row['close']:,.2f} {quote}"),
        ("range", f"{row['low']:,.2f} … {row['high']:,.2f} {quote}"),
        ("volume", f"{row['volume']:,.3f} {str(candles.attrs.get('symbol')).partition('/')[0]}"),
    ]
    return pd.DataFrame(rows, columns=["bar", "value"])


def forecast_row(row: pd.Series, candles: pd.DataFrame) -> pd.DataFrame:
    """One forecast as returns (%) and as prices, from the lowest quantile to the highest."""
    close = candles["close"].iloc[-1]
    names = {
        "q05": "5 % quantile",
        "q25": "25 % quantile",
        "q50": "median",
        "q75": "75 % quantile",
        "q95": "95 % quantile",
        "mean": "expected",
    }
    if np.isnan(row["mean"]):
        return pd.DataFrame()
    rows = [(text, f"{100 * row[name]:+.3f}", f"{close * np.exp(row[name]):,.2f}") for name, text in names.items()]
    return pd.DataFrame(rows, columns=["forecast", "log return (%)", "price"])


def account(broker: PaperBroker, symbol: str) -> pd.DataFrame:
    """The paper account: cash, position, worth, fees paid so far."""
    base, _, quote = symbol.partition("/")
    now = broker.summary()
    rows = [
        ("worth", f"{now['worth']:,.2f}", quote),
        ("cash", f"{now['cash']:,.2f}", quote),
        ("position", f"{now['position']:.6f}", base),
        ("profit after fees", f"{now['profit']:+,.2f}", quote),
        ("fees paid", f"{now['fees']:,.2f}", quote),
        *([("interest paid", f"{now['interest']:,.2f}", quote)] if now["interest"] else []),
        ("fills", f"{now['fills']:,}", "executions"),
    ]
    return pd.DataFrame(rows, columns=["paper account", "value", "unit"])
