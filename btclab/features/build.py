"""The feature table: one row per closed bar, one column per feature, missing until its warm-up has passed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from btclab.context.series import SERIES
from btclab.errors import InputError, TooFewBars, unknown
from btclab.features.indicators import bar_arrays, compute
from btclab.features.spec import Feature, FeatureSpec, resolve_spec
from btclab.market.candles import COLUMNS, timeframe_delta, timeframe_of, validate_candles

WORKERS = 2  # the loops release Python's lock
WORTH_THREADS = 20_000  # bars; below, starting threads costs more than they save
MOST_NAMED = 3
DAY = pd.Timedelta(days=1).value


def build_features(
    candles: pd.DataFrame,
    context: pd.DataFrame | None = None,
    spec: str | Path | FeatureSpec = "default",
    last: int | None = None,
) -> pd.DataFrame:
    """Features of `candles`, float64, index as in `candles`; row *t* uses bars up to and including *t* only.

    `context` holds series beside the bars, one column each, as `bl.load_context(candles)` gives them. With `last`, only the
    newest `last` rows are computed, each from its own warm-up: the same values, in milliseconds.

    A value is missing (NaN) during its warm-up and where it is undefined (a stochastic over a price that did not move); it
    is never filled. `attrs["features"]` says by name group, unit, warm-up (bars) and source; `attrs["missing"]` which
    columns hold nothing at all, and why. Raises `InputError` for an unknown spec, indicator, parameter or series, and
    `TooFewBars` when the warm-up takes all bars.
    """
    chosen = resolve_spec(spec)
    if last is not None and (isinstance(last, bool) or not isinstance(last, int | np.integer) or last < 1):
        raise InputError(f"last is {last!r}; it must be a whole number of rows of at least 1, or None for all.")
    validate_candles(candles.iloc[-1:])  # so that the timeframe below is one
    timeframe = timeframe_of(candles) if len(candles) > 1 or candles.attrs.get("timeframe") else "1d"
    missing = _missing(chosen, candles, context, timeframe)
    warmups = chosen.warmups_at(timeframe)
    needed = {name: bars for name, bars in warmups.items() if name not in missing}
    longest = max(needed.values(), default=0)
    validate_candles(candles if last is None else candles.iloc[-(longest + last) :])
    if len(candles) <= longest:
        raise TooFewBars(_too_few(chosen, needed, len(candles)))
    rows = len(candles) if last is None else min(last, len(candles))
    arrays = _arrays(candles, context, chosen, rows + longest)
    table = np.full((rows, len(chosen.features)), np.nan, order="F")
    columns = {one.name: table[:, number] for number, one in enumerate(chosen.features)}

    def fill(group: list[Feature]) -> None:
        need = rows + max(warmups[one.name] for one in group) if last else len(candles)
        part = {name: one[-need:] if isinstance(one, np.ndarray) else one for name, one in arrays.items()}
        for one, values in zip(group, _values(group, part), strict=True):
            columns[one.name][:] = np.where(np.isfinite(values[-rows:]), values[-rows:], np.nan)
            columns[one.name][: max(0, warmups[one.name] - (len(candles) - rows))] = np.nan

    groups = _one_computation([one for one in chosen.features if one.name not in missing])
    if rows > WORTH_THREADS:
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(fill, groups))
    else:
        for group in groups:
            fill(group)
    features = pd.DataFrame(table, index=candles.index[-rows:], columns=chosen.columns, copy=False)
    sources = {
        name: said.get("source")
        for name, said in (context.attrs.get("series", {}) if context is not None else {}).items()
    }
    facts = {
        one.name: {
            "group": one.group,
            "unit": one.unit,
            "warmup": warmups[one.name],
            "source": _source(one, candles, sources),
        }
        for one in chosen.features
    }
    features.attrs = {**candles.attrs, "features": facts, "missing": missing}
    return features


def _one_computation(features: list[Feature]) -> list[list[Feature]]:
    """The features by what is computed for them: several columns are often lines of one indicator."""
    groups: dict[str, list[Feature]] = {}
    for one in features:
        key = repr((one.indicator, sorted(one.parameters.items()), one.inputs, one.timeframe))
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _arrays(candles: pd.DataFrame, context: pd.DataFrame | None, spec: FeatureSpec, most: int) -> dict[str, Any]:
    """The newest `most` rows of the candles and of the context series that `spec` reads, as arrays by name."""
    arrays = bar_arrays(candles.iloc[-most:])
    arrays["delta"] = timeframe_delta(timeframe_of(candles)).value if len(candles) > 1 else 0
    if context is not None:
        for name in {name for one in spec.features for name in one.inputs if name in context.columns}:
            values = context[name].to_numpy(dtype=float)[-most:]
            arrays[name] = np.where(np.isfinite(values), values, np.nan)
    return arrays


def _values(group: list[Feature], arrays: dict[str, Any]) -> list[np.ndarray]:
    """The columns of features that share a computation, on the rows of `arrays`."""
    first = group[0]
    bars, known = (arrays, None) if not first.timeframe else _longer(arrays, timeframe_delta(first.timeframe).value)
    if not len(bars["close"]):
        return [np.full(len(arrays["close"]), np.nan) for _ in group]
    try:
        lines = compute(first.indicator, bars, first.inputs, **first.parameters)
    except InputError as error:
        raise InputError(f"Feature {first.name!r}: {error}") from error
    found = []
    for one in group:
        value = _line(one, lines)
        with np.errstate(all="ignore"):
            if one.form != "distance_now":
                value = _scale_free(one.form, value, bars["close"])
            if known is not None:
                value = np.where(known >= 0, value[known], np.nan)
            if one.form == "distance_now":
                value = _scale_free("distance", value, arrays["close"])
        found.append(value)
    return found


def _scale_free(form: str, value: np.ndarray, close: np.ndarray) -> np.ndarray:
    if form == "percent":
        return value / 100
    if form == "oscillator":
        return value / 50 - 1
    if form == "per_close":
        return value / close
    if form == "distance":
        return np.log(close / value)
    return value


def _line(feature: Feature, lines: dict[str, np.ndarray]) -> np.ndarray:
    names = list(lines)
    wanted = feature.output
    if isinstance(wanted, str):
        exact = [n for n, name in enumerate(names) if name == wanted or name.split("_")[0] == wanted]
        near = exact or [n for n, name in enumerate(names) if name.startswith(wanted)]
        if len(near) == 1:
            return lines[names[near[0]]]
        raise unknown(f"output of feature {feature.name!r}", wanted, names)
    if not 0 <= wanted < len(names):
        raise InputError(f"Feature {feature.name!r} asks for output {wanted}; valid: 0…{len(names) - 1} {names}.")
    return lines[names[wanted]]


def _longer(arrays: dict[str, Any], delta: int) -> tuple[dict[str, Any], np.ndarray]:
    """Whole bars of `delta` ns made of shorter ones, and for each short one the number of the newest that had closed with it.

    −1 where none had. Bars that the history begins or ends within are left out: they are not known whole.
    """
    times = arrays["times"]
    bins = times // delta
    starts = np.flatnonzero(np.concatenate([[True], bins[1:] != bins[:-1]]))
    opens = bins[starts] * delta
    closes = times + arrays["delta"]
    bars: dict[str, Any] = {
        "times": opens,
        "open": arrays["open"][starts],
        "high": np.maximum.reduceat(arrays["high"], starts),
        "low": np.minimum.reduceat(arrays["low"], starts),
        "close": arrays["close"][np.concatenate([starts[1:], [len(times)]]) - 1],
        "volume": np.add.reduceat(arrays["volume"], starts),
    }
    whole = (opens >= times[0]) & (opens + delta <= closes[-1])
    bars = {name: value[whole] for name, value in bars.items()}
    known = np.searchsorted(bars["times"] + delta, closes, side="right") - 1
    return bars | {"per_day": max(1, DAY // delta), "delta": delta}, known


def _missing(spec: FeatureSpec, candles: pd.DataFrame, context: pd.DataFrame | None, timeframe: str) -> dict[str, str]:
    """Which features hold nothing, by name, and why. Raises `InputError` for a series that no source gives."""
    _check_context(candles, context)
    held = [] if context is None else list(context.columns)
    said = {} if context is None else context.attrs.get("missing", {})
    empty = (
        {}
        if context is None
        else dict.fromkeys([name for name in held if context[name].isna().all()], "holds no value")
    )
    reasons = {}
    for one in spec.features:
        if not one.bars_of(timeframe):
            reasons[one.name] = (
                f"it needs candles of which several make one of {one.timeframe}; these are of {timeframe}"
            )
        for name in one.inputs:
            if name in COLUMNS:
                continue
            if name not in held and name not in SERIES:
                raise unknown(f"input of feature {one.name!r}", name, {*COLUMNS, *SERIES, *held})
            if context is None:
                simulated = candles.attrs.get("simulated")
                cure = (
                    "nothing in the world belongs to a simulated market"
                    if simulated
                    else "bl.load_context(candles) gives it"
                )
                reasons[one.name] = f"it reads {name}, and no context was given: {cure}"
            elif name not in held:
                reasons[one.name] = f"the context has no column {name}: bl.load_context(candles) gives it"
            elif name in empty:
                reasons[one.name] = f"{name}: {said.get(name, empty[name])}"
    return reasons


def _check_context(candles: pd.DataFrame, context: pd.DataFrame | None) -> None:
    if context is None:
        return
    if not isinstance(context, pd.DataFrame) or not context.index.equals(candles.index):
        raise InputError(
            "context must be a frame with a row for each bar, as bl.load_context(candles) gives it; "
            "join a series of your own with btclab.context.join.join_asof."
        )
    if not context.columns.is_unique:
        raise InputError(f"context has two columns {context.columns[context.columns.duplicated()][0]!r}; drop one.")
    words = [name for name in context.columns if not pd.api.types.is_numeric_dtype(context[name])]
    if words:
        raise InputError(f"context column {words[0]!r} holds {context[words[0]].dtype}; it must hold numbers.")
    clash = [name for name in context.columns if name in (*COLUMNS, "times", "per_day", "delta")]
    if clash:
        raise InputError(f"context has a column {clash[0]!r}, which is the candles' own; give it another name.")


def _source(feature: Feature, candles: pd.DataFrame, sources: dict[str, Any]) -> str:
    named = [
        f"{name} ({sources[name]})" if sources.get(name) else name for name in feature.inputs if name not in COLUMNS
    ]
    return ", ".join(named) or f"candles ({candles.attrs.get('source', 'given')})"


def _too_few(spec: FeatureSpec, warmups: dict[str, int], bars: int) -> str:
    slow = sorted((name for name in warmups if warmups[name] >= bars), key=lambda name: -warmups[name])
    named = ", ".join(f"{name} ({warmups[name]:,})" for name in slow[:MOST_NAMED])
    more = f" and {len(slow) - MOST_NAMED} more" if len(slow) > MOST_NAMED else ""
    return (
        f"Features {spec.name!r} need more than {max(warmups.values()):,} bars to warm up; there are {bars:,}. "
        f'Longest: {named}{more}. Leave them out (spec.without([…])), or take spec="core".'
    )
