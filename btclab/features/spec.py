"""Which features there are: one line declares one column. The default set is `default.toml` beside this file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from btclab.errors import InputError, unknown
from btclab.market.candles import COLUMNS, TIMEFRAMES, timeframe_delta

CONTEXT_GROUPS = ("on-chain", "sentiment", "derivatives", "macro")
FORMS = {  # how a value becomes free of the price level, and the unit it then has; computed in build.py
    "raw": "",
    "percent": "",
    "oscillator": "−1…1",
    "per_close": "of close",
    "distance": "log ratio",
    "distance_now": "log ratio",
}


@dataclass(frozen=True)
class Feature:
    """One column of the feature table.

    `indicator` and `parameters` go to `bl.indicator`; `output` picks a line, by number or by the beginning of its name,
    where it has several; `form` makes it scale-free (`distance`: log of the close over it, `distance_now`: of the newest
    close, where `timeframe` is a longer one); `inputs` are the columns it reads in place of its own first ones, of the
    candles or of the context; `timeframe` has it computed on longer bars, each known from its close on. `warmup` is the
    number of bars (of `timeframe`) before the value no longer depends on where the history begins; None: the indicator's own.
    """

    name: str
    group: str
    indicator: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    output: int | str = 0
    form: str = "raw"
    timeframe: str = ""
    unit: str = ""
    warmup: int | None = None

    def __post_init__(self) -> None:
        inputs = (self.inputs,) if isinstance(self.inputs, str) else self.inputs
        if not isinstance(inputs, list | tuple) or not all(isinstance(one, str) for one in inputs):
            raise InputError(
                f'inputs of feature {self.name!r} are {inputs!r}; they must be names, e.g. inputs = ["volume"].'
            )
        if str(self.form) not in FORMS:
            raise unknown(f"form of feature {self.name!r}", self.form, FORMS)
        if self.timeframe and str(self.timeframe) not in TIMEFRAMES:
            raise unknown(f"timeframe of feature {self.name!r}", self.timeframe, TIMEFRAMES)
        if isinstance(self.output, bool) or not isinstance(self.output, int | str):
            raise InputError(f"output of feature {self.name!r} is {self.output!r}; it must be a line's number or name.")
        if self.warmup is not None and (
            isinstance(self.warmup, bool) or not isinstance(self.warmup, int) or self.warmup < 0
        ):
            raise InputError(f"warmup of feature {self.name!r} is {self.warmup!r}; it must be a whole number of bars.")
        beside = [one for one in inputs if one not in COLUMNS]
        if self.timeframe and beside:
            raise InputError(
                f"Feature {self.name!r} reads {beside[0]} on {self.timeframe} bars; context has no bars: leave the timeframe out."
            )
        object.__setattr__(self, "inputs", tuple(inputs))
        object.__setattr__(self, "unit", self.unit or FORMS[self.form])

    def bars_of(self, timeframe: str) -> int:
        """How many bars of `timeframe` one bar of the feature's own has; 0 where its own is not a longer one."""
        if not self.timeframe:
            return 1
        own, base = timeframe_delta(self.timeframe), timeframe_delta(timeframe)
        return own // base if own > base and own % base == pd.Timedelta(0) else 0

    def warmup_at(self, timeframe: str) -> int:
        """Bars of `timeframe` before the value no longer depends on where the history begins."""
        bars = self.bars_of(timeframe)
        own = self.warmup
        if own is None:
            from btclab.features.indicators import warmup_of  # here, for it brings numba with it

            day = pd.Timedelta(days=1) // timeframe_delta(self.timeframe or timeframe)
            try:
                own = warmup_of(self.indicator, dict(self.parameters), day)
            except InputError as error:
                raise InputError(f"Feature {self.name!r}: {error}") from error
        if own is None:
            raise InputError(
                f"Feature {self.name!r} uses {self.indicator!r}, whose warm-up btclab does not know: "
                "declare it, e.g. warmup=200, and check it with btclab audit --warmup."
            )
        # The first longer bar may be cut by the beginning of the history, and each is known only when its last one closes.
        return own if bars <= 1 else (own + 2) * bars - 2


