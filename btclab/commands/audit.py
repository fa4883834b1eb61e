"""`btclab audit`: does a feature, or a checkpoint, know the future? Does a warm-up last long enough?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from btclab.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from btclab.features.audit import Audit

EPILOG = "Example: [bold]btclab audit --source store:binance --spec mine.toml[/bold]"
CUTS = 50
STARTS = 50


def audit(
    source: Annotated[
        str | None,
        typer.Option(
            help="binance, … · store:binance · file:PATH · simulated:SEED. Default: the exchanges of the settings in turn."
        ),
    ] = None,
    spec: Annotated[
        str | None,
        typer.Option(help="default, core, technical, or a TOML file. Default: default, or the checkpoint's."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint in models/, or production: its features, forecasts, scaling, selection, weights, calibration."
        ),
    ] = None,
    cuts: Annotated[
        int | None, typer.Option(help=f"Bars after which the future is altered. Default: {CUTS}.", min=1)
    ] = None,
    warmup: Annotated[
        bool,
        typer.Option(
            "--warmup", help="Measure warm-ups instead: from how many bars on does the beginning no longer matter?"
        ),
    ] = False,
    timeframe: Annotated[str, typer.Option(help="Length of a bar: 1m … 1d.")] = "1h",
    symbol: Annotated[str | None, typer.Option(help="Market, e.g. BTC/USDT. Default: that of the settings.")] = None,
    seed: Annotated[int, typer.Option(help="Which cuts are drawn.", min=0)] = 0,
) -> None:
    """Recompute features with the future removed and replaced: what changes has looked ahead, and is named.

    Context series are those that are stored; none beside the simulated market. Exit code 1 if anything looks ahead, or a
    declared warm-up is too short.
    """
    from rich.console import Console

    from btclab.context.join import stored_context
    from btclab.features.spec import FeatureSpec, resolve_spec
    from btclab.forecasting.checkpoints import load_checkpoint
    from btclab.market.sources import load_candles

    console, waiting = Console(), Console(stderr=True)
    if not console.is_terminal:  # a pipe has no width: cut nothing
        console.width = 200
    if checkpoint is not None and spec is not None and warmup:
        raise InputError("--warmup measures the features of --spec or of --checkpoint; give one of the two.")
    held = None if checkpoint is None else load_checkpoint(checkpoint)
    chosen: FeatureSpec = held.spec if held is not None else resolve_spec(spec or "default")
    with waiting.status("finding candles …"):
        candles = load_candles(source, timeframe, symbol=symbol)
        series = stored_context(candles)
    _print_subject(console, candles, chosen)
    if warmup:
        ok = _warmups(console, candles, chosen, series, cuts or STARTS, seed, waiting.is_terminal)
    else:
        from btclab.features.audit import audit_features

        found = audit_features(candles, chosen, series, cuts=cuts or CUTS, seed=seed, progress=waiting.is_terminal)
        ok = _print_audit(console, found)
        if empty := len(chosen.columns) - found.checked - len(set(found.unverified) & set(chosen.columns)):
            console.print(
                f"{empty} column{'s hold' if empty > 1 else ' holds'} no values here: nothing to audit.",
                highlight=False,
            )
        if held is not None:
            from btclab.forecasting.audit import audit_checkpoint

            more = audit_checkpoint(held, candles, series, spec, seed=seed, progress=waiting.is_terminal)
            ok &= _print_audit(console, more)
    if not ok:
        raise typer.Exit(1)


def _print_subject(console: Console, candles: pd.DataFrame, spec: Any) -> None:
    for note in candles.attrs.get("notes") or []:
        console.print(f"[yellow]note[/yellow] {note}", soft_wrap=True, highlight=False)
    kind = "[bold red]SIMULATED MARKET[/] " if candles.attrs.get("simulated") else ""
    span = f"{candles.index[0]:%Y-%m-%d %H:%M} to {candles.index[-1]:%Y-%m-%d %H:%M} UTC, {len(candles):,} bars"
    console.print(f"{kind}candles   {candles.attrs.get('source')} · {span}", soft_wrap=True, highlight=False)
    console.print(f"features  {spec.name} · {len(spec.columns)} columns", soft_wrap=True, highlight=False)


def _print_audit(console: Console, found: Audit) -> bool:
    """Print the sentence and what is behind it; whether the audit passed."""
    from rich.markup import escape
    from rich.table import Column, Table

    colour = "green" if found.passed else "bold red"
    console.print(f"[{colour}]{escape(str(found))}[/]", soft_wrap=True, highlight=False)
    if not found.passed:
        table = Table(
            Column("looks ahead", overflow="fold"),
            Column("test", overflow="fold"),
            Column("first bar (UTC)", no_wrap=True),
            Column("size", justify="right"),
            title="size: of the largest move, as a share of the column's largest value; ∞: a value came or went",
            title_justify="left",
        )
        for _, row in found.table.iterrows():
            size = "∞" if row["size"] == float("inf") else f"{row['size']:.2g}"
            table.add_row(escape(row["feature"]), escape(row["test"]), f"{row['first_bar']:%Y-%m-%d %H:%M}", size)
        console.print(table)
    for name, why in found.unverified.items():
        console.print(f"[yellow]not verified[/yellow] {escape(name)}: {escape(why)}", soft_wrap=True, highlight=False)
    return found.passed


def _warmups(
    console: Console,
    candles: pd.DataFrame,
    spec: Any,
    series: pd.DataFrame | None,
    starts: int,
    seed: int,
    progress: bool,
) -> bool:
    """Print what is declared too short, or how much is needed; whether all warm-ups last."""
    from rich.table import Column, Table

    from btclab.features.audit import audit_warmup

    found = audit_warmup(candles, spec, series, starts, seed, progress)
    short = found[~found["passed"]]
    table = Table(
        Column("feature", overflow="fold"),
        Column("declared (bars)", justify="right"),
        Column("measured", justify="right"),
    )
    shown = short if len(short) else found.sort_values("declared", ascending=False).head(10)
    for _, row in shown.iterrows():
        measured = "never" if row["measured"] == float("inf") else f"{row['measured']:,.0f}"
        table.add_row(str(row["feature"]), f"{row['declared']:,}", measured)
    if len(short):
        said = f"[bold red]Warm-up audit FAILED: {len(short)} of {len(found)} features need more bars than they declare.[/]"
    else:
        said = f"[green]Warm-up audit passed: {len(found)} features need no more bars than they declare, from {starts} starts.[/]"
    console.print(said, soft_wrap=True, highlight=False)
    console.print(table)
    if not len(short):
        console.print("The longest are shown.", highlight=False)
    return not len(short)
