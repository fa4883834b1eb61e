"""The audits of features: does one change when the future changes (look-ahead), or with where the history begins (warm-up)?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from btclab.errors import InputError, TooFewBars
from btclab.features.build import build_features
from btclab.features.compare import Found, differences, rows_until_equal
from btclab.features.cuts import LEAST_AFTER, LEAST_BEFORE, choose_cuts, choose_starts, window_around
from btclab.features.indicators import CUSTOM
from btclab.features.noise import noisy_candles, noisy_context
from btclab.features.publication import Join, joins_of
from btclab.features.registry import INDICATORS
from btclab.features.spec import FeatureSpec, resolve_spec
from btclab.market.candles import timeframe_of, validate_candles

REPEATED = "recomputed on the same bars"
REMOVED = "later bars removed"
REPLACED = "later bars replaced"
PUBLISHED = "context as it was public"
TABLE = ["feature", "test", "first_bar", "size"]
MOST_WHOLE = 200_000  # bars that are audited in one piece
MOST_NAMED = 5
CUTS, CUTS_OF_BUILDS, CUTS_OF_OTHERS = 6, 24, 60
REACH = 1000  # bars before a cut that an indicator of the user's own is given at least: its declared warm-up may be too short
SHOW_AFTER = 2.0  # seconds before a progress bar appears
SAME_WEEKDAY, OTHER_WEEKDAY = pd.Timedelta(days=-1092), pd.Timedelta(days=-1092, hours=29)  # 156 weeks; other hour too

Build = Callable[..., pd.DataFrame]
Make = Callable[[pd.DataFrame, pd.DataFrame | None], pd.DataFrame]


@dataclass(frozen=True)
class Audit:
    """What an audit found; `str(audit)` is the sentence that reports print.

    `table` has a row for each guilty column and test that caught it: the `first_bar` that moved, and the `size` of the
    largest move as a share of the column's largest value (infinite: a value came or went). `checked` columns had values at
    one of the `cuts`, the bars after which the future was altered (`most_cuts` for the user's own columns). `unverified`
    says by name what could not be checked, and why: nothing is known of its look-ahead.
    """

    table: pd.DataFrame
    checked: int
    cuts: int
    bars: int
    seed: int
    tests: tuple[str, ...]
    unverified: dict[str, str]
    most_cuts: int = 0
    subject: str = "features"

    @property
    def passed(self) -> bool:
        """Whether nothing leaks; what is `unverified` does not count."""
        return self.table.empty

    @property
    def leaky(self) -> list[str]:
        """Names of the guilty columns, sorted."""
        return sorted(set(self.table["feature"]))

    def certificate(self) -> dict[str, Any]:
        """What checkpoints and reports keep of the audit, as JSON."""
        return {
            "passed": self.passed,
            "sentence": str(self),
            "cuts": self.cuts,
            "bars": self.bars,
            "seed": self.seed,
            "tests": list(self.tests),
            "leaky": self.leaky,
            "unverified": dict(self.unverified),
        }

    def __str__(self) -> str:
        at = f"at {self.cuts} cut{'s' if self.cuts > 1 else ''}"
        if self.most_cuts > self.cuts:
            at = f"at {self.cuts} to {self.most_cuts} cuts"
        if self.passed:
            said = f"Look-ahead audit passed: none of {self.checked} {self.subject} changed {at} ({', '.join(self.tests)})."
        else:
            said = f"Look-ahead audit FAILED: {_listed(self.leaky)} changed {at} ({_listed(sorted(set(self.table['test'])))})."
        return f"{said} Not verified: {_listed(self.unverified)}." if self.unverified else said


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - MOST_NAMED} more" if len(every) > MOST_NAMED else ""
    return ", ".join(every[:MOST_NAMED]) + more


def audit_features(
    candles: pd.DataFrame,
    spec: str | Path | FeatureSpec = "default",
    context: pd.DataFrame | None = None,
    cuts: int | None = None,
    seed: int = 0,
    build: Build = build_features,
    progress: bool = False,
) -> Audit:
    """Recompute the features with the future altered after each of `cuts` bars: nothing at or before the cut may move.

    Later bars are removed; then replaced by others (prices four times as high, and a quarter; much volume, and none), with
    the rows of `context` beside them. For a series that `bl.load_context` joined, the stored values that were not yet public
    at the cut are replaced and joined anew; and its column must be the one that the store gives.

    The first cut is made in the whole history (the newest 200,000 bars), the others in windows of the warm-up and 800 bars
    beyond the cut. They lie at random, and where cheats that seldom show do: beside gaps, flat bars and holes, at the ends
    of days, weeks and months, at the largest moves, and where columns that seldom move do. By default there are 6 for what
    btclab's own indicators compute, which its tests audit too, and 60 for the user's own and pandas-ta's.

    What a function reads from elsewhere than the bars given cannot be altered. So a column of the user's own that depends on
    the date beyond hour and weekday, or on nothing, is listed in `unverified`, as is a context column without stored values.

    `build(candles, context=…, spec=…)` makes the features; it gets no `context` where there is none. Raises `TooFewBars`
    saying how many are needed, and `InputError` as `build_features` does.
    """
    chosen = resolve_spec(spec)
    validate_candles(candles)
    if cuts is not None:
        check_count("cuts", cuts)
    warmup = chosen.warmup_at(timeframe_of(candles))
    if len(candles) < (needed := warmup + LEAST_BEFORE + LEAST_AFTER):
        raise TooFewBars(
            f"The look-ahead audit of features {chosen.name!r} needs at least {needed:,} bars ({warmup:,} to warm up, the rest "
            f'to compare); there are {len(candles):,}. spec="core" needs fewer.'
        )
    if context is not None and not (isinstance(context, pd.DataFrame) and context.index.equals(candles.index)):
        raise InputError("context must be a frame with a row for each bar, as bl.load_context(candles) gives it.")
    bars, beside = candles.iloc[-MOST_WHOLE:], None if context is None else context.iloc[-MOST_WHOLE:]
    joins, unverified = ({}, {}) if beside is None else joins_of(bars, beside, chosen, build is not build_features)
    parts = _parts(chosen) if build is build_features else [(chosen, CUTS_OF_BUILDS)]
    counts = [cuts or usual for _, usual in parts]
    found: list[Found] = []
    checked = 0
    made: list[int] = []
    with tqdm(total=sum(counts), desc="audit", unit="cut", delay=SHOW_AFTER, disable=not progress) as bar:
        for (part, _), count in zip(parts, counts, strict=True):
            done = _audit_part(part, bars, beside, joins, count, seed, build, bar)
            found += done.found
            unverified |= done.unverified
            checked, made = checked + done.checked, [*made, done.cuts]
    tests = (REPEATED, REMOVED, REPLACED, *([PUBLISHED] if joins else []))
    return Audit(found_table(found), checked, min(made), len(candles), seed, tests, unverified, max(made))


def _parts(spec: FeatureSpec) -> list[tuple[FeatureSpec, int]]:
    """The features that btclab's own indicators compute, and the others, each with the usual number of cuts."""
    own = {one.name for one in spec.features if one.indicator in INDICATORS}
    parts = [(own, CUTS), (set(spec.columns) - own, CUTS_OF_OTHERS)]
    return [(spec.only(names), cuts) for names, cuts in parts if names]


@dataclass(frozen=True)
class _Part:
    """What the audit of some of the features found."""

    found: list[Found]
    unverified: dict[str, str]
    checked: int
    cuts: int


def _audit_part(
    spec: FeatureSpec,
    candles: pd.DataFrame,
    context: pd.DataFrame | None,
    joins: dict[str, Join],
    count: int,
    seed: int,
    build: Build,
    bar: Any,
) -> _Part:
    def make(part: pd.DataFrame, beside: pd.DataFrame | None) -> pd.DataFrame:
        made = build(part, spec=spec) if beside is None else build(part, context=beside, spec=spec)
        if build is build_features:
            made.attrs = {}  # pandas would copy them, deeply, at each turn
        return made

    random, warmup = np.random.default_rng(seed), spec.warmup_at(timeframe_of(candles))
    others = {one.name for one in spec.features if one.indicator not in INDICATORS}
    reach = max(warmup, REACH) if others or build is not build_features else warmup
    whole = make(candles, context)
    found = _as_published(make, whole, candles, context, joins)
    sound = {name: join for name, join in joins.items() if context is not None and join.equals(context)}
    places = choose_cuts(candles, context, whole, warmup, count, random)

    def window(cut: int) -> tuple[pd.DataFrame, pd.DataFrame | None, int]:
        part = slice(0, len(candles)) if cut == places[0] else window_around(candles, cut, reach)
        return candles.iloc[part], None if context is None else context.iloc[part], cut + 1 - part.start

    seen = np.zeros((len(places), whole.shape[1]), dtype=bool)
    for number, cut in enumerate(places):
        bars, beside, known = window(cut)
        right = make(bars, beside) if number else whole
        before = right[right.index <= candles.index[cut]]
        seen[number] = _present(before.reindex(columns=whole.columns))
        if number:
            found += _altered(make, before, bars, beside, known, sound, (True, False), random)
        else:  # it takes the longest: one future will do
            found += _altered(make, before, bars, beside, known, {}, (bool(random.integers(2)),), random)
        bar.update()
    bars, beside, _ = window(places[-1])
    unstable = differences(REPEATED, make(bars, beside), make(bars, beside))
    changing = {name for name, *_ in unstable}
    own = {one.name for one in spec.features if one.indicator in CUSTOM}
    if build is not build_features:
        own |= {name for name, *_ in differences("", make(bars, beside), build_features(bars, beside, spec))}
    unverified = _from_elsewhere(make, own - changing, bars, beside, random)
    checked = seen[-1:].any(axis=0) if len(places) == 1 else seen[1:].any(axis=0)
    unseen = whole.columns[_present(whole) & ~checked]
    unverified |= dict.fromkeys(map(str, unseen), "it has no value before the cuts: is its declared warm-up too short?")
    return _Part(
        unstable + [one for one in found if one[0] not in changing], unverified, int(checked.sum()), len(places)
    )


def found_table(found: list[Found]) -> pd.DataFrame:
    """One row a column and test: its first bar and largest size; the earliest first."""
    table = pd.DataFrame(found, columns=TABLE).sort_values("first_bar", kind="stable")
    table["size"] = table.groupby(["feature", "test"])["size"].transform("max")
    return table.drop_duplicates(["feature", "test"]).reset_index(drop=True)


def _present(features: pd.DataFrame) -> np.ndarray:
    """Which columns have a value at all."""
    return np.asarray(features.notna().any(axis=0))


def check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1.")


def _altered(
    make: Make,
    before: pd.DataFrame,
    bars: pd.DataFrame,
    context: pd.DataFrame | None,
    known: int,
    joins: dict[str, Join],
    ways: tuple[bool, ...],
    random: np.random.Generator,
) -> list[Found]:
    """What moves in `before`, the features of the first `known` of `bars`, when everything later is altered."""
    found = differences(REMOVED, before, make(bars.iloc[:known], None if context is None else context.iloc[:known]))
    for rises in ways:
        beside = None if context is None else noisy_context(context, known, rises, random)
        found += differences(REPLACED, before, make(noisy_candles(bars, known, rises, random), beside))
    if context is not None and joins:
        beside = context.copy()
        moved = []
        for name, join in joins.items():
            beside[name] = join.with_noise(bars, known, random)
            moved += [name] if differences("", context[[name]].iloc[:known], beside[[name]]) else []
        found += differences(f"{PUBLISHED}: {', '.join(moved)}" if moved else PUBLISHED, before, make(bars, beside))
    return found


def _as_published(
    make: Make, whole: pd.DataFrame, bars: pd.DataFrame, context: pd.DataFrame | None, joins: dict[str, Join]
) -> list[Found]:
    """What moves in the features when a context column that is not what was public is replaced by what was."""
    found = []
    for name, join in joins.items():
        if context is not None and not join.equals(context):
            found += differences(f"{PUBLISHED}: {name}", whole, make(bars, context.assign(**{name: join.column})))
    return found


def _from_elsewhere(
    make: Make,
    names: set[str],
    bars: pd.DataFrame,
    context: pd.DataFrame | None,
    random: np.random.Generator,
) -> dict[str, str]:
    """Which of the columns `names` may be read from elsewhere than the `bars` given, and why that is thought."""
    if not names:
        return {}
    right = make(bars, context)[sorted(names)]

    def moves(other: pd.DataFrame, beside: pd.DataFrame | None) -> set[str]:
        return {name for name, *_ in differences("", right, make(other, beside).set_axis(right.index)[right.columns])}

    try:
        by_date = moves(*_stamped(SAME_WEEKDAY, bars, context))
        by_hour = moves(*_stamped(OTHER_WEEKDAY, bars, context))
    except (LookupError, ValueError) as error:
        why = f"it cannot be computed on the same bars of other dates ({type(error).__name__}: {error})"
        return dict.fromkeys(sorted(names), why)
    noisy = None if context is None else noisy_context(context, 0, True, random)
    by_bars = moves(noisy_candles(bars, 0, True, random), noisy)
    constant = {str(name) for name in right.columns if right[name].nunique() <= 1}
    reasons = {name: "it depends on the date beyond hour and weekday: is it read from elsewhere?" for name in by_date}
    for name in names - by_date - by_hour - by_bars - constant:
        reasons[name] = "it depends neither on the bars nor on their times: is it read from elsewhere?"
    return {name: reasons[name] for name in sorted(reasons)}


def _stamped(
    later: pd.Timedelta, bars: pd.DataFrame, context: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The same bars and context, at other times."""
    index = pd.DatetimeIndex(bars.index + later, name=bars.index.name)
    return bars.set_axis(index), None if context is None else context.set_axis(index)


def audit_warmup(
    candles: pd.DataFrame,
    spec: str | Path | FeatureSpec = "default",
    context: pd.DataFrame | None = None,
    starts: int = 24,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure for each feature how many bars it needs until it no longer matters where the history begins.

    The features are computed from the first bar, and again from each of `starts` later ones: some at random, some beside
    gaps, flat bars, large moves and the ends of days. `measured` is the largest number of bars, over all starts, after which
    both agree to 1e-9 of the column's size; infinite if they do not within twice the longest declared warm-up. `declared`
    is what the spec says, in bars; `passed`: measured is not larger. One row a feature that has values.

    Raises `TooFewBars` saying how many are needed.
    """
    chosen = resolve_spec(spec)
    validate_candles(candles)
    check_count("starts", starts)
    timeframe = timeframe_of(candles)
    declared = {one.name: one.warmup_at(timeframe) for one in chosen.features}
    span = 2 * max(declared.values()) + 2 * LEAST_BEFORE
    if len(candles) < (needed := span + max(declared.values()) + LEAST_BEFORE):
        raise TooFewBars(
            f"The warm-up audit of features {chosen.name!r} needs at least {needed:,} bars, three warm-ups; "
            f'there are {len(candles):,}. spec="core" needs fewer.'
        )
    bare = replace(chosen, features=tuple(replace(one, warmup=0) for one in chosen.features))  # nothing is blanked
    whole = build_features(candles, context, bare)
    places = choose_starts(candles, len(candles) - span, starts, np.random.default_rng(seed))
    measured = np.zeros(whole.shape[1])
    for start in tqdm(places, desc="warm-up audit", unit="start", delay=SHOW_AFTER, disable=not progress):
        part = slice(start, start + span)
        later = build_features(candles.iloc[part], None if context is None else context.iloc[part], bare)
        measured = np.maximum(measured, rows_until_equal(whole.iloc[part].to_numpy(), later.to_numpy()))
    table = pd.DataFrame({"feature": list(declared), "declared": list(declared.values()), "measured": measured})
    table["passed"] = table["measured"] <= table["declared"]
    return table[np.isfinite(whole.to_numpy()).any(axis=0)].reset_index(drop=True)
