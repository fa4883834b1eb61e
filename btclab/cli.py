"""The command line: a thin shell. Heavy packages are imported inside the commands, so that `--help` is quick."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from btclab.commands import audit, cache, data, fetch, importing, models, notify, paper, printing
from btclab.errors import BtclabError, DataUnavailable, InputError, NotListed

if TYPE_CHECKING:
    from btclab.operations.pipeline import Choice
    from btclab.operations.runs import Run

DEBUG = "--debug"


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Bitcoin research with which you cannot fool yourself: causal, calibrated, after costs, reproducible.",
    epilog=f"Example: [bold]btclab pipeline --source simulated:1[/bold].  Add {DEBUG} to any command to see tracebacks.",
)

Source = Annotated[
    str | None,
    typer.Option(
        help="binance, kraken, … · store:binance · file:PATH · simulated:SEED. Default: the exchanges of the settings in turn."
    ),
]
Timeframe = Annotated[str, typer.Option(help="Length of a bar: 1m … 1d.")]
Symbol = Annotated[str | None, typer.Option(help="Market, e.g. BTC/USDT. Default: that of the settings.")]
Parameter = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", help="A parameter of the notebook, as name=value; may be repeated."),
]


app.command(epilog="Example: [bold]btclab fetch --since 2017-08-17[/bold]")(fetch.fetch)
app.command("import", epilog=importing.EPILOG)(importing.import_file)
app.command(epilog=audit.EPILOG)(audit.audit)
app.add_typer(data.app, name="data")
app.add_typer(cache.app, name="cache")
app.add_typer(models.app, name="models")
app.add_typer(notify.app, name="notify")
app.add_typer(paper.app, name="paper")


def _print_version(asked: bool) -> None:
    if asked:
        import btclab

        typer.echo(f"btclab {btclab.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show tracebacks.")] = False,
) -> None:
    """Options that stand before the command."""


@app.command(epilog="Example: [bold]btclab pipeline --source file:candles.parquet --timeframe 1h[/bold]")
def pipeline(source: Source = None, timeframe: Timeframe = "1h", symbol: Symbol = None) -> None:
    """Train, backtest and signal on the same candles; prints where the three reports lie.

    Without --source and without any data to be had, it carries on with the simulated market and says so.
    """
    from rich.console import Console

    from btclab.operations.pipeline import STAGES, run_pipeline
    from btclab.operations.progress import StageProgress

    console, market = Console(), _symbol(symbol)
    choice = _choose(console, source, timeframe, market)
    with StageProgress(console, STAGES) as progress:
        runs = run_pipeline(choice, timeframe, market, progress.step, progress.done)
    _print_reports(console, runs)


@app.command(epilog="Example: [bold]btclab train --source simulated:1?edge=0.05 -p seed=3[/bold]")
def train(
    source: Source = None, timeframe: Timeframe = "1h", symbol: Symbol = None, parameter: Parameter = None
) -> None:
    """Train a network, measure it out of sample, store the checkpoint, write the training report."""
    _run_on_candles("train", source, timeframe, symbol, parameter)


@app.command(epilog="Example: [bold]btclab backtest --source store:binance -p fee_bps=7.5[/bold]")
def backtest(
    source: Source = None, timeframe: Timeframe = "1h", symbol: Symbol = None, parameter: Parameter = None
) -> None:
    """Trade a checkpoint's forecasts on bars it has not seen, after costs; write the backtest report."""
    _run_on_candles("backtest", source, timeframe, symbol, parameter)


@app.command(epilog="Example: [bold]btclab signal --source binance[/bold]")
def signal(
    source: Source = None, timeframe: Timeframe = "1h", symbol: Symbol = None, parameter: Parameter = None
) -> None:
    """Forecast from the latest closed bar: the signal, its reasons, what the paper broker would do."""
    _run_on_candles("signal", source, timeframe, symbol, parameter)


