"""What can forecast: networks, a random forest, a ridge regression, nothing at all; alone or as the members of an ensemble.

Each turns scaled features into an `Answer`. Their numbers are tensors by name, so that a checkpoint needs no pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from btclab.forecasting.calibration import LEVELS, NORMAL_QUANTILES
from btclab.forecasting.networks import AttentionLSTM, LSTMNetwork, make_network, point, predict

PROBIT_TO_LOGIT = 1.702  # the logistic curve of this slope is nearest to the normal one (Camilli 1994)


@dataclass(frozen=True)
class Answer:
    """In units of volatility, before calibration, arrays [time, horizon]; missing where there is no whole window.

    `quantiles` [time, horizon, 5] or None for a point forecast; `score` grows with the odds of up; `spread` is the standard
    deviation over an ensemble's members or a network's dropout masks, or None.
    """

    mean: np.ndarray
    score: np.ndarray
    quantiles: np.ndarray | None = None
    spread: np.ndarray | None = None


class Member(Protocol):
    """Answers for scaled `features` [time, feature] whose bars have the numbers `bars` [time], as `networks.predict`."""

    kind: str

    def answer(self, features: Tensor, bars: np.ndarray, context: int) -> Answer: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class NetworkMember:
    """A trained network of `variant`."""

    variant: str
    network: LSTMNetwork
    kind = "network"

    def answer(self, features: Tensor, bars: np.ndarray, context: int) -> Answer:
        output = predict(self.network, features, bars, context).astype(float)
        mean = point(self.network, output)
        if self.network.QUANTILES:
            return Answer(mean, output[..., len(LEVELS)], output[..., : len(LEVELS)])
        masks = isinstance(self.network, AttentionLSTM)
        spread = predict(self.network, features, bars, context, spread=True).astype(float) if masks else None
        return Answer(mean, PROBIT_TO_LOGIT * mean, None, spread)

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.network.state_dict())

    def describe(self) -> dict[str, Any]:
        lstm = self.network.lstm
        return {
            "kind": self.kind,
            "variant": self.variant,
            "hidden": self.network.hidden,
            "layers": lstm.num_layers,
            "features": lstm.input_size,
            "horizons": self.network.horizons,
        }


@dataclass(frozen=True)
class RidgeMember:
    """A linear forecast from the newest bar's features alone: weights [feature, horizon], intercept [horizon]."""

    weights: np.ndarray
    intercept: np.ndarray
    kind = "ridge"

    @classmethod
    def fit(
        cls, features: np.ndarray, targets: np.ndarray, strengths: Sequence[float] = (1e2, 1e3, 1e4, 1e5)
    ) -> RidgeMember:
        """From rows [row, feature] and targets [row, horizon]; the strength is the best on the last quarter of the rows."""
        cut = 3 * len(features) // 4
        scores = [
            np.mean((cls._solve(features[:cut], targets[:cut], s)._mean(features[cut:]) - targets[cut:]) ** 2)
            for s in strengths
        ]
        return cls._solve(features, targets, strengths[int(np.argmin(scores))])

    @classmethod
    def _solve(cls, features: np.ndarray, targets: np.ndarray, strength: float) -> RidgeMember:
        # No intercept is fitted: the drift of the training years is no skill, and the features are centred.
        power = features.T @ features + strength * np.eye(features.shape[1])
        return cls(np.linalg.solve(power, features.T @ targets), np.zeros(targets.shape[1]))

    def _mean(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weights + self.intercept

    def answer(self, features: Tensor, bars: np.ndarray, context: int) -> Answer:
        mean = self._mean(features.numpy().astype(float))
        return Answer(mean, PROBIT_TO_LOGIT * mean)

    def tensors(self) -> dict[str, Tensor]:
        return {"weights": torch.from_numpy(self.weights), "intercept": torch.from_numpy(self.intercept)}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}