@dataclass(frozen=True)
class FeatureSpec:
    """A named set of features; `columns` are the names in order."""

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
    def context(self) -> list[str]:
        """Names of the context series that it reads, in order."""
        return list(dict.fromkeys(name for one in self.features for name in one.inputs if name not in COLUMNS))

    @cached_property
    def _warmups(self) -> dict[str, dict[str, int]]:
        return {}

    def warmups_at(self, timeframe: str) -> dict[str, int]:
        """The warm-up of each column, in bars of `timeframe`; told once, for a live row has no time to ask again."""
        if timeframe not in self._warmups:
            self._warmups[timeframe] = {one.name: one.warmup_at(timeframe) for one in self.features}
        return self._warmups[timeframe]

    def warmup_at(self, timeframe: str) -> int:
        """The longest warm-up, in bars of `timeframe`."""
        return max(self.warmups_at(timeframe).values())

    def only(self, names: Iterable[str]) -> FeatureSpec:
        """The same spec with the columns `names` alone, in its own order. Raises `InputError` for one it has not."""
        wanted = set(names)
        for name in wanted - set(self.columns):
            raise unknown(f"feature of spec {self.name!r}", name, self.columns)
        return replace(self, features=tuple(one for one in self.features if one.name in wanted))

    def without(self, names: Iterable[str]) -> FeatureSpec:
        """The same spec without the columns or groups `names`. Raises `InputError` for one it has not."""
        gone, groups = set(names), {one.group for one in self.features}
        for name in gone - set(self.columns) - groups:
            raise unknown(f"feature or group of spec {self.name!r}", name, {*self.columns, *groups})
        return replace(self, features=tuple(one for one in self.features if not {one.name, one.group} & gone))

    def table(self, timeframe: str = "1h") -> pd.DataFrame:
        """One row a feature: group, indicator (as it is called), inputs, unit, warm-up in bars of `timeframe`."""
        rows = {
            one.name: {
                "group": one.group,
                "indicator": call_text(one),
                "inputs": ", ".join(one.inputs),
                "unit": one.unit,
                "warmup": one.warmup_at(timeframe),
            }
            for one in self.features
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("feature")

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "features": [asdict(feature) for feature in self.features]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> FeatureSpec:
        return cls(content["name"], tuple(Feature(**feature) for feature in content["features"]))


def call_text(feature: Feature) -> str:
    """How the indicator of a feature is called, e.g. 'rsi(length=14) on 4h'."""
    text = f"{feature.indicator}({', '.join(f'{key}={value}' for key, value in feature.parameters.items())})"
    return f"{text} on {feature.timeframe}" if feature.timeframe else text


# spec="core": few columns, the best known, and a short warm-up: for short histories and quick trials
CORE = [
    "log_return_1",
    "log_return_4",
    "log_return_24",
    "rsi_14",
    "stoch_k_14",
    "willr_14",
    "cci_20",
    "macd_histogram",
    "ema_20_distance",
    "sma_50_distance",
    "sma_200_distance",
    "aroon_up_25",
    "aroon_down_25",
    "bollinger_width_20",
    "bollinger_position_20",
    "atr_14",
    "realised_volatility_24",
    "realised_volatility_168",
    "mfi_14",
    "cmf_20",
    "volume_zscore_48",
    "time_of_day_sin",
    "time_of_day_cos",
    "day_of_week_sin",
    "day_of_week_cos",
]
NAMES = ("default", "core", "technical")


@cache
def _shipped(name: str) -> FeatureSpec:
    everything = read_spec(Path(__file__).with_name("default.toml"))
    parts = {
        "default": everything,
        "core": everything.only(CORE),
        "technical": everything.without(CONTEXT_GROUPS),
    }
    return replace(parts[name], name=name)


def resolve_spec(spec: str | Path | FeatureSpec) -> FeatureSpec:
    """The spec called `spec` ("default", "core", "technical"), that of a TOML file, or `spec` itself.

    Raises `InputError` naming the valid ones, or what is wrong in the file.
    """
    if isinstance(spec, FeatureSpec):
        return spec
    if isinstance(spec, str) and spec in NAMES:
        return _shipped(spec)
    if isinstance(spec, Path) or str(spec).endswith(".toml"):
        return read_spec(Path(spec))
    raise unknown("feature spec", spec, NAMES, "A file of your own ends in .toml.")


def read_spec(path: Path, within: tuple[Path, ...] = ()) -> FeatureSpec:
    """The spec in a TOML file: `include` (a spec or file), `leave_out` (names or groups), then `[group]`, `name = {…}`.

    `within` are the files that include it. Raises `InputError` naming the file and what is wrong in it.
    """
    if path.resolve() in within:
        raise InputError(f"The feature spec {path} includes itself.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The feature spec {path} cannot be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"The feature spec {path} is no valid TOML: {error}.") from error
    try:
        return _spec_of(content, path, within)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _spec_of(content: dict[str, Any], path: Path, within: tuple[Path, ...]) -> FeatureSpec:
    include, leave_out = content.pop("include", None), content.pop("leave_out", [])
    named = isinstance(leave_out, list) and all(isinstance(name, str) for name in leave_out)
    if not named or (leave_out and include is None):
        raise InputError(
            'leave_out must be a list of names or groups of the spec that is included, e.g. ["rsi_7", "macro"].'
        )
    kept: dict[str, Feature] = {}
    if include is not None:
        if not isinstance(include, str):
            raise InputError(
                f"include is {include!r}; it must be the name of a spec or of a file, e.g. include = 'core'."
            )
        if include not in NAMES and not include.endswith(".toml"):
            raise unknown("feature spec", include, NAMES, "A file of your own ends in .toml.")
        base = _shipped(include) if include in NAMES else read_spec(path.parent / include, (*within, path.resolve()))
        kept = {one.name: one for one in (base.without(leave_out) if leave_out else base).features}
    here: dict[str, str] = {}
    for group, lines in content.items():
        if not isinstance(lines, dict) or not all(isinstance(line, dict) for line in lines.values()):
            raise InputError(
                f'{group!r} is no group of features; write [{group}] and below it: name = {{ indicator = "rsi" }}'
            )
        for name, line in lines.items():
            if name in here:
                raise InputError(f"feature {name!r} is declared twice, in [{here[name]}] and [{group}]; rename one.")
            here[name] = group
            kept[name] = _feature_of(name, group, dict(line))
    return FeatureSpec(path.stem, tuple(kept.values()))


_OWN = {one.name for one in fields(Feature)} - {"name", "group", "parameters"}


def _feature_of(name: str, group: str, line: dict[str, Any]) -> Feature:
    if not isinstance(line.get("indicator"), str):
        raise InputError(
            f'Feature {name!r} names no indicator; write e.g. {name} = {{ indicator = "rsi", length = 14 }}'
        )
    own = {key: line.pop(key) for key in list(line) if key in _OWN}
    return Feature(name=name, group=group, parameters=line, **own)