@app.command(epilog="Example: [bold]btclab run backtest -p source=simulated:1 -p enter=0.55[/bold]")
def run(
    name: Annotated[
        str | None, typer.Argument(help="A notebook in notebooks/reports/; none: list them with their parameters.")
    ] = None,
    parameter: Parameter = None,
) -> None:
    """Run one report notebook through papermill with its own parameters."""
    from rich.console import Console

    from btclab.operations.progress import StageProgress
    from btclab.operations.runs import run_notebook

    console = Console()
    if name is None:
        _print_notebooks(console)
        return
    given = _parse(parameter)
    _check_strategy(given)
    with StageProgress(console, (name,)) as progress:
        finished = run_notebook(name, given, lambda step: progress.step(name, step))
        progress.done(name, finished)
    _print_reports(console, [finished])


@app.command(epilog="Example: [bold]btclab runs --most 5[/bold]")
def runs(most: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20) -> None:
    """List past runs with their status, source and report."""
    from rich.table import Column, Table

    from btclab.operations.runs import past_runs

    found = past_runs()[:most]
    table = Table(Column("run", overflow="fold"), "status", "took", Column("source", overflow="fold"), "report")
    for past in found:
        status = past.record["status"]
        colour = {"done": "green", "failed": "red"}.get(status, "yellow")
        took = f"{past.record['seconds']} s" if "seconds" in past.record else "–"
        there = "yes" if past.report.exists() else "–"
        table.add_row(past.folder.name, f"[{colour}]{status}[/]", took, past.source, there)
    console = printing.console()
    console.print(table if found else "No runs yet. Make one: btclab pipeline")
    if found:
        console.print(
            f"Reports: {found[0].folder.parent / 'RUN' / found[0].report.name}", soft_wrap=True, highlight=False
        )


@app.command(epilog="Example: [bold]btclab dashboard --port 8866[/bold]")
def dashboard(
    port: Annotated[
        int | None,
        typer.Option(help="Port on 127.0.0.1; 0 takes a free one. Default: that of the settings.", min=0, max=65535),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(envvar="BTCLAB_DASHBOARD_PASSWORD", help="Password to ask for. Default: a new one, printed here."),
    ] = None,
    no_password: Annotated[bool, typer.Option("--no-password", help="Let every user of this machine in.")] = False,
) -> None:
    """Serve the dashboard with Voilà on 127.0.0.1."""
    from btclab.operations.serve import serve_dashboard

    if password is not None and no_password:
        raise InputError("--password and --no-password exclude each other; give one.")
    serve_dashboard(port, password, no_password)


@app.command(epilog="Example: [bold]btclab doctor[/bold]")
def doctor(
    accelerators: Annotated[
        bool, typer.Option("--accelerators", help="Measure every device and precision that this machine has.")
    ] = False,
) -> None:
    """Check Python, packages, folders, disk, accelerators and which exchanges answer."""
    from rich.console import Console
    from rich.table import Column, Table

    from btclab.operations.doctor import examine

    console = Console()
    if accelerators:
        _print_accelerators(console)
        return
    with console.status("looking …"):
        findings = examine()
    table = Table("check", Column("finding", overflow="fold"), "state", Column("what to do", overflow="fold"))
    for finding in findings:
        colour = {"ok": "green", "note": "yellow", "bad": "red"}[finding.state]
        table.add_row(finding.check, finding.finding, f"[{colour}]{finding.state}[/]", finding.remedy)
    console.print(table)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def _print_accelerators(console: Any) -> None:
    from rich.table import Table

    from btclab.forecasting.accelerate import choose, measure

    table = Table("device", "precision", "targets trained/s", "bars forecast/s", "differs by", "trains")
    widths = (50, 64, 100)
    taken = {width: choose(hidden=width) for width in widths}
    with console.status("training two layers of 100 on each …"):
        for one in measure():
            choice = one.choice
            chosen = ", ".join(f"2×{width}" for width in widths if taken[width] == choice)
            name = f"{choice.device} with Intel's extension" if choice.ipex else choice.device
            table.add_row(
                name, choice.precision, f"{one.trained:,.0f}", f"{one.forecast:,.0f}", f"{one.difference:.4f}", chosen
            )
    console.print(table)
    console.print(
        "Two layers of 100, one thread. 'differs by': largest deviation of a forecast from that of float32 on the processor, in "
        "volatilities. 'trains': the networks that train so by default. Forecasts are made on the processor in float32, so that "
        "they are the same everywhere."
    )


