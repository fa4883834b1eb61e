"""Which columns are worth a network's while: those that change, that no other column repeats, and that say most of the target.

Every number is measured on ranks, so that a column's unit, its outliers and any rising transform of it change nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from btclab.errors import InputError, TooFewBars

MOST_MISSING = 0.05  # of the rows past the warm-up; each of them costs the network a whole window
REDUNDANT = 0.9  # columns whose absolute rank correlations average more than this say the same
BINS = 8  # of equally many rows, of column and target; fewer where cells would hold fewer than ROWS_PER_CELL rows
ROWS_PER_CELL = 10
MIN_ROWS = 200  # with a target; fewer tell nothing about a hundred columns
BLOCK = 720  # rows, on average, that stay together when a column is shuffled: most columns remember less than a month of hours
SHUFFLES = 9  # a table without information about the target passes the noise line in one of 10 cases
NOISE = "noise"  # the group of columns that are known to mean nothing


@dataclass(frozen=True)
class Selection:
    """`columns` that were chosen, in the order of the features; `table`, one row a feature, says why.

    `table`: `feature`, `kept`, `reason` in words, `cluster` (columns of one number say the same; −1: in none), `information`
    (nats; missing where it was not measured) and `above_noise`. `noise_line` (nats) is the largest information among
    columns that mean nothing, `rows` how many rows were looked at.
    """

    columns: list[str]
    table: pd.DataFrame = field(repr=False)
    noise_line: float
    rows: int

    def __str__(self) -> str:
        reasons = self.table.loc[~self.table["kept"] & (self.table["reason"] != NOISE), "reason"]
        kinds = {
            "never changes": ("never change", "never changes"),
            "missing": ("have holes", "has holes"),
            "as ": ("repeat another", "repeats another"),
            "less ": ("say less of the target", "says less of the target"),
        }
        counts = {words: int(reasons.str.startswith(start).sum()) for start, words in kinds.items()}
        left_out = ", ".join(f"{count} {one if count == 1 else many}" for (many, one), count in counts.items() if count)
        above = int(self.table.loc[self.table["kept"], "above_noise"].sum())
        text = f"{len(self.columns)} of {len(self.columns) + len(reasons)} columns chosen on {self.rows:,} rows"
        says = f"{above} of them {'says' if above == 1 else 'say'} more of the target than noise does."
        return f"{text}{f' ({left_out})' if left_out else ''}; {says}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: what is missing becomes None."""
        rows = self.table.astype(object).where(self.table.notna(), None).to_dict("records")
        return {"columns": self.columns, "noise_line": self.noise_line, "rows": self.rows, "table": rows}


