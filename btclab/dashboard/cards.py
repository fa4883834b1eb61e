"""What the dashboard says, as HTML: each function words one part of a signal run. Nothing is computed here but ages."""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd

from btclab.market.candles import lapse, timeframe_delta
from btclab.operations.runs import Run
from btclab.reporting.charts import BLUE, GREY, ORANGE
from btclab.reporting.tables import banner

MISSING = '<span class="btclab-missing">not recorded</span>'
STALE_BARS = 2  # data older than this many bars are called stale, as `load_candles` does


def head(run: Run | None, now: pd.Timestamp) -> str:
    """Market and source; the age of the data and of the signal, and when this was last checked."""
    checked = f"checked at <b>{now:%H:%M:%S} UTC</b>"
    if run is None:
        return _top("Dashboard", "no signal yet", checked)
    data = run.results["data"]
    source = str(run.results["data"]["source"])
    made = lapse(now - pd.Timestamp(run.record["finished"]))
    times = f"age of the data <b>{escape(data_age(run, now))}</b> · signal computed <b>{made} ago</b><br>{checked}"
    return _top(f"{data['symbol']} · {data['timeframe']}", f"source {source}", times)


def _top(title: str, detail: str, times: str) -> str:
    return (
        f'<div class="btclab-top"><div><span class="btclab-name">btclab</span> <span class="btclab-sub">{escape(detail)}</span>'
        f'<h1>{escape(title)}</h1></div><div class="btclab-times">{times}</div></div>'
    )


def data_age(run: Run, now: pd.Timestamp) -> str:
    """How long ago the newest bar that the signal knows closed; simulated bars have no age."""
    return "none: simulated" if run.results["data"]["simulated"] else lapse(_since_last_close(run, now))


def _since_last_close(run: Run, now: pd.Timestamp) -> pd.Timedelta:
    data = run.results["data"]
    return now - (pd.Timestamp(data["last"]) + timeframe_delta(data["timeframe"]))


def notes(run: Run | None, newer: Run | None, now: pd.Timestamp) -> str:
    """What a reader must know before anything else: simulated or stale data, a later run that failed."""
    parts = []
    if run is not None:
        data = run.results["data"]
        facts = pd.DataFrame()
        facts.attrs = {name: data[name] for name in ("source", "simulated", "stale")}
        parts.append(banner(facts).data)
        old = not data["simulated"] and _since_last_close(run, now) >= STALE_BARS * timeframe_delta(data["timeframe"])
        if old and not data["stale"]:
            passed = lapse(_since_last_close(run, now))
            parts.append(
                _bad("STALE: ", f"the last bar closed {passed} ago. For a newer signal type: {_newer_signal(run)}")
            )
        if run.results["signal"].get("in_sample"):
            parts.append(_bad("IN SAMPLE: ", "training has seen this bar, so the signal is worth nothing as evidence."))
    if newer is not None:
        parts.append(_newer(newer))
    return "".join(parts)


def _newer_signal(run: Run) -> str:
    source = str(run.record["parameters"]["source"])
    kind, _, rest = source.partition(":")
    return f"btclab signal --source {rest if kind == 'store' else source}"


def trouble(text: str, now: pd.Timestamp) -> str:
    """An error of the dashboard itself; what stands below it is what was found before."""
    return _bad(f"Could not refresh at {now:%H:%M:%S} UTC: ", text)


def no_chart(text: str) -> str:
    """Why there is no price chart."""
    return _bad("No price chart: ", text)


def _newer(run: Run) -> str:
    status, since = run.record["status"], f"{pd.Timestamp(run.record['started']):%Y-%m-%d %H:%M} UTC"
    if status == "running":
        return f'<div class="btclab-note">A newer signal is being computed, since {since}.</div>'
    error = run.record.get("error") or {}
    return _bad(f"The signal run of {since} ended as {status}. ", str(error.get("message", "")))


def _bad(title: str, text: str) -> str:
    return f'<div class="btclab-note btclab-bad" role="alert"><b>{escape(title)}</b>{escape(text)}</div>'


def signal(run: Run) -> str:
    """The latest signal with its reasons, confidence, expected return and its 90 % interval, and who said so."""
    row = run.results["signal"]
    side = str(row["side"])
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in str(row["reasons"]).split("; "))
    facts = {
        "confidence": _percent(row.get("confidence"), 1),
        "expected return": _percent(row.get("mean"), 3, signed=True),
        f"90 % interval{_covered(run.results.get('skill'))}": _interval(row),
    }
    later = {
        "bar opened": f"{pd.Timestamp(row['bar']):%Y-%m-%d %H:%M} UTC",
        "checkpoint": escape(str(run.results.get("checkpoint") or "")) or MISSING,
        "its skill": _skill(run.results.get("skill")),
    }
    return _card(
        "Latest signal",
        f'<div class="btclab-big"><span class="btclab-side btclab-{escape(side)}">{escape(side.upper())}</span>'
        f"target {_percent(row.get('exposure'), 0)} BTC</div>{_facts(facts)}{_range(row)}<ul>{reasons}</ul>{_facts(later)}",
    )