def _run_on_candles(
    name: str, source: str | None, timeframe: str, symbol: str | None, parameter: list[str] | None
) -> None:
    from rich.console import Console

    from btclab.operations.pipeline import facts_of
    from btclab.operations.progress import StageProgress
    from btclab.operations.runs import check_parameters, run_notebook

    console, given = Console(), _parse(parameter)
    check_parameters(name, given)
    _check_strategy(given)
    source, timeframe = given.get("source", source), given.get("timeframe", timeframe)  # -p says the same as the option
    market = given.get("symbol", _symbol(symbol))
    choice = _choose(console, source, timeframe, market, simulate=name == "train")
    given |= {"source": choice.source, "timeframe": timeframe, "symbol": market}
    with StageProgress(console, (name,)) as progress:
        finished = run_notebook(name, given, lambda step: progress.step(name, step), **facts_of(choice))
        progress.done(name, finished)
    _print_reports(console, [finished])


def _check_strategy(given: dict[str, Any]) -> None:
    """A wrong name of a strategy, or of its parameters, is told at once, not by a notebook seconds later."""
    if "strategy" in given:
        from btclab.trading.strategies import strategy

        strategy(given["strategy"])


def _choose(console: Any, source: str | None, timeframe: str, symbol: str, simulate: bool = True) -> Choice:
    """Settle on a source; says which failed, and loudly if only the simulated market is left."""
    from btclab.operations.pipeline import choose_source

    with console.status("finding candles …"):
        choice = choose_source(source, timeframe, symbol, simulate)
    for error in choice.errors:
        console.print(f"[yellow]source failed[/yellow] {error}", soft_wrap=True, highlight=False)
    if source is None and choice.source.startswith("simulated"):
        said = "No source could be reached and nothing is stored: using the SIMULATED MARKET."
        console.print(f"[bold red]{said}[/bold red]", soft_wrap=True)
    console.print(f"candles  {choice.source} · {symbol} · {timeframe}", soft_wrap=True, highlight=False)
    return choice


def _parse(parameters: list[str] | None) -> dict[str, Any]:
    pairs = {}
    for text in parameters or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"Parameter {text!r} is not of the form name=value: write -p {name or 'name'}=VALUE.")
        pairs[name] = value
    return pairs


def _symbol(symbol: str | None) -> str:
    from btclab.settings import settings

    return symbol or settings().market.symbol


def _print_reports(console: Any, finished: list[Run]) -> None:
    console.print()
    for one in finished:
        console.print(f"[bold]{one.record['name']:<9}[/bold] {one.report}", soft_wrap=True, highlight=False)


def _print_notebooks(console: Any) -> None:
    from rich.table import Table

    from btclab.operations.runs import notebook_names, parameters_of

    for name in notebook_names():
        table = Table("parameter", "default", "type", "meaning", title=f"btclab run {name}", title_justify="left")
        for key, known in parameters_of(name).items():
            table.add_row(key, str(known["default"]), known["type"], known["help"])
        console.print(table)


def main() -> None:
    """Entry point of the command `btclab`. Exit codes: 0 done, 1 the work failed, 2 the input was wrong.

    `--debug` may stand anywhere.
    """
    debug = DEBUG in sys.argv
    sys.argv = [word for word in sys.argv if word != DEBUG]
    try:
        app()
    except BtclabError as error:
        advice = "\nSee what answers: btclab doctor. To work without a network: --source simulated:1"
        unreachable = isinstance(error, DataUnavailable) and not isinstance(error, NotListed)
        _fail(f"{error}{advice if unreachable else ''}", error.exit_code, debug)
    except Exception as error:  # noqa: BLE001  the last net: the user sees it, and with --debug where it came from
        told = f"{type(error).__name__}: {error}\nThis is a fault in btclab; run again with {DEBUG} to see where."
        _fail(told, 1, debug)


def _fail(message: str, code: int, debug: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if debug:
        console.print_exception()
    console.print(Text.assemble(("Error: ", "bold red"), message), soft_wrap=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