def select_features(features: pd.DataFrame, target: np.ndarray, most: int, seed: int = 0) -> Selection:
    """The `most` columns of `features` that say most of `target` [time], none of them twice. Give it training rows only.

    It knows nothing of folds: whoever calls it cuts, and what it is not given it cannot see. In four steps:

    1. A column that never changes, or is missing in more than 5 % of the rows past its warm-up, goes.
    2. Columns are clustered by rank correlation (average linkage on 1 − |Spearman's ρ|); of each cluster closer than 0.1,
       the column with the most information stays. (López de Prado 2020, Machine Learning for Asset Managers, ch. 4 and 6.)
    3. Information is the mutual information of column and target, direction and size of the move alike (see
       `mutual_information`).
    4. Of what is left, the best `most` are kept, above the noise line or not: alone, a column may look like noise and not
       in company. The table tells which are.

    The noise line is the largest information found among copies of all columns that were shuffled in time (as the shadow
    features of Kursa and Rudnicki 2010, but in blocks, for neighbouring hours are alike and 30,000 of them no 30,000
    observations) and among the columns of group "noise", which are never chosen. `seed` moves that line and nothing else.

    `features.attrs["features"]`, as `build_features` writes it, tells warm-up and group; without it there is no warm-up.
    Missing values are left out, never filled. Raises `InputError` for `most` below 1, a target of another length or no
    column left, and `TooFewBars` for fewer than 200 rows with a target.
    """
    known = _check(features, target, most)
    facts = features.attrs.get("features", {})
    noise = [str(name) for name in features.columns if facts.get(name, {}).get("group") == NOISE]
    reasons = {
        str(name): NOISE
        if name in noise
        else _unusable(column.to_numpy(float), known, facts.get(name, {}).get("warmup", 0))
        for name, column in features.items()
    }
    usable = sorted(name for name, reason in reasons.items() if not reason)  # the order of the columns decides nothing
    if not usable:
        raise InputError(f"No column is left to choose from: {_counted(reasons)}.")
    ranks = np.array([rank_shares(np.where(known, features[name].to_numpy(float), np.nan)) for name in usable + noise])
    found, shuffled = _measured(ranks, len(usable), rank_shares(np.where(known, target, np.nan)), seed)
    information = dict(zip(usable + noise, found, strict=True))
    noise_line = max([shuffled, *(information[name] for name in noise)])
    correlation = rank_correlation(ranks[: len(usable)])
    cluster = dict(zip(usable, _clusters(correlation), strict=True))
    reasons |= _decided(usable, information, cluster, correlation, most)
    names = [str(name) for name in features.columns]
    table = pd.DataFrame({"feature": names, "kept": [reasons[name] == "kept" for name in names]})
    table["reason"] = [reasons[name] for name in names]
    table["cluster"] = [int(cluster.get(name, -1)) for name in names]
    table["information"] = [information.get(name, np.nan) for name in names]
    table["above_noise"] = table["information"] > noise_line
    return Selection([name for name in names if reasons[name] == "kept"], table, noise_line, int(known.sum()))


def _measured(ranks: np.ndarray, usable: int, goal: np.ndarray, seed: int) -> tuple[list[float], float]:
    """Information of each of the columns in `ranks` [column, time] on `goal` [time], and the most that the first `usable` have
    when they are shuffled in time."""
    known = np.isfinite(goal)
    bins = int(np.clip(np.sqrt(known.sum() / ROWS_PER_CELL), 2, BINS))
    codes, aim = np.array([_codes(one[known], bins) for one in ranks]), _codes(goal[known], bins)
    found = [_information(code, aim, bins) for code in codes]
    return found, _shuffled_information(codes[:usable], aim, bins, np.random.default_rng(seed))


def _decided(
    names: list[str], information: dict[str, float], cluster: dict[str, int], correlation: np.ndarray, most: int
) -> dict[str, str]:
    """What becomes of each of `names`, in words; `correlation` [name, name]."""
    first: dict[int, str] = {}  # of each cluster the best, the best cluster first
    for name in sorted(names, key=lambda name: -information[name]):
        first.setdefault(cluster[name], name)
    place = {name: number for number, name in enumerate(first.values())}
    decided = {}
    for name, row in zip(names, correlation, strict=True):
        best = first[cluster[name]]
        if name != best:
            decided[name] = f"as {best} (rank correlation {row[names.index(best)]:.2f})"
        else:
            decided[name] = "kept" if place[name] < most else f"less information than {place[name]} others"
    return decided


def _check(features: pd.DataFrame, target: np.ndarray, most: int) -> np.ndarray:
    """Which rows [time] have a target."""
    if isinstance(most, bool) or not isinstance(most, int | np.integer) or most < 1:
        raise InputError(f"most is {most!r}; it must be a whole number of columns of at least 1, e.g. 40.")
    if np.shape(target) != (len(features),):
        raise InputError(
            f"target has shape {np.shape(target)}; it must hold one value for each of the {len(features):,} rows of features."
        )
    known = np.isfinite(target)
    if known.sum() < MIN_ROWS:
        raise TooFewBars(
            f"{known.sum():,} rows have a target; choosing columns needs at least {MIN_ROWS}. Give more bars."
        )
    return known


def _unusable(values: np.ndarray, known: np.ndarray, warmup: int) -> str:
    """Why a column [time] cannot be used, or an empty text."""
    held = np.isfinite(values)
    leading = int(held.argmax()) if held.any() else 0
    past = np.arange(len(values)) >= min(leading, warmup)
    missing = 1 - held[past & known].mean() if (past & known).any() else 1.0
    if missing > MOST_MISSING:
        return f"missing in {missing:.0%} of rows".replace("%", " %")
    own = values[held & known]
    if np.ptp(own) <= 1e-12 * np.abs(own).max():
        return "never changes"
    return ""


