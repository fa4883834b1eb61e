"""How commands write to a terminal, a pipe and a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table


def console() -> Console:
    """Standard output; a pipe has no width, so that nothing is cut there."""
    from rich.console import Console

    out = Console()
    if not out.is_terminal:
        out.width = 240
    return out


def plain(text: object) -> str:
    """`text` without a meaning to rich."""
    from rich.markup import escape

    return escape(str(text))


def plain_row(row: pd.Series) -> dict[str, Any]:
    """A row as JSON values; what is missing is None."""
    import pandas as pd

    values: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, pd.Timestamp):
            values[str(name)] = value.isoformat()
        elif isinstance(value, str | list | dict):
            values[str(name)] = value
        else:
            values[str(name)] = None if pd.isna(value) else value.item() if hasattr(value, "item") else value
    return values


def table(rows: list[dict[str, Any]], names: list[str], title: str | None = None) -> Table:
    """The columns `names` of `rows`, those left out in which no row has a value; numbers to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    shown = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    numbers = {name for name in shown if all(isinstance(row.get(name), int | float | None) for row in rows)}
    columns = (Column(name, justify="right" if name in numbers else "left", overflow="fold") for name in shown)
    drawn = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        drawn.add_row(*(plain(_cell(name, row.get(name))) for name in shown))
    return drawn


DIGITS = {"quantity": ".8g", "remaining": ".8g", "exposure": ".4g", "trail": ".4g"}  # of what is not money


def _cell(name: str, value: Any) -> str:
    """A value of the column `name` as a person reads it."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return str(value.get("text", value))
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:{DIGITS[name] if name in DIGITS else ',.2f' if abs(value) >= 1 or not value else '.4g'}}"
    if isinstance(value, str) and len(value) > 16 and value[4] == "-" and value[10] == "T":
        return value[:16].replace("T", " ")
    return str(value)
