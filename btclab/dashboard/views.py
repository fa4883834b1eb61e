"""The dashboard: the newest finished signal run on one page that keeps itself up to date, or says that it does not.

It reads what runs have recorded and what is stored, never an exchange, and computes no forecast, signal or fill: its
kernel needs neither torch nor ccxt.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go
import traitlets
from IPython.display import display

from btclab.dashboard import cards
from btclab.errors import BtclabError, InputError
from btclab.market.sources import load_candles
from btclab.operations.runs import Run, past_runs
from btclab.reporting.charts import price
from btclab.settings import settings

BARS = 300  # bars in the price chart
SILENT_REFRESHES = 3  # after so many refreshes without a word from the kernel the page calls itself stale
HERE = Path(__file__).parent
LOCAL = ("store", "file", "simulated")  # kinds of source that need no network


@dataclass(frozen=True)
class Look:
    """What one look at the runs found: the newest finished signal run, a later one that did not finish, the chart of
    the former if it was wanted, or why there is none."""

    run: Run | None
    newer: Run | None
    figure: go.Figure | None = None
    trouble: str = ""


def look(charted: str | None = None) -> Look:
    """Look at the runs; the chart is drawn unless it is that of the run `charted`, which is on the page already."""
    signals = [run for run in past_runs() if run.record["name"] == "signal"]
    done = next((run for run in signals if run.record["status"] == "done"), None)
    newer = signals[0] if signals and signals[0] is not done else None
    if done is None or done.folder.name == charted:
        return Look(done, newer)
    try:
        return Look(done, newer, chart(done))
    except Exception as error:  # noqa: BLE001  the signal is shown all the same, and the reason in place of the chart
        return Look(done, newer, trouble=worded(error))


def chart(run: Run) -> go.Figure:
    """Price and volume of the last bars of the source that `run` read. Raises `InputError` for one that needs a network."""
    parameters = run.record["parameters"]
    source = str(parameters["source"])
    if source.partition(":")[0] not in LOCAL or ":" not in source:
        raise InputError(f"The dashboard asks no exchange: {source} cannot be read here, store:{source} can.")
    candles = load_candles(source, parameters["timeframe"], symbol=parameters["symbol"]).iloc[-BARS:]
    return price(candles, title=f"Last {len(candles)} bars")


def worded(error: Exception) -> str:
    """An error in one line; what btclab raises on purpose needs no type."""
    return str(error) if isinstance(error, BtclabError) else f"{type(error).__name__}: {error}"


class Pulse(anywidget.AnyWidget):
    """The kernel's sign of life; the page itself says so when it stops (see pulse.js)."""

    _esm = HERE / "pulse.js"
    beat = traitlets.Int(0).tag(sync=True)
    limit_s = traitlets.Float().tag(sync=True)


class Dashboard:
    """`Dashboard().show()` in a notebook, under Voilà or in JupyterLab."""

    _task: ClassVar[asyncio.Task[None] | None] = None  # one per kernel, and held here: asyncio keeps no task alive

    def __init__(self) -> None:
        self._charted: str | None = None
        self._notes = ""
        self.refresh_s = settings().dashboard.refresh_s
        self.pulse = Pulse(limit_s=SILENT_REFRESHES * self.refresh_s)
        self.head, self.notes, self.signal, self.account = (widgets.HTML() for _ in range(4))
        self.chart = widgets.Box()
        parts = {
            "pulse": self.pulse,
            "head": self.head,
            "notes": self.notes,
            "chart": self.chart,
            "signal": self.signal,
            "account": self.account,
        }
        for name, part in parts.items():
            part.add_class(f"btclab-{name}")
        # In the page and not in the Pulse, which loads last: until then the page would stand there naked.
        style = widgets.HTML(
            f"<style>{(HERE / 'page.css').read_text(encoding='utf-8')}</style>", layout={"display": "none"}
        )
        self.page = widgets.Box([style, *parts.values()])
        self.page.add_class("btclab-page")

    def show(self) -> None:
        """Display the page and keep it up to date for as long as the kernel lives."""
        try:
            self.paint(look())
        except Exception as error:  # noqa: BLE001  the page says why it is empty, and tries again
            self.complain(error)
        display(self.page)
        if Dashboard._task is not None:
            Dashboard._task.cancel()
        Dashboard._task = asyncio.get_running_loop().create_task(self.keep_fresh())

    async def keep_fresh(self) -> None:
        """Look again every `refresh_s`, for ever."""
        while True:
            await asyncio.sleep(self.refresh_s)
            try:
                self.paint(await asyncio.to_thread(look, self._charted))
            except Exception as error:  # noqa: BLE001  an exception in a task is seen nowhere unless the page shows it
                self.complain(error)
            self.pulse.beat += 1

    def paint(self, found: Look) -> None:
        """Put what was found on the page."""
        now = pd.Timestamp.now("UTC")
        run = found.run
        for part in (self.chart, self.signal, self.account):
            part.layout.display = "none" if run is None else None
        self._notes = cards.notes(run, found.newer, now) + ("" if run else cards.empty())
        self.head.value, self.notes.value = cards.head(run, now), self._notes
        if run is None:
            return
        self.signal.value, self.account.value = cards.signal(run), cards.account(run)
        if found.figure is not None:
            self._replace_chart(_as_widget(found.figure), run.folder.name)
        elif found.trouble:
            words = widgets.HTML(cards.no_chart(found.trouble))
            words.add_class("btclab-words")
            self._replace_chart(words, None)

    def complain(self, error: Exception) -> None:
        """Say what went wrong above what was found before, which stays."""
        self.notes.value = cards.trouble(worded(error), pd.Timestamp.now("UTC")) + self._notes

    def _replace_chart(self, widget: Any, charted: str | None) -> None:
        before, self.chart.children = self.chart.children, [widget]
        self._charted = charted
        for old in before:
            old.close()


def _as_widget(figure: go.Figure) -> go.FigureWidget:
    """`figure`, whole, as a widget as large as its place: changes before the browser connects would be lost."""
    figure.update_layout(autosize=True, height=None)
    widget = go.FigureWidget(figure)
    widget._config = {"responsive": True, "displaylogo": False}
    return widget