def _counted(reasons: dict[str, str]) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in Counter(reasons.values()).items())


def rank_shares(values: np.ndarray) -> np.ndarray:
    """Ranks [time] as shares of the values there are, 0…1, ties at their middle; missing stays missing."""
    ranks = pd.Series(values).rank()
    return ((ranks - 0.5) / ranks.count()).to_numpy()


def _codes(ranks: np.ndarray, bins: int) -> np.ndarray:
    """The bin [time] of each value, −1 where it is missing."""
    return np.where(np.isnan(ranks), -1, np.minimum(np.nan_to_num(ranks) * bins, bins - 1)).astype(np.int64)


def mutual_information(values: np.ndarray, target: np.ndarray, bins: int = BINS) -> float:
    """Mutual information of two series [time] in nats, over the rows that both have: 0 says independent.

    Estimated on `bins` × `bins` cells of equally many rows each way (Fraser and Swinney 1986), less its bias on independent
    series (Miller 1955), so that it may come out a little below zero. Nearest neighbours (Kraskov et al. 2004, as
    scikit-learn has it) resolve finer, but err by 0.01 nats on some thousand rows, where hourly returns hold about that much.
    """
    return _information(_codes(rank_shares(values), bins), _codes(rank_shares(target), bins), bins)


def _information(one: np.ndarray, other: np.ndarray, bins: int) -> float:
    both = (one >= 0) & (other >= 0)
    counts = np.bincount(one[both] * bins + other[both], minlength=bins * bins).reshape(bins, bins)
    rows, columns = counts.sum(axis=1), counts.sum(axis=0)
    total = int(rows.sum())
    filled = counts > 0
    ratio = counts[filled] * total / np.outer(rows, columns)[filled]
    bias = ((rows > 0).sum() - 1) * ((columns > 0).sum() - 1) / (2 * total)
    return float((counts[filled] * np.log(ratio)).sum() / total - bias)


def _shuffled_information(codes: np.ndarray, goal: np.ndarray, bins: int, random: np.random.Generator) -> float:
    """The largest information in columns [column, time] that were shuffled in time, all of them alike, `SHUFFLES` times."""
    largest = -np.inf
    for _ in range(SHUFFLES):
        order = shuffle_in_blocks(codes.shape[1], BLOCK, random)
        largest = max(largest, *(_information(code[order], goal, bins) for code in codes))
    return largest


