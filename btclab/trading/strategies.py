"""Strategies by name: those that ship with btclab, and your own, which is one function.

    def my_rule(candles, features, forecasts):      # in mine.py, or in a notebook
        return (candles["close"] > candles["close"].rolling(200).mean()).astype(float)

    bl.register_strategy("my_rule", my_rule)        # or by its file, everywhere a strategy is named: "mine.py:my_rule"

It returns a Series with the index of the candles: the fraction of equity to hold from the next open on, −1…1, missing where it
has no opinion (what is held stays). Below 0 it is sold short, which the account must allow (settings: `allow_short`). With a
text for each bar, `(exposure, reasons)`, it says why. Keyword parameters with a default, after a `*`, are its parameters.
`features` and `forecasts` are None where none were given. Row *t* may use rows up to *t* alone: `audit_strategy` finds out.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import pandas as pd

from btclab.errors import InputError, LookAheadError, unknown
from btclab.features.indicators import bar_arrays, compute, warmup_of
from btclab.market.candles import utc, validate_candles
from btclab.trading.filters import Filters, judge
from btclab.trading.scores import CATEGORIES, Weights, category_scores, composite_score, contributions
from btclab.trading.strategy import (
    Held,
    Rules,
    Wish,
    by_thresholds,
    check_exposure,
    check_forecasts,
    forecast_wish,
    number_texts,
    rule_texts,
    signal_table,
    wish_of,
)

INPUTS = {
    "features": "bl.build_features(candles, context) gives them",
    "forecasts": "bl.forecast(checkpoint, candles) gives them",
}


@dataclass(frozen=True)
class Parameter:
    """What a parameter of a strategy is: its unit, what it does, and the values it may have; `default` is the function's."""

    unit: str = ""
    help: str = ""
    low: float = -math.inf
    high: float = math.inf
    default: Any = None

    def check(self, name: str, value: Any) -> Any:
        """`value`, if it is of the default's kind and within bounds; raises `InputError`."""
        if self.default is None or not isinstance(self.default, int | float):
            return value
        whole = isinstance(self.default, int)
        if isinstance(self.default, bool) or isinstance(value, bool):
            good = isinstance(self.default, bool) and isinstance(value, bool)
        else:
            good = isinstance(value, int | np.integer if whole else int | float | np.integer | np.floating)
            good = good and self.low <= value <= self.high
        if not good:
            kind = "true or false" if isinstance(self.default, bool) else "a whole number" if whole else "a number"
            bounds = f" in {self.low:g}…{self.high:g}" if math.isfinite(self.low) and math.isfinite(self.high) else ""
            bounds = bounds or (f" of at least {self.low:g}" if math.isfinite(self.low) else "")
            raise InputError(f"{name} is {value!r}; it must be {kind}{bounds}{f' ({self.unit})' if self.unit else ''}.")
        return value


