"""Which columns say the same: rank correlations, alike columns side by side, as the selection clusters them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

from btclab.features.selection import REDUNDANT, rank_correlation, rank_shares
from btclab.reporting.charts import BLUE, ORANGE, _finish
from btclab.reporting.features import with_values

HEIGHT, LABEL_HEIGHT = 720, 13  # pixels of the map, and of a name beside it
SIGNED = [[0.0, BLUE], [0.5, "#ffffff"], [1.0, ORANGE]]


@dataclass(frozen=True)
class Clusters:
    """Rank `correlation` [column, column], alike ones side by side, and the number of the `cluster` of each column."""

    correlation: pd.DataFrame
    cluster: np.ndarray
    attrs: dict[Any, Any]

    def members(self) -> list[list[str]]:
        """The clusters, in the order of the columns, with what stands most for the others first."""
        found = []
        for number in dict.fromkeys(self.cluster.tolist()):
            inside = np.flatnonzero(self.cluster == number)
            alike = np.abs(self.correlation.to_numpy()[np.ix_(inside, inside)]).mean(axis=0)
            found.append([str(self.correlation.columns[place]) for place in inside[np.argsort(-alike, kind="stable")]])
        return found


def cluster(features: pd.DataFrame) -> Clusters:
    """Columns clustered by rank correlation as the selection does it; those that never change are left out."""
    kept = with_values(features)
    kept = kept.loc[:, kept.nunique() > 1]
    names = [str(name) for name in kept.columns]
    correlation = rank_correlation(np.array([rank_shares(kept[name].to_numpy(dtype=float)) for name in names]))
    correlation = np.nan_to_num((correlation + correlation.T) / 2)
    np.fill_diagonal(correlation, 1)
    if len(names) == 1:
        return Clusters(pd.DataFrame(correlation, names, names), np.zeros(1, dtype=int), dict(features.attrs))
    tree = linkage(squareform(np.round(1 - np.abs(correlation), 12)), "average", optimal_ordering=True)
    order = leaves_list(tree)
    cluster = fcluster(tree, 1 - REDUNDANT, "distance")[order]
    ordered = pd.DataFrame(correlation, names, names).iloc[order, order]
    return Clusters(ordered, cluster, dict(features.attrs))


def correlations(found: Clusters) -> go.Figure:
    """Rank correlation of all columns, alike ones side by side, a frame around those that say the same."""
    names = [str(name) for name in found.correlation.columns]
    figure = go.Figure(
        go.Heatmap(
            z=found.correlation.to_numpy().astype(np.float32).round(2),
            x=names,
            y=names,
            colorscale=SIGNED,
            zmin=-1,
            zmax=1,
            colorbar={"thickness": 12, "len": 0.5, "title": {"text": "rank<br>correlation"}},
            hovertemplate="%{y}<br>%{x}<br>%{z:.2f}<extra></extra>",
        )
    )
    names_at: dict[float, str] = {}
    sizes: dict[float, int] = {}
    place = 0
    for members in found.members():
        size = len(members)
        middle = place + (size - 1) / 2
        names_at[middle], sizes[middle] = (f"{members[0]} +{size - 1}" if size > 1 else members[0]), size
        if size > 1:
            edge = {"x0": place - 0.5, "x1": place + size - 0.5, "y0": place - 0.5, "y1": place + size - 0.5}
            figure.add_shape(type="rect", **edge, line={"color": "#24292f", "width": 1.4})
        place += size
    labelled = _apart(sizes, len(names) * LABEL_HEIGHT / HEIGHT)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, constrain="domain")
    figure.update_yaxes(
        tickvals=labelled, ticktext=[names_at[at] for at in labelled], tickfont_size=11, showgrid=False,
        autorange="reversed", scaleanchor="x", constrain="domain", automargin=True,
    )  # fmt: skip
    return _finish(figure, "Rank correlation of the columns", found.attrs, HEIGHT + 140)


def _apart(sizes: Mapping[float, int], least: float) -> list[float]:
    """The places that can be labelled so that no two are closer than `least`; the largest clusters have their way."""
    chosen: list[float] = []
    for place in sorted(sizes, key=lambda at: (-sizes[at], at)):
        if (sizes[place] > 1 or least <= 1) and all(abs(place - other) >= least for other in chosen):
            chosen.append(place)
    return sorted(chosen)
