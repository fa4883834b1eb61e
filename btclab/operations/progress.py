"""What the terminal shows while notebooks run: which stage, which cell, how long."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from btclab.operations.runs import Run, Step


class StageProgress:
    """One line a stage: a spinner, the cells done, the section that runs, the time. Without a terminal, a line when done."""

    def __init__(self, console: Console, stages: Sequence[str]) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.fields[stage]:<9}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks = {stage: self._progress.add_task("", stage=stage, total=None, start=False) for stage in stages}

    def __enter__(self) -> StageProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, stage: str, step: Step) -> None:
        """A cell of `stage` begins."""
        task = self._tasks[stage]
        if not self._progress.tasks[task].started:
            self._progress.start_task(task)
        self._progress.update(task, total=step.cells, completed=step.cell - 1, description=step.heading)

    def done(self, stage: str, run: Run) -> None:
        """`stage` is finished."""
        task = self._tasks[stage]
        total = self._progress.tasks[task].total or 1
        self._progress.update(task, total=total, completed=total, description=f"[dim]{run.record['seconds']} s[/dim]")
        if not self._console.is_terminal:
            self._console.print(f"{stage}: {run.record['status']} after {run.record['seconds']} s", highlight=False)