def _covered(measured: dict[str, Any] | None) -> str:
    """What share of the outcomes the interval covered where it was measured."""
    return f" (covered {100 * measured['coverage_90']:.1f} %)" if measured else ""


def _skill(measured: dict[str, Any] | None) -> str:
    """Whether the checkpoint's forecasts can be told from luck out of sample: a signal without skill must not look like one."""
    if not measured:
        return MISSING
    colour, words = ("up", "told from luck") if measured["distinguishable"] else ("down", "cannot be told from zero")
    if measured["ic_high"] < 0:
        words = "points the wrong way"
    return f'<span class="btclab-{colour}">{words}</span>, IC {measured["ic"]:+.3f}'


def _percent(value: float | None, digits: int, signed: bool = False) -> str:
    return MISSING if value is None else f"{100 * value:{'+' if signed else ''}.{digits}f} %"


def _interval(row: dict[str, Any]) -> str:
    low, high = row.get("interval_low"), row.get("interval_high")
    return f"{_percent(low, 2, True)} … {_percent(high, 2, True)}" if None not in (low, high) else MISSING


def _range(row: dict[str, Any]) -> str:
    """The quantiles of the coming return on one line: whisker 5–95 %, box 25–75 %, median, and where zero lies."""
    values = [row[name] for name in ("q05", "q25", "q50", "q75", "q95") if row.get(name) is not None]
    if len(values) < 5:
        return ""
    reach = 1.1 * max(abs(value) for value in values) or 1.0
    low, left, middle, right, high = (50 + 50 * value / reach for value in values)
    shapes = (
        f'<path d="M50 0V20" stroke="{GREY}" stroke-dasharray="2 2" vector-effect="non-scaling-stroke"/>'
        f'<rect x="{low:.2f}" y="9" width="{high - low:.2f}" height="2" fill="{BLUE}"/>'
        f'<rect x="{left:.2f}" y="5" width="{right - left:.2f}" height="10" fill="{BLUE}" opacity="0.45"/>'
        f'<rect x="{middle - 0.4:.2f}" y="2" width="0.8" height="16" fill="{ORANGE}"/>'
    )
    ends = f"<span>{-100 * reach:+.2f} %</span><span>coming return, 5 to 95 %</span><span>{100 * reach:+.2f} %</span>"
    return (
        f'<div class="btclab-range"><svg viewBox="0 0 100 20" preserveAspectRatio="none" role="img" aria-label="Quantiles '
        f'of the coming return">{shapes}</svg><div>{ends}</div></div>'
    )


def account(run: Run) -> str:
    """The paper account after the run's last bar, in quote and base currency."""
    base, _, quote = str(run.results["data"]["symbol"]).partition("/")
    held = run.results.get("account") or {}
    worth = held.get("worth", run.results.get("equity"))
    profit = held.get("profit")
    colour = "" if not profit else "btclab-up" if profit > 0 else "btclab-down"
    facts = {
        "profit after fees": f'<span class="{colour}">{_money(profit, quote, signed=True)}</span>',
        "cash": _money(held.get("cash"), quote),
        "position": MISSING if held.get("position") is None else f"{held['position']:.6f} {escape(base)}",
        "fees paid": _money(held.get("fees"), quote),
        "fills": MISSING if held.get("fills") is None else f"{held['fills']:,}",
    }
    return _card("Paper account", f'<div class="btclab-big"><b>{_money(worth, quote)}</b></div>{_facts(facts)}')


def _money(value: float | None, quote: str, signed: bool = False) -> str:
    return MISSING if value is None else f"{value:{'+' if signed else ''},.2f} {escape(quote)}"


def empty() -> str:
    """What to type when there is no signal yet."""
    return _card(
        "No signal yet",
        "<p>This page shows the newest finished signal run, and there is none in this btclab home. Make one:</p>"
        "<p><code>btclab pipeline</code></p>"
        "<p>It trains, backtests and signals, and this page picks the signal up by itself.</p>",
        "btclab-empty",
    )


def _facts(facts: dict[str, str]) -> str:
    """A list of names and values; the values are HTML."""
    rows = (f"<div><span>{escape(name)}</span><b>{value}</b></div>" for name, value in facts.items())
    return f'<div class="btclab-facts">{"".join(rows)}</div>'


def _card(title: str, body: str, more: str = "") -> str:
    return f'<section class="btclab-card {more}"><h2>{escape(title)}</h2>{body}</section>'
