"""`btclab cache`: what the cache holds, and cleaning it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from btclab.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Remote answers kept on disk: statistics, cleaning, export.")


@app.command(epilog="Example: [bold]btclab cache stats[/bold]")
def stats() -> None:
    """Show entries, bytes, hit rate and age by source."""
    import pandas as pd
    from rich.console import Console
    from rich.table import Column, Table

    from btclab.market.cache import cache_stats, cache_warnings, folder
    from btclab.market.candles import lapse

    found = cache_stats()
    console = Console()
    if found.empty:
        console.print("The cache is empty. It fills with the answers of exchanges and other sources: btclab fetch")
        return
    numbers = ("entries", "kB", "hits", "misses", "stale", "hit rate", "oldest", "newest")
    table = Table(
        "source", *(Column(name, justify="right") for name in numbers), title=str(folder()), title_justify="left"
    )

    def share(rate: float) -> str:
        return "–" if pd.isna(rate) else f"{100 * rate:.0f} %"

    def age(seconds: float) -> str:
        return "–" if pd.isna(seconds) else lapse(pd.Timedelta(seconds=seconds))

    for name, row in found.iterrows():
        counts = [f"{int(row[column]):,}" for column in ("hits", "misses", "stale")]
        table.add_row(
            str(name),
            f"{int(row['entries']):,}",
            f"{row['bytes'] / 1e3:,.1f}",
            *counts,
            share(row["hit_rate"]),
            age(row["oldest_s"]),
            age(row["newest_s"]),
        )
    asked = found[["hits", "misses", "stale"]].sum()
    total = f"{int(found['entries'].sum()):,}", f"{found['bytes'].sum() / 1e3:,.1f}"
    rate = asked["hits"] / asked.sum() if asked.sum() else float("nan")
    table.add_section()
    table.add_row("all", *total, *(f"{int(value):,}" for value in asked), share(rate), "", "")
    console.print(table)
    for warning in cache_warnings(found):
        console.print(f"[yellow]warning[/yellow] {warning}", soft_wrap=True, highlight=False)


@app.command(epilog="Example: [bold]btclab cache clear --source fred[/bold]")
def clear(source: Annotated[str | None, typer.Option(help="Only the answers of this source.")] = None) -> None:
    """Forget answers; they are asked for again when they are needed. Stored candles and series stay."""
    from btclab.market.cache import clear_cache

    gone = clear_cache(source)
    typer.echo(f"{gone:,} answers{f' of {source}' if source else ''} removed.")


@app.command(epilog="Example: [bold]btclab cache optimise[/bold]")
def optimise() -> None:
    """Drop what has expired, give the space back, and ask for what `cache.warm` of the settings names.

    `btclab fetch` does it by itself every `cache.maintenance_h` hours.
    """
    from btclab.operations.upkeep import maintain_cache

    gone, failed = maintain_cache()
    typer.echo(f"{gone['expired']:,} expired and {gone['culled']:,} answers too many removed.")
    for line in failed:
        typer.echo(f"not warmed: {line}")
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: [bold]btclab cache export --format prometheus --output btclab.prom[/bold]")
def export(
    form: Annotated[str, typer.Option("--format", help="json or prometheus (text format).")] = "json",
    output: Annotated[Path | None, typer.Option(help="File to write; default: the terminal.")] = None,
) -> None:
    """Write the statistics for other programs, e.g. the textfile collector of Prometheus' node exporter."""
    from btclab.files import write_atomically
    from btclab.market.cache import export_stats

    text = export_stats(form).rstrip("\n") + "\n"
    if output is None:
        typer.echo(text, nl=False)
    elif output.is_dir():
        raise InputError(f"{output} is a folder; name a file: --output {output / 'btclab.prom'}")
    else:
        write_atomically(output, lambda aside: aside.write_text(text, encoding="utf-8"))
        typer.echo(f"Written to {output}.")
