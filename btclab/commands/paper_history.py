"""`btclab paper history`: what was done, table by table, and all of it as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from btclab.commands import printing
from btclab.commands.paper_ledger import Json, Url, opened, url_of
from btclab.commands.paper_requests import refused
from btclab.errors import unknown

app = typer.Typer()
NARROW = 150  # columns of a terminal; below it what can be reckoned from the rest is left to --json and --export
LEFT_OUT = {
    "fills": ("value", "decided", "exposure", "maker"),
    "trades": ("quantity", "entry_price", "exit_price", "gross_pnl", "fees", "bars_open"),
    "orders": ("decided", "lifetime"),
}
TABLES = ("fills", "trades", "orders", "events", "equity", "signals", "movements")


@app.command(epilog="Example: [bold]btclab paper history fills --last 20[/bold]")
def history(
    what: Annotated[str, typer.Argument(help=f"{', '.join(TABLES)}.")] = "fills",
    last: Annotated[int, typer.Option(help="So many rows, the newest.", min=1)] = 20,
    export: Annotated[Path | None, typer.Option(help="Write all tables into this new folder.")] = None,
    format: Annotated[str, typer.Option(help="Of the export: csv, parquet or json.")] = "csv",
    json_: Json = False,
    ledger: Url = None,
) -> None:
    """Show what was done: fills, closed trades, orders with their status, their events with every refusal, equity, signals."""
    if what not in TABLES:
        raise unknown("table", what, TABLES)
    with opened(url_of(ledger)) as held:
        if export is not None:
            typer.echo(f"Written: {held.export(export, format)}")
            return
        name = {"equity": "equity_curve", "signals": "signals_table"}.get(what, f"{what.removesuffix('s')}_table")
        frame = getattr(held, name)(last=last)
        rows = [printing.plain_row(row) for _, row in (frame if what == "trades" else frame.reset_index()).iterrows()]
        if what == "events":
            rows = [*rows, *refused(held)][-last:]
    if json_:
        typer.echo(json.dumps(rows, indent=2, default=str))
    elif rows:
        console = printing.console()
        if what == "fills":  # the order of a target says nothing that the row does not
            rows = [{**row, "order": "" if row["reason"] == "target" else row["order"]} for row in rows]
        hidden = LEFT_OUT.get(what, ()) if console.width < NARROW else ()
        console.print(printing.table(rows, [name for name in rows[0] if name not in hidden]))
    else:
        printing.console().print(f"No {what} yet.")