def shuffle_in_blocks(length: int, block: int, random: np.random.Generator) -> np.ndarray:
    """The positions 0 … length − 1 in another order: cut at random places into blocks of `block` on average, these shuffled.

    What is alike between neighbours stays. The blocks are of random length (as in Politis and Romano 1994): whole days
    would leave every hour of the day in its place, and a calendar column as good as unshuffled.
    """
    pieces = int(np.clip(length // max(block, 1), min(10, length), length))
    cuts = np.sort(random.permutation(np.arange(1, length))[: pieces - 1])
    blocks = np.split(np.arange(length), cuts)
    return np.concatenate([blocks[i] for i in random.permutation(len(blocks))])


def rank_correlation(ranks: np.ndarray) -> np.ndarray:
    """Rank correlation [column, column] over the rows that both have, ranks being those within each column's own rows."""
    held = np.isfinite(ranks)
    value, weight = np.where(held, ranks - 0.5, 0.0), held.astype(float)  # 0 adds nothing to any of the sums
    count = np.maximum(weight @ weight.T, 1)
    sums, squares = value @ weight.T, (value**2) @ weight.T  # [i, j]: of column i over the rows that j has as well
    covariance = value @ value.T - sums * sums.T / count
    variance = squares - sums**2 / count
    size = np.sqrt(np.maximum(variance * variance.T, 0))
    # where one of the two does not change over these rows, nothing is known of how they move together
    return np.clip(np.divide(covariance, size, out=np.zeros_like(size), where=size > 1e-9), -1, 1)


def _clusters(correlation: np.ndarray) -> np.ndarray:
    """Number of each column's cluster, from 0."""
    if len(correlation) == 1:
        return np.zeros(1, dtype=int)
    distance = 1 - np.abs(correlation)
    distance = np.round((distance + distance.T) / 2, 12)  # the last bits must not decide between equals
    np.fill_diagonal(distance, 0)
    return fcluster(linkage(squareform(distance), "average"), 1 - REDUNDANT, "distance") - 1


def selection_stability(
    features: pd.DataFrame, target: np.ndarray, folds: int | Sequence[slice] = 5, most: int = 40, seed: int = 0
) -> pd.DataFrame:
    """How often each column is chosen when only a part of the training rows is looked at. Give it training rows only.

    `folds`: slices of rows, or the number of consecutive parts to cut the rows into. One row a feature: `chosen`, the share
    of parts in which it is; `cluster`, by rank correlation over all rows; `cluster_chosen`, the share in which it or another
    of its cluster is, for which of two that say the same is chosen matters little. `attrs`, over the columns that may be
    chosen:

    - `parts` how many, `always` the columns that were chosen in all
    - `jaccard`: columns that two parts share over those that either has, mean over pairs of parts
    - `stability`: the same, less what chance would share; 1 the same columns each time, 0 as if drawn by lot (Nogueira,
      Sechidis and Brown 2018, JMLR 18(174); above 0.75 excellent, below 0.4 poor); `cluster_stability`, of clusters

    Raises as `select_features`, and `InputError` for fewer than two parts.
    """
    parts = list(folds) if not isinstance(folds, int | np.integer) else _parts(len(features), int(folds))
    if len(parts) < 2:
        raise InputError(f"folds is {folds!r}; stability needs at least 2 parts of the rows to compare, e.g. 5.")
    whole = select_features(features, target, most, seed).table
    picked = np.zeros((len(parts), len(whole)), dtype=bool)
    for number, part in enumerate(parts):
        picked[number] = select_features(features.iloc[part], target[part], most, seed).table["kept"]
    eligible = (whole["reason"] != NOISE).to_numpy()
    cluster = whole["cluster"].to_numpy()
    together = np.array([[row[cluster == one].any() for one in np.unique(cluster[cluster >= 0])] for row in picked])
    table = pd.DataFrame({"feature": whole["feature"], "chosen": picked.mean(axis=0), "cluster": cluster})
    shares = dict(zip(np.unique(cluster[cluster >= 0]), together.mean(axis=0), strict=True))
    table["cluster_chosen"] = [shares.get(one, share) for one, share in zip(cluster, table["chosen"], strict=True)]
    table.attrs = {
        "parts": len(parts),
        "always": [str(name) for name in table.loc[table["chosen"] == 1, "feature"]],
        "jaccard": _jaccard(picked),
        "stability": _stability(picked[:, eligible]),
        "cluster_stability": _stability(together),
    }
    return table


def _parts(rows: int, parts: int) -> list[slice]:
    if parts > 0 and rows // parts < MIN_ROWS:
        raise TooFewBars(
            f"{rows:,} rows are too few for {parts} parts of at least {MIN_ROWS}. Give more bars or fewer parts."
        )
    edges = np.linspace(0, rows, max(parts, 0) + 1).astype(int)
    return [slice(int(one), int(two)) for one, two in pairwise(edges)]


def _jaccard(picked: np.ndarray) -> float:
    """Mean over pairs of rows of `picked` [part, column]: columns in both over columns in either."""
    pairs = [
        (one & other).sum() / (one | other).sum() for number, one in enumerate(picked) for other in picked[number + 1 :]
    ]
    return float(np.mean(pairs))


def _stability(picked: np.ndarray) -> float | None:
    """Nogueira's stability of `picked` [part, column]; None where all or no columns are picked: there is nothing to choose."""
    parts, share, mean = len(picked), picked.mean(axis=0), picked.mean()
    if mean in (0, 1):
        return None
    variance = parts / (parts - 1) * share * (1 - share)
    return float(1 - variance.mean() / (mean * (1 - mean)))
