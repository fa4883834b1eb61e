"""Which features there are. One line declares one column; adding a feature is adding a line to `DEFAULT`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from btclab.errors import InputError, unknown


@dataclass(frozen=True)
class Feature:
    """One column of the feature table.

    `indicator` and `parameters` go to `bl.indicator`; `output` picks a line by number where it has several; `form`
    makes it scale-free (see `build.FORMS`); `warmup` is the number of bars before the value no longer depends on where
    the history begins; `on` is the candle column that is given to the indicator as its price.
    """

    name: str
    group: str
    indicator: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    output: int = 0
    form: str = "raw"
    warmup: int = 0
    unit: str = ""
    on: str = "close"


@dataclass(frozen=True)
class FeatureSpec:
    """A named set of features; `columns` are the names in order, `warmup` the longest one."""

    name: str
    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        twice = {name for name in names if names.count(name) > 1}
        if twice or not names:
            raise InputError(
                f"Feature spec {self.name!r} {'is empty' if not names else f'names {sorted(twice)} twice'}."
            )

    @property
    def columns(self) -> list[str]:
        return [feature.name for feature in self.features]

    @property
    def warmup(self) -> int:
        return max(feature.warmup for feature in self.features)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "features": [asdict(feature) for feature in self.features]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> FeatureSpec:
        return cls(content["name"], tuple(Feature(**feature) for feature in content["features"]))


def memory(smoothing: float, tolerance: float = 1e-10) -> int:
    """Bars until an exponential average with weight `smoothing` on the newest bar has forgotten its seed."""
    return math.ceil(math.log(tolerance) / math.log(1 - smoothing))


def _wilder(length: int) -> int:
    return length + memory(1 / length)


def _ema(length: int) -> int:
    return length + memory(2 / (length + 1))


DEFAULT = FeatureSpec(
    "default",
    (
        Feature("log_return_1", "momentum", "log_return", {"length": 1}, warmup=1, unit="log return"),
        Feature("log_return_4", "momentum", "log_return", {"length": 4}, warmup=4, unit="log return"),
        Feature("log_return_24", "momentum", "log_return", {"length": 24}, warmup=24, unit="log return"),
        Feature("rsi_14", "momentum", "rsi", {"length": 14}, form="oscillator", warmup=_wilder(14), unit="−1…1"),
        Feature("stoch_k_14", "momentum", "stoch", {"k": 14, "d": 3}, form="oscillator", warmup=20, unit="−1…1"),
        Feature("willr_14", "momentum", "willr", {"length": 14}, form="percent", warmup=14, unit="−1…0"),
        Feature("cci_20", "momentum", "cci", {"length": 20}, form="percent", warmup=20, unit="hundreds"),
        Feature(
            "macd_histogram",
            "trend",
            "macd",
            {},
            output=1,
            form="per_close",
            warmup=_ema(26) + _ema(9),
            unit="of close",
        ),
        Feature("ema_20_distance", "trend", "ema", {"length": 20}, form="distance", warmup=_ema(20), unit="log ratio"),
        Feature("sma_50_distance", "trend", "sma", {"length": 50}, form="distance", warmup=50, unit="log ratio"),
        Feature("sma_200_distance", "trend", "sma", {"length": 200}, form="distance", warmup=200, unit="log ratio"),
        Feature("aroon_25", "trend", "aroon", {"length": 25}, output=2, form="percent", warmup=25, unit="−1…1"),
        Feature(
            "bollinger_width_20",
            "volatility",
            "bbands",
            {"length": 20},
            output=3,
            form="percent",
            warmup=20,
            unit="of mean",
        ),
        Feature(
            "bollinger_position_20", "volatility", "bbands", {"length": 20}, output=4, warmup=20, unit="0 lower…1 upper"
        ),
        Feature(
            "atr_14", "volatility", "atr", {"length": 14}, form="per_close", warmup=_wilder(14) + 1, unit="of close"
        ),
        Feature(
            "realised_volatility_24", "volatility", "realised_volatility", {"length": 24}, warmup=24, unit="per bar"
        ),
        Feature(
            "realised_volatility_168", "volatility", "realised_volatility", {"length": 168}, warmup=168, unit="per bar"
        ),
        Feature("mfi_14", "volume", "mfi", {"length": 14}, form="oscillator", warmup=15, unit="−1…1"),
        Feature("cmf_20", "volume", "cmf", {"length": 20}, warmup=20, unit="−1…1"),
        Feature(
            "volume_zscore_48", "volume", "zscore", {"length": 48}, on="volume", warmup=48, unit="standard deviations"
        ),
        Feature("time_of_day_sin", "calendar", "time_of_day", {}, output=0),
        Feature("time_of_day_cos", "calendar", "time_of_day", {}, output=1),
        Feature("day_of_week_sin", "calendar", "day_of_week", {}, output=0),
        Feature("day_of_week_cos", "calendar", "day_of_week", {}, output=1),
    ),
)
SPECS = {"default": DEFAULT}


def resolve_spec(spec: str | FeatureSpec) -> FeatureSpec:
    """The spec called `spec`, or `spec` itself. Raises `InputError` naming the valid ones."""
    if isinstance(spec, FeatureSpec):
        return spec
    if spec not in SPECS:
        raise unknown("feature spec", spec, SPECS)
    return SPECS[spec]
