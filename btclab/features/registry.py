"""What an indicator of btclab's own is: a function of arrays, its defaults, the names of its lines, and its warm-up."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np

Lines = np.ndarray | tuple[np.ndarray, ...]
REQUIRED = inspect.Parameter.empty  # the default of a parameter that has none


@dataclass(frozen=True)
class Indicator:
    """`function` takes arrays [time] by the names of `inputs`, then `parameters`; it gives an array or a tuple of arrays.

    Inputs are candle columns, `times` (open, ns since 1970 UTC) or, where it has another name, a context series. It may
    ask for `per_day`, the number of bars in a day. `lines` are the names of what it gives, with parameters in braces.
    `warmup(**parameters)` is the number of bars before a value no longer depends on where the history begins. `least` says
    how small a parameter may be where that is not 1, for a whole number, or 0.
    """

    name: str
    function: Callable[..., Lines]
    lines: tuple[str, ...]
    warmup: Callable[..., int]
    least: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def _signature(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.function).parameters)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return tuple(name for name, one in self._signature.items() if one.annotation == "np.ndarray")

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults; `REQUIRED` where there is none."""
        others = set(self.inputs) | {"per_day"}
        return {name: one.default for name, one in self._signature.items() if name not in others}

    @cached_property
    def needs_per_day(self) -> bool:
        return "per_day" in self._signature

    def is_whole(self, parameter: str) -> bool:
        return bool(self._signature[parameter].annotation == "int")

    def lowest(self, parameter: str) -> float:
        return self.least.get(parameter, 1 if self.is_whole(parameter) else 0)

    def warmup_of(self, parameters: dict[str, Any], per_day: int) -> int:
        """Warm-up in bars with `parameters`, where a day has `per_day` bars."""
        given = self.parameters | parameters | {"per_day": per_day}
        return int(
            self.warmup(**{name: given[name] for name in inspect.signature(self.warmup).parameters if name in given})
        )

    def line_names(self, parameters: dict[str, Any]) -> list[str]:
        return [line.format(**parameters) for line in self.lines]


INDICATORS: dict[str, Indicator] = {}


def register(
    *lines: str, warmup: Callable[..., int] = lambda: 0, **least: float
) -> Callable[[Callable[..., Lines]], Callable[..., Lines]]:
    """Make a function an indicator under its own name (less a trailing underscore); the rest as in `Indicator`."""

    def keep(function: Callable[..., Lines]) -> Callable[..., Lines]:
        name = function.__name__.rstrip("_")
        INDICATORS[name] = Indicator(name, function, lines or (name,), warmup, least)
        return function

    return keep


def memory(smoothing: float, tolerance: float = 1e-10) -> int:
    """Bars until an exponential average with weight `smoothing` on the newest bar has forgotten its seed."""
    return math.ceil(math.log(tolerance) / math.log(1 - smoothing)) if smoothing < 1 else 1


@cache
def chain_memory(*smoothings: float, tolerance: float = 1e-10) -> int:
    """Bars until an average of an average …, each with such a weight on its newest value, has forgotten all their seeds."""
    errors, bars = [1.0] * len(smoothings), 0
    while max(errors) > tolerance:
        before, bars = 0.0, bars + 1
        for stage, smoothing in enumerate(smoothings):
            errors[stage] += smoothing * (before - errors[stage])
            before = errors[stage]
    return bars


def ema_memory(length: int) -> int:
    """Warm-up of an exponential average of `length` bars, seeded by a simple one."""
    return length - 1 + memory(2 / (length + 1))


def wilder_memory(length: int, tolerance: float = 1e-10) -> int:
    """Warm-up of Wilder's average of `length` bars, weight 1/length on the newest."""
    return length - 1 + memory(1 / length, tolerance)
