"""Checkpoints: one folder each, `models/<name>/` with `weights.safetensors` and `checkpoint.json`. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from btclab.errors import CheckpointError, InputError
from btclab.features.spec import FeatureSpec
from btclab.files import folder_aside, write_atomically
from btclab.forecasting.calibration import Calibration
from btclab.forecasting.dataset import Scaler
from btclab.forecasting.networks import VARIANTS
from btclab.settings import settings

FORMAT = 2
WEIGHTS, DESCRIPTION = "weights.safetensors", "checkpoint.json"
POINTERS = ("production",)


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and all that is needed to use it again: features, scaling, calibration, and where they came from.

    `folds` holds the ends of the folds as UTC times: a bar before `test_start` is in sample. `metrics` are those of the
    test fold. `curves` are the losses of each epoch, `audit` the certificate of the look-ahead audit, and `selection` what
    was weighed in choosing the features (None: all were taken).
    """

    name: str
    variant: str
    horizon: int
    network: torch.nn.Module = field(repr=False)
    spec: FeatureSpec = field(repr=False)
    scaler: Scaler = field(repr=False)
    calibration: Calibration = field(repr=False)
    options: dict[str, Any] = field(repr=False)
    market: dict[str, Any]
    folds: dict[str, str]
    metrics: dict[str, Any]
    curves: dict[str, list[float]] = field(repr=False)
    audit: dict[str, Any] = field(repr=False)
    selection: dict[str, Any] | None = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    @property
    def test_start(self) -> pd.Timestamp:
        """Open time of the first bar that is out of sample."""
        return pd.Timestamp(self.folds["test_start"])

    def save(self, path: str | Path | None = None) -> Path:
        """Write to `path` (default `models/<name>`), whole or not at all. Raises `StorageError` if it exists already."""
        target = Path(path) if path is not None else settings().models / self.name
        weights = save({name: tensor.contiguous() for name, tensor in self.network.state_dict().items()})
        with folder_aside(target) as aside:
            (aside / WEIGHTS).write_bytes(weights)
            text = json.dumps(self._description(weights), indent=2, allow_nan=False) + "\n"
            (aside / DESCRIPTION).write_text(text, encoding="utf-8")
        return target

    def _description(self, weights: bytes) -> dict[str, Any]:
        content = {
            "format": FORMAT,
            "name": self.name,
            "variant": self.variant,
            "horizon": self.horizon,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "market": self.market,
            "folds": self.folds,
            "metrics": self.metrics,
            "options": self.options,
            "provenance": self.provenance,
            "spec": self.spec.to_dict(),
            "scaler": {"mean": self.scaler.mean.tolist(), "scale": self.scaler.scale.tolist()},
            "calibration": {"slope": self.calibration.slope, "residuals": self.calibration.residuals.tolist()},
            "curves": self.curves,
            "audit": self.audit,
            "selection": self.selection,
        }
        return content | {"sha256": _digest(content)}


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_checkpoint(path: str | Path = "production") -> Checkpoint:
    """The checkpoint in the folder `path`, or the one of that name (or pointer, such as "production") in `models/`.

    Raises `CheckpointError` if it is missing, damaged, altered, or of another format.
    """
    folder = _find(path)
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        weights = (folder / WEIGHTS).read_bytes()
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} has format {content['format']!r}; this btclab reads {FORMAT}. Train again: btclab train"
            )
        if hashlib.sha256(weights).hexdigest() != content["weights_sha256"]:
            raise CheckpointError(
                f"The weights in {folder} are not those that were saved (checksum differs). Train again: btclab train"
            )
        if content.pop("sha256") != _digest(content):
            raise CheckpointError(
                f"{folder / DESCRIPTION} is not as it was saved (checksum differs). Train again: btclab train"
            )
        spec = FeatureSpec.from_dict(content["spec"])
        options = content["options"]
        network = VARIANTS[content["variant"]](
            len(spec.columns), options["hidden"], options["layers"], options["dropout"]
        )
        network.load_state_dict(load(weights))
        return Checkpoint(
            name=content["name"],
            variant=content["variant"],
            horizon=content["horizon"],
            network=network.eval(),
            spec=spec,
            scaler=Scaler(np.array(content["scaler"]["mean"]), np.array(content["scaler"]["scale"])),
            calibration=Calibration(content["calibration"]["slope"], np.array(content["calibration"]["residuals"])),
            options=options,
            market=content["market"],
            folds=content["folds"],
            metrics=content["metrics"],
            curves=content["curves"],
            audit=content["audit"],
            selection=content["selection"],
            provenance=content["provenance"],
        )
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, InputError) as error:
        raise CheckpointError(
            f"{folder} is no whole checkpoint ({type(error).__name__}: {error}). Train again: btclab train"
        ) from error


def _find(path: str | Path) -> Path:
    folder, pointer = Path(path), settings().models / str(path)
    if pointer.is_file() and str(path) in POINTERS:
        return settings().models / pointer.read_text(encoding="utf-8").strip()
    for candidate in (folder, settings().models / folder):
        if candidate.is_dir():
            return candidate
    raise CheckpointError(f"There is no checkpoint {str(path)!r} in {settings().models}. Make one: btclab train")


def promote(name: str, pointer: str = "production") -> bool:
    """Let `pointer` name the checkpoint `name` from now on; the change is atomic.

    A checkpoint of the simulated market never takes the place of one of a real market: then False, and nothing changes.
    """
    if pointer not in POINTERS or not re.fullmatch(r"[\w.\-]+", name) or not (settings().models / name).is_dir():
        raise CheckpointError(f"Cannot point {pointer!r} to {name!r}: it must be a folder in {settings().models}.")
    if load_checkpoint(name).market["simulated"] and _names_a_real_market(pointer):
        return False
    write_atomically(settings().models / pointer, lambda aside: aside.write_text(name + "\n", encoding="utf-8"))
    return True


def _names_a_real_market(pointer: str) -> bool:
    try:
        return not load_checkpoint(pointer).market["simulated"]
    except CheckpointError:  # it points to nothing that could be used
        return False