@dataclass(frozen=True)
class ForestMember:
    """A random forest (scikit-learn) on the newest bar's features: the nodes of its trees, one after the other.

    `feature` < 0 marks a leaf; `left` and `right` are node numbers; `value` [node, horizon].
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    kind = "forest"

    @classmethod
    def fit(cls, features: np.ndarray, targets: np.ndarray, trees: int, seed: int) -> ForestMember:
        """From rows [row, feature] and targets [row, horizon]."""
        from sklearn.ensemble import RandomForestRegressor

        leaf = max(50, len(features) // 100)  # the signal is faint: small leaves would hold noise alone
        forest = RandomForestRegressor(
            trees, max_depth=6, min_samples_leaf=leaf, max_features=0.33, max_samples=0.5, n_jobs=2, random_state=seed
        ).fit(features, targets if targets.shape[1] > 1 else targets[:, 0])
        parts: dict[str, list[np.ndarray]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}
        roots, count = [], 0
        for one in forest.estimators_:
            tree = one.tree_
            roots.append(count)
            leaf_here = tree.children_left < 0
            parts["feature"].append(np.where(leaf_here, -1, tree.feature).astype(np.int32))
            parts["threshold"].append(tree.threshold)
            parts["left"].append(np.where(leaf_here, 0, tree.children_left + count).astype(np.int32))
            parts["right"].append(np.where(leaf_here, 0, tree.children_right + count).astype(np.int32))
            parts["value"].append(tree.value[:, :, 0])
            count += tree.node_count
        return cls(np.array(roots, dtype=np.int32), *(np.concatenate(parts[name]) for name in parts))

    def answer(self, features: Tensor, bars: np.ndarray, context: int) -> Answer:
        rows = features.numpy()
        mean = np.zeros((len(rows), self.value.shape[1]))
        for root in self.roots:
            node = np.full(len(rows), root)
            while (inner := self.feature[node] >= 0).any():
                read = rows[np.arange(len(rows)), np.maximum(self.feature[node], 0)]
                step = np.where(read <= self.threshold[node], self.left[node], self.right[node])
                node = np.where(inner, step, node)
            mean += self.value[node]
        mean /= len(self.roots)
        return Answer(mean, PROBIT_TO_LOGIT * mean)

    def tensors(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in self.__dataclass_fields__}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "trees": len(self.roots)}


def restore(said: dict[str, Any], tensors: dict[str, Tensor]) -> Member:
    """A member from what `describe` and `tensors` gave. Raises what its constructor or PyTorch raises when they do not fit."""
    if said["kind"] == "network":
        network = make_network(said["variant"], said["features"], said["horizons"], said["hidden"], said["layers"])
        network.load_state_dict(tensors)
        return NetworkMember(said["variant"], network.eval())
    arrays = {name: one.numpy() for name, one in tensors.items()}
    return RidgeMember(**arrays) if said["kind"] == "ridge" else ForestMember(**arrays)


def combine(answers: Sequence[Answer], weights: np.ndarray) -> Answer:
    """The weighted mean of several answers; quantiles are averaged level by level (Vincent 1912), point forecasts as normal."""
    if len(answers) == 1:
        return answers[0]
    mean = sum(w * one.mean for w, one in zip(weights, answers, strict=True))
    score = sum(w * one.score for w, one in zip(weights, answers, strict=True))
    spread = np.sqrt(sum(w * (one.mean - mean) ** 2 for w, one in zip(weights, answers, strict=True)))
    quantiles = None
    if any(one.quantiles is not None for one in answers):
        each = [one.mean[..., None] + NORMAL_QUANTILES if one.quantiles is None else one.quantiles for one in answers]
        quantiles = np.asarray(sum(w * one for w, one in zip(weights, each, strict=True)))
    return Answer(np.asarray(mean), np.asarray(score), quantiles, np.asarray(spread))


def member_weights(answers: Sequence[Answer], targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Weights ≥ 0 with sum 1: halfway between equal ones and the least squares of the validation `rows` (Breiman 1996).

    Equal alone where none of the members explains anything.
    """
    equal = np.full(len(answers), 1 / len(answers))
    if len(answers) == 1:
        return equal
    fitted, _ = nnls(np.stack([one.mean[rows].ravel() for one in answers], axis=1), targets[rows].ravel())
    return (equal + fitted / fitted.sum()) / 2 if fitted.sum() > 0 else equal
