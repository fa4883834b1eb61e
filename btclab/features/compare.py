"""Whether two computations of the same features agree."""

from __future__ import annotations

import numpy as np
import pandas as pd

TOLERANCE = 1e-9  # relative to the largest size of the column: rolling sums differ in the last bits only

Found = tuple[str, str, pd.Timestamp, float]  # column, test, first bar that differs, size of the largest difference


def differences(test: str, one: pd.DataFrame, other: pd.DataFrame, tolerance: float = TOLERANCE) -> list[Found]:
    """The columns in which the rows of `one` are not those of `other`, with the first such bar and the largest size.

    Sizes are shares of the column's largest value in `one`; infinite where only one of them has a value.
    """
    columns = one.columns if one.columns.equals(other.columns) else one.columns.union(other.columns, sort=False)
    left, right = _values(one, one.index, columns), _values(other, one.index, columns)
    unequal = (left != right) & ~(np.isnan(left) & np.isnan(right))
    found = []
    for column in np.flatnonzero(unequal.any(axis=0)):
        mine, others = left[:, column], right[:, column]
        with np.errstate(invalid="ignore"):  # ∞ − ∞
            size = np.where(unequal[:, column], np.abs(mine - others) / _size(mine), 0.0)
        size[np.isnan(size)] = np.inf
        moved = size > tolerance
        if moved.any():
            found.append((str(columns.tolist()[column]), test, one.index[int(np.argmax(moved))], float(size.max())))
    return found


def rows_until_equal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """After how many rows each column [time, column] is equal in both to the end; infinite where the last rows differ."""
    with np.errstate(invalid="ignore"):
        same = (np.abs(one - other) <= TOLERANCE * _size(one)) | (np.isnan(one) & np.isnan(other))
    rows = len(one) - np.argmax(~same[::-1], axis=0)
    return np.where(same.all(axis=0), 0.0, np.where(same[-1], rows, np.inf))


def _size(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.max(np.abs(values), axis=0, where=np.isfinite(values), initial=0.0) + 1e-12)


def _values(features: pd.DataFrame, index: pd.Index, columns: pd.Index) -> np.ndarray:
    """`features` as floats [time, column] on `index` and `columns`; what it has not is missing."""
    if not (features.index.equals(index) and features.columns.equals(columns)):
        features = features.reindex(index=index, columns=columns)
    return features.to_numpy(dtype=float)
