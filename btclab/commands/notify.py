"""`btclab notify`: try the channels, see what is told, see what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from btclab.commands import printing
from btclab.commands.printing import plain
from btclab.errors import InputError

if TYPE_CHECKING:
    from btclab.operations.outbox import Outbox

app = typer.Typer(
    no_args_is_help=True, help="Discord, Telegram, e-mail, Slack, …: try the channels; see what is told and what waits."
)


@app.command(epilog="Example: [bold]btclab notify test --channel discord[/bold]")
def test(
    channel: Annotated[str | None, typer.Option(help="Only this channel. Default: every one in .env.")] = None,
) -> None:
    """Send a test message to the channels and say what became of it. Exit code 1 if one failed."""
    import pandas as pd

    from btclab.operations.messages import render
    from btclab.operations.notify import open_channels
    from btclab.settings import settings

    rules = settings().notifications
    channels = open_channels(rules, channel)
    if not channels:
        raise InputError(f"No channel is configured.\n{_how()}")
    console, failed = printing.console(), False
    for one in channels:
        with console.status(f"sending to {one.name} …"):
            outcome = one.deliver(render("test", {"timestamp": pd.Timestamp.now("UTC")}))
        failed |= not outcome.delivered
        said = "[green]delivered[/green]" if outcome.delivered else f"[red]failed[/red] {plain(outcome.why)}"
        console.print(f"{one.name} ({one.service}): {said}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@app.command("list", epilog="Example: [bold]btclab notify list[/bold]")
def list_kinds() -> None:
    """List the channels with their state, and what is told where."""
    from rich.table import Column, Table

    from btclab.operations.messages import EVENTS
    from btclab.operations.notify import check_rules, cooldown_min, open_channels
    from btclab.settings import config_path, settings

    rules, console = settings().notifications, printing.console()
    channels = open_channels(rules)
    check_rules(rules, {one.name for one in channels})
    table = Table("channel", "service", Column("state", overflow="fold"))
    for one in channels:
        table.add_row(one.name, one.service, _state(one.name))
    console.print(
        table if channels else f"No channel is configured.\n{_how()}", highlight=False, soft_wrap=not channels
    )
    table = Table("kind", "told", "cooldown", "quiet hours", Column("what", overflow="fold"))
    for kind, event in EVENTS.items():
        if kind != "test":
            minutes, chosen = cooldown_min(kind, rules), rules.channels.get(kind)
            told = kind not in rules.off and (chosen is None or chosen)
            table.add_row(
                kind,
                ", ".join(chosen or ("everywhere",)) if told else "no",
                f"{minutes:g} min" if minutes else "–",
                "told" if kind in rules.urgent else "kept",
                plain(event.title),
            )
    console.print(table)
    quiet = f"{rules.quiet_hours} ({rules.time_zone})" if rules.quiet_hours else "none"
    console.print(f"Quiet hours: {quiet}. At most {rules.per_minute} messages a minute and channel.", highlight=False)
    console.print(f"Change this in the section \\[notifications] of {config_path()}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: [bold]btclab notify queue[/bold]")
def queue(clear: Annotated[bool, typer.Option("--clear", help="Give up what waits.")] = False) -> None:
    """Show the messages that are not delivered yet, and why."""
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from rich.table import Column, Table

    from btclab.settings import settings

    console, outbox, zone = printing.console(), _outbox(), ZoneInfo(settings().notifications.time_zone)
    if clear:
        console.print(f"{outbox.clear() if outbox else 0:,} messages given up.")
        return
    rows = outbox.all_waiting() if outbox else []
    if not rows:
        console.print("No message waits.")
        return
    table = Table("channel", "of", "kind", Column("message", overflow="fold"))
    for row in rows:
        told = f"{row.message.title}: {row.message.body}"
        table.add_row(row.channel, f"{datetime.fromtimestamp(row.at, zone):%d %b %H:%M}", row.message.kind, plain(told))
    console.print(table)
    for name in sorted({row.channel for row in rows}):
        console.print(f"{name}: {_state(name)}", highlight=False, soft_wrap=True)


def _how() -> str:
    from btclab.settings import dotenv_path

    variable = "BTCLAB_NOTIFICATIONS__SECRET_URLS__"
    return (
        f"Put a line for each into {dotenv_path()}, under a name of your own:\n"
        f"  {variable}DISCORD=https://discord.com/api/webhooks/<ID>/<TOKEN>    (Server settings, Integrations, Webhooks)\n"
        f"  {variable}TELEGRAM=tgram://<BOT_TOKEN>/<CHAT_ID>\n"
        f"  {variable}SLACK=https://hooks.slack.com/services/<A>/<B>/<C>\n"
        f"  {variable}MAIL=mailtos://<USER>:<PASSWORD>@<PROVIDER>\n"
        "All others: https://appriseit.com/services/  Then try it: btclab notify test"
    )


def _outbox() -> Outbox | None:
    """The queue, if there is one: to look must not make it."""
    from btclab.operations.notify import folder_of, outbox_in
    from btclab.settings import settings

    own = settings()
    found = outbox_in(folder_of(own), own.notifications)
    return found if found.path.exists() else None


def _state(channel: str) -> str:
    import time

    outbox = _outbox()
    state = outbox.state(channel) if outbox else None
    if state is None or not state.failures:
        return "well" if state else "not used yet"
    tried = f"failed {state.failures}×: {state.why}; tried again in {max(0.0, state.due - time.time()):.0f} s"
    return plain(tried + (f"; {state.lost:,} messages given up" if state.lost else ""))