@dataclass(frozen=True)
class Strategy:
    """A function `(candles, features, forecasts, **parameters)`, what it reads, and the values of its parameters.

    `needs` are the inputs without which it cannot work, of "features" and "forecasts"; `uses` those it reads if they are
    there. Call it, or give it to `run_strategy`.
    """

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """The first line of the function's documentation."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def having(self, **values: Any) -> Strategy:
        """This strategy with other parameter values. Raises `InputError` for a parameter it does not have, or a wrong value."""
        for name, value in values.items():
            if name not in self.parameters:
                raise unknown(f"parameter of strategy {self.name!r}", name, self.parameters)
            self.parameters[name].check(f"{name} of strategy {self.name!r}", value)
        return dataclasses.replace(self, values={**self.values, **values})

    def __call__(
        self, candles: pd.DataFrame, features: pd.DataFrame | None = None, forecasts: pd.DataFrame | None = None
    ) -> Wish:
        """What it wants at the close of each bar. Raises `InputError` for a missing input, or a wrong return value."""
        given = {"features": features, "forecasts": forecasts}
        for name in self.needs:
            if given[name] is None:
                raise InputError(f"Strategy {self.name!r} needs {name}: {INPUTS[name]}.")
        for name, table in given.items():
            if table is not None and not table.index.equals(candles.index):
                raise InputError(f"candles and {name} have different timestamps; {INPUTS[name]}, one row per bar.")
        return wish_of(self.function(candles, features, forecasts, **self.values), candles, self.name)


# The strategies that ship with btclab. Each is a function like one of yours.

Exposure = Annotated[float, Parameter("of equity", "held while in the market", 0, 1)]
Short = Annotated[float, Parameter("of equity", "sold short where it would hold cash", 0, 1)]


def forecast(
    candles: pd.DataFrame,
    features: pd.DataFrame | None,
    forecasts: pd.DataFrame,
    *,
    enter: Annotated[float, Parameter("probability", "buys when a rise becomes so likely", 0, 1)] = Rules.enter,
    exit: Annotated[float, Parameter("probability", "sells when a rise becomes so unlikely", 0, 1)] = Rules.exit,
    max_exposure: Exposure = 1.0,
    short: Short = 0.0,
) -> Wish:
    """In the market while the calibrated forecast expects a rise; as `bl.make_signals`."""
    return forecast_wish(candles, forecasts, Rules(enter, exit, max_exposure, short))


def composite(
    candles: pd.DataFrame,
    features: pd.DataFrame | None,
    forecasts: pd.DataFrame | None,
    *,
    enter: Annotated[float | None, Parameter("score", "buys from this score on; None: as in the settings")] = None,
    exit: Annotated[float | None, Parameter("score", "sells from this score down; None: as in the settings")] = None,
    weights: Annotated[
        Weights | Mapping[str, float] | None, Parameter("", "of the categories, by name; None: as in the settings")
    ] = None,
    max_exposure: Exposure = 1.0,
    short: Short = 0.0,
) -> Wish:
    """In the market while the weighted scores of forecast, price, chain, sentiment, macro and derivatives speak for it."""
    if features is None and forecasts is None:
        raise InputError("Strategy 'composite' needs features (bl.build_features), forecasts (bl.forecast), or both.")
    buys, sells = _thresholds(enter, exit)
    check_exposure("max_exposure", max_exposure)
    pushes = contributions(category_scores(features, forecasts), _weights(weights))
    score = composite_score(pushes).to_numpy()
    wish = by_thresholds(score, buys, sells, max_exposure, short)

    def reasons(held: np.ndarray) -> list[str]:
        parts = [number_texts(score, 0.01, lambda value: f"score {value:+.2f} =")]
        for name in CATEGORIES:
            parts.append(number_texts(pushes[name].to_numpy(), 0.01, partial(_push, name)))
        parts.append(rule_texts(wish, held, f"{buys:+g}", f"{sells:+g}"))
        texts = list(map("".join, zip(*parts, strict=True)))
        for bar in np.flatnonzero(np.isnan(score)):
            texts[bar] = "no score: no category that weighs anything is known yet"
        return texts

    return Wish(wish, ~np.isnan(score), reasons)


def _weights(given: Weights | Mapping[str, float] | None) -> Weights:
    if given is None:
        return Weights.from_settings()
    return given if isinstance(given, Weights) else Weights.of(given)


def _push(category: str, value: float) -> str:
    return f" {value:+.2f} {category}"


def _thresholds(enter: float | None, exit: float | None) -> tuple[float, float]:
    if enter is None or exit is None:
        from btclab.settings import settings

        own = settings().strategy
        enter, exit = own.enter if enter is None else enter, own.exit if exit is None else exit
    if not -1 <= exit < enter <= 1:
        raise InputError(f"exit {exit!r} and enter {enter!r} must be scores in −1…1 with exit < enter.")
    return enter, exit


def sma_cross(
    candles: pd.DataFrame,
    features: pd.DataFrame | None,
    forecasts: pd.DataFrame | None,
    *,
    fast: Annotated[int, Parameter("bars", "of the quick average", 1)] = 50,
    slow: Annotated[int, Parameter("bars", "of the slow average", 2)] = 200,
    max_exposure: Exposure = 1.0,
    short: Short = 0.0,
) -> Wish:
    """In the market while the quick simple moving average of the close is above the slow one."""
    if fast >= slow:
        raise InputError(f"fast is {fast}; it must be less than slow, which is {slow}.")
    check_exposure("max_exposure", max_exposure)
    gap = np.log(_indicator(candles, "sma", length=fast) / _indicator(candles, "sma", length=slow))
    wish = np.where(np.isnan(gap), np.nan, np.where(gap > 0, max_exposure, 0.0 - short))

    def reasons(held: np.ndarray) -> list[str]:
        text = f"mean of {fast} bars {{:+.2f}} % from that of {slow}"
        return number_texts(gap, 1e-4, lambda value: text.format(100 * value), f"fewer than {slow} bars are known")

    return Wish(wish, ~np.isnan(gap), reasons)


def rsi_reversion(
    candles: pd.DataFrame,
    features: pd.DataFrame | None,
    forecasts: pd.DataFrame | None,
    *,
    length: Annotated[int, Parameter("bars", "of Wilder's average", 2)] = 14,
    enter: Annotated[float, Parameter("0…100", "buys when the RSI has fallen so far", 0, 100)] = 30.0,
    exit: Annotated[float, Parameter("0…100", "sells when it has come back so far", 0, 100)] = 55.0,
    max_exposure: Exposure = 1.0,
    short: Short = 0.0,
) -> Wish:
    """Buys what has fallen fast and sells it when it has recovered, by the relative strength index (Wilder 1978)."""
    if enter >= exit:
        raise InputError(f"enter is {enter:g}; it must be less than exit, which is {exit:g}.")
    check_exposure("max_exposure", max_exposure)
    rsi = _indicator(candles, "rsi", length=length)
    wish = by_thresholds(-rsi, -enter, -exit, max_exposure, short)

    def reasons(held: np.ndarray) -> list[str]:
        level = number_texts(rsi, 0.1, lambda value: f"RSI {value:.1f}", "the RSI is warming up")
        keep = np.where(held > 0, f": above enter {enter:g}, waits for exit {exit:g}", f": waits for enter {enter:g}")
        keep = np.where(held < 0, f": below exit {exit:g}, keeps the short position until enter {enter:g}", keep)
        above = "sell short" if short else "hold cash"
        sure = np.where(wish > 0, f": at or below enter {enter:g}: hold BTC", f": at or above exit {exit:g}: {above}")
        rule = np.where(np.isnan(rsi), "", np.where(np.isnan(wish), keep, sure)).tolist()
        return list(map("".join, zip(level, rule, strict=True)))

    return Wish(wish, ~np.isnan(rsi), reasons)


def buy_and_hold(candles: pd.DataFrame, features: pd.DataFrame | None, forecasts: pd.DataFrame | None) -> Wish:
    """All in Bitcoin from the first close on: what every other strategy has to beat."""
    return Wish(np.ones(len(candles)), None, ["buy and hold"] * len(candles))


def _indicator(candles: pd.DataFrame, name: str, **parameters: Any) -> np.ndarray:
    """An indicator [bar], missing until it no longer depends on where the history begins."""
    arrays = bar_arrays(candles)
    (values,) = compute(name, arrays, **parameters).values()
    bars = warmup_of(name, parameters, arrays["per_day"]) or 0
    return np.where((np.arange(len(values)) >= bars) & np.isfinite(values), values, np.nan)


# Names


def _described(name: str, function: Callable[..., Any], needs: tuple[str, ...], uses: tuple[str, ...]) -> Strategy:
    try:
        signature = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise InputError(f"Strategy {name!r} is {function!r}, which is no function.") from None
    plain = [one for one in signature if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    keywords = [one for one in signature if one.kind is one.KEYWORD_ONLY]
    required = [one.name for one in keywords if one.default is one.empty]
    if (len(plain) != 3 and not any(one.kind is one.VAR_POSITIONAL for one in signature)) or required:
        named = ", ".join(one.name for one in signature)
        raise InputError(
            f"Strategy {name!r} takes ({named}); it must take (candles, features, forecasts), and after a * parameters, "
            "each with a default."
        )
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # annotations that only a type checker can read
        hints = {}
    parameters = {}
    for one in keywords:
        said = [part for part in getattr(hints.get(one.name), "__metadata__", ()) if isinstance(part, Parameter)]
        parameters[one.name] = dataclasses.replace(said[0] if said else Parameter(), default=one.default)
    return Strategy(name, function, needs, uses, parameters)


_OWN = (
    (forecast, ("forecasts",), ("forecasts",)),
    (composite, (), ("features", "forecasts")),
    (sma_cross, (), ()),
    (rsi_reversion, (), ()),
    (buy_and_hold, (), ()),
)
STRATEGIES: dict[str, Strategy] = {one.__name__: _described(one.__name__, one, *inputs) for one, *inputs in _OWN}
_SHIPPED = frozenset(STRATEGIES)


def register_strategy(name: str, function: Callable[..., Any], needs: tuple[str, ...] = ()) -> None:
    """Let `function(candles, features, forecasts)` be used as the strategy `name`, for as long as this Python runs.

    `needs` names the inputs, of "features" and "forecasts", without which it cannot work. Raises `InputError` if the name
    is one of btclab's own, is the name of a file, or the function cannot be called so.
    """
    if name in _SHIPPED:
        raise InputError(f"There is a strategy {name!r} already, which ships with btclab; choose another name.")
    if not name or ".py:" in name:
        raise InputError(f"A strategy cannot be called {name!r}; choose a plain name such as 'my_rule'.")
    for one in needs:
        if one not in INPUTS:
            raise unknown(f"input of strategy {name!r}", one, INPUTS)
    STRATEGIES[name] = _described(name, function, tuple(needs), tuple(INPUTS))


def resolve_strategy(name: str | Strategy) -> Strategy:
    """The strategy called `name`, or the function in a file: "mine.py:my_rule". Raises `InputError` if there is none.

    A name may say values of parameters, as in Python and as signals and ledgers write it: "sma_cross(fast=20, short=0.5)".
    """
    if isinstance(name, Strategy):
        return name
    if name.endswith(")") and "(" in name:
        plain, _, given = name.partition("(")
        return resolve_strategy(plain.strip()).having(**_values(name, given[:-1]))
    if ".py:" in name:
        path, _, function = name.rpartition(":")
        return _described(name, _load(Path(path), function), (), tuple(INPUTS))
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES, "One in a file is named as mine.py:my_rule.")
    return STRATEGIES[name]


def _values(name: str, given: str) -> dict[str, Any]:
    """The parameters in the brackets of a strategy's name."""
    try:
        call = ast.parse(f"f({given})", mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            values = {one.arg or "": ast.literal_eval(one.value) for one in call.keywords}
            if len(values) == len(call.keywords) and "" not in values:
                return values
    except (SyntaxError, ValueError, TypeError):
        pass
    raise InputError(f"Strategy {name!r} cannot be read; write its parameters as in 'sma_cross(fast=20, slow=100)'.")


def strategy(name: str | Strategy, **parameters: Any) -> Strategy:
    """The strategy called `name` with these parameters, the others at their defaults. Raises `InputError`, with near names."""
    return resolve_strategy(name).having(**parameters)


def _load(path: Path, name: str) -> Any:
    """The object `name` of the Python file `path`, which is run anew: what was edited counts."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise InputError(f"There is no file {path}; a strategy in a file is named as path/to/mine.py:my_rule.")
    key = f"btclab_strategy_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(key, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be read as Python; it must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # where dataclasses of the file look for their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[key]
        raise InputError(f"{path} could not be run: {type(error).__name__}: {error}.") from error
    own = {key: value for key, value in vars(module).items() if inspect.isfunction(value)}
    found = getattr(module, name, None)
    if found is None:
        raise unknown(f"function in {path.name}", name, own)
    if not callable(found):
        raise InputError(f"{name} in {path.name} is {found!r}, which is no function.")
    return found


# Running


def run_strategy(
    name: str | Strategy,
    candles: pd.DataFrame,
    features: pd.DataFrame | None = None,
    forecasts: pd.DataFrame | None = None,
    filters: Filters | None = None,
    before: Mapping[str, Any] | None = None,
    since: object = None,
    **parameters: Any,
) -> pd.DataFrame:
    """The signals of a strategy by its name; columns and meaning as of `bl.make_signals`.

    `filters` say when it may not enter (default: those of the settings; `Filters()` for none). `confidence` and `in_sample`
    come from `forecasts`, and are missing and False without. `attrs["strategy"]` says what was run.

    Its "held" is what is held at the last bar. Given as `before` to a run on candles that begin earlier (for the warm-up) and
    end later, the strategy goes on from there, and the signals are those of the later bars alone: bar by bar it gives what
    one run over all bars does. `since` is the first bar of the signals, with nothing held before: those before it warm up.

    Raises `InputError` for an unknown name or parameter, for an input that it needs and does not get, and where the function
    returned something that is no exposure.
    """
    chosen = strategy(name, **parameters)
    validate_candles(candles)
    filters = Filters.from_settings() if filters is None else filters
    wish = chosen(candles, features, forecasts)
    if forecasts is not None:
        check_forecasts(candles, forecasts)
    verdict = judge(candles, filters, features, forecasts)
    held, first = (Held(), 0) if before is None else _going_on(candles, before)
    if since is not None:
        held, first = Held(), int(candles.index.searchsorted(utc(since)))
    table, after = signal_table(candles, wish, forecasts, verdict, held, first)
    if "forecasts" not in chosen.uses and not filters.min_confidence:
        table["in_sample"] = False  # it never looks at them
    values = {key: chosen.values.get(key, one.default) for key, one in chosen.parameters.items()}
    table.attrs["strategy"] = {
        "name": chosen.name,
        "parameters": {
            key: dataclasses.asdict(one) if isinstance(one, Weights) else one for key, one in values.items()
        },
        "filters": dataclasses.asdict(filters),
        "held": {"bar": candles.index[-1].isoformat(), **after._asdict()},
    }
    return table


def _going_on(candles: pd.DataFrame, before: Mapping[str, Any]) -> tuple[Held, int]:
    """What was held at the bar that `before` names, and the number of the first bar after it."""
    bar = utc(before["bar"])
    if bar not in candles.index:
        raise InputError(
            f"The signals cannot go on from {bar}, which is no bar of candles that begin at {candles.index[0]}; give candles "
            "that hold it, and enough before it for the warm-up."
        )
    return Held(float(before["exposure"]), int(before["out"])), int(candles.index.searchsorted(bar, side="right"))


def audit_strategy(
    name: str | Strategy,
    candles: pd.DataFrame,
    features: pd.DataFrame | None = None,
    forecasts: pd.DataFrame | None = None,
    cuts: int = 8,
    seed: int = 0,
    **parameters: Any,
) -> None:
    """Raise `LookAheadError` if a strategy knows the future: what it wants at a bar must not change with what comes after.

    It is run on the whole history, and on `cuts` histories that end earlier, half of them right after it changed its mind, the
    others at random bars: where both have a row, they must be equal to the last digit. The features and forecasts have audits
    of their own.
    """
    chosen = strategy(name, **parameters)
    whole = chosen(candles, features, forecasts).exposure
    for cut in _cuts(whole, cuts, seed):
        tables = [None if one is None else one.iloc[:cut] for one in (candles, features, forecasts)]
        try:
            short = chosen(*tables).exposure  # type: ignore[arg-type]
        except Exception as error:
            raise InputError(
                f"Strategy {chosen.name!r} cannot be audited: on the first {cut:,} bars it raised {type(error).__name__}: "
                f"{error}. Let it give a missing exposure where it knows too few bars."
            ) from error
        differs = np.flatnonzero(~_same(short, whole[:cut]))
        if len(differs):
            bar = int(differs[-1])
            raise LookAheadError(
                f"Strategy {chosen.name!r} knows the future: at {candles.index[bar]} it wants {short[bar]:g} when the history "
                f"ends at {candles.index[cut - 1]}, and {whole[bar]:g} once later bars are there."
            )


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one == other) | (np.isnan(one) & np.isnan(other))


def _cuts(whole: np.ndarray, cuts: int, seed: int) -> list[int]:
    """How many bars the shorter histories have: what peeks seldom is found where it acts, so half end at a change."""
    random = np.random.default_rng(seed)
    places = np.arange(max(1, len(whole) // 20), len(whole))  # a strategy may ask for some history
    ends, before = whole[places - 1], whole[np.maximum(places - 2, 0)]
    changed = places[~_same(ends, before)]
    chosen = random.choice(changed, min(cuts // 2, len(changed)), replace=False)
    others = np.setdiff1d(places, chosen)
    rest = random.choice(others, min(cuts - len(chosen), len(others)), replace=False)
    return sorted([*chosen.tolist(), *rest.tolist()])
