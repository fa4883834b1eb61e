"""`btclab models`: the checkpoints that are stored, and which of them is used."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from btclab.commands.printing import console

app = typer.Typer(no_args_is_help=True, help="List, show, promote and remove trained checkpoints.")
Name = Annotated[str, typer.Argument(help="Name of a checkpoint, as `btclab models list` shows it, or a pointer.")]


@app.command("list", epilog="Example: [bold]btclab models list[/bold]")
def list_() -> None:
    """All checkpoints, newest first, with their score out of sample: that of the probability of up, where even odds have 0."""
    from rich.table import Column, Table

    from btclab.forecasting.checkpoints import stored_checkpoints

    table = Table(
        Column("checkpoint", overflow="fold"),
        "variant",
        "market",
        "bars",
        "horizons",
        "score",
        "IC",
        "coverage",
        "used as",
        Column("state", overflow="fold"),
    )
    for row in stored_checkpoints().fillna("").to_dict("records"):
        facts = [str(row[name]) for name in ("name", "variant", "market", "timeframe", "horizons")]
        figures = [_number(row["score"], "+.4f"), _number(row["ic"], "+.4f"), _number(row["coverage"], ".1%")]
        table.add_row(*facts, *figures, f"[green]{row['pointers']}[/green]", f"[red]{row['state']}[/red]")
    console().print(table if table.row_count else "No checkpoints yet. Train one: btclab train")


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, float) else "–"


@app.command(epilog="Example: [bold]btclab models show production[/bold]")
def show(name: Name = "production") -> None:
    """What a checkpoint was made from, what it is worth, and what it reads."""
    from rich.console import Console
    from rich.table import Table

    from btclab.forecasting.checkpoints import load_checkpoint, score

    one = load_checkpoint(name)
    metrics = one.metrics
    rows = {
        "checkpoint": one.name,
        "variant": one.variant + (f" of {len(one.members)}" if len(one.members) > 1 else ""),
        "market": f"{one.market['symbol']} {one.market['timeframe']} from {one.market['source']}",
        "horizons": ", ".join(map(str, one.horizons)) + (" bar" if one.horizons == (1,) else " bars"),
        "created": one.provenance["created"][:16],
        "trained on": f"{one.folds['train_start'][:16]} to {one.folds['train_stop'][:16]}",
        "tested on": f"{one.folds['test_start'][:16]} to {one.folds['test_stop'][:16]}, {metrics['bars']:,} bars",
        "score": f"{score(one):+.4f} (Brier skill of the probability of up; 0: even odds)",
        "information coefficient": f"{metrics['ic']:+.4f}, 95 % interval {metrics['ic_low']:+.4f} … {metrics['ic_high']:+.4f}",
        "90 % interval covered": f"{metrics['coverage_90']:.1%} of the outcomes",
        "calibration error": f"{metrics['ece']:.4f}",
        "look-ahead audit": one.audit["sentence"],
        "features": ", ".join(one.spec.columns),
        "ran on": f"{one.provenance['ran_on']['device']}, {one.provenance['ran_on']['precision']}",
        "seed, data": f"{one.options['seed']}, {one.provenance['fingerprint']}",
    }
    table = Table(show_header=False)
    for key, value in rows.items():
        table.add_row(key, value)
    Console().print(table)


@app.command(epilog="Example: [bold]btclab models promote 20260101T120000_quantile_1h_a1b2c3[/bold]")
def promote(
    name: Name,
    pointer: Annotated[str, typer.Option("--as", help="Pointer: production (what is traded) or best.")] = "production",
    force: Annotated[bool, typer.Option("--force", help="Even if it scored worse than the one it replaces.")] = False,
) -> None:
    """Use a checkpoint from now on; it must not have scored worse out of sample than the one it replaces."""
    from btclab.errors import CheckpointError
    from btclab.forecasting.checkpoints import promote as point
    from btclab.forecasting.checkpoints import refusal, resolved

    found = resolved(name)
    if not point(found, pointer, force):
        raise CheckpointError(f"Not promoted: {refusal(found, pointer)}")
    typer.echo(f"{pointer} now points to {found}.")


@app.command(epilog="Example: [bold]btclab models remove 20260101T120000_quantile_1h_a1b2c3[/bold]")
def remove(name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete a checkpoint for good."""
    from btclab.forecasting.checkpoints import remove_checkpoint, resolved

    found = resolved(name)
    if not yes:
        typer.confirm(f"Delete the checkpoint {found} for good?", abort=True)
    remove_checkpoint(found)
    typer.echo(f"Removed {found}.")
