"""Checkpoints: one folder each, `models/<name>/` with `weights.safetensors` and `checkpoint.json`. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load, save

from btclab.errors import CheckpointError, InputError, unknown
from btclab.features.spec import FeatureSpec
from btclab.files import folder_aside, write_atomically
from btclab.forecasting.calibration import METHODS, NAMES, Calibration
from btclab.forecasting.dataset import Scaler
from btclab.forecasting.members import Member, NetworkMember, restore
from btclab.settings import settings

FORMAT = 3
WEIGHTS, DESCRIPTION = "weights.safetensors", "checkpoint.json"
POINTERS = ("production", "best")
NAME = re.compile(r"\w[\w.\-]*")


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and all that is needed to use it again: features, scaling, calibration, and where they came from.

    `folds` holds the ends of the folds as UTC times: a bar before `test_start` is in sample. `metrics` are those of the
    test fold. `curves` are the losses of each epoch, `audit` the certificate of the look-ahead audit, and `selection` what
    was weighed in choosing the features (None: all were taken).
    """

    name: str
    variant: str
    horizons: tuple[int, ...]
    members: tuple[Member, ...] = field(repr=False)
    weights: tuple[float, ...] = field(repr=False)
    spec: FeatureSpec = field(repr=False)
    scaler: Scaler = field(repr=False)
    calibrations: tuple[Calibration, ...] = field(repr=False)
    options: dict[str, Any] = field(repr=False)
    market: dict[str, Any]
    folds: dict[str, str]
    metrics: dict[str, Any]
    curves: dict[str, list[float]] = field(repr=False)
    audit: dict[str, Any] = field(repr=False)
    selection: dict[str, Any] | None = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    @property
    def horizon(self) -> int:
        """The first horizon, which is traded, in bars."""
        return self.horizons[0]

    @property
    def loss(self) -> str:
        """What the first network was trained to lose least of, in words."""
        return next(one.network.LOSS for one in self.members if isinstance(one, NetworkMember))

    @property
    def test_start(self) -> pd.Timestamp:
        """Open time of the first bar that is out of sample."""
        return pd.Timestamp(self.folds["test_start"])

    def save(self, path: str | Path | None = None) -> Path:
        """Write to `path` (default `models/<name>`), whole or not at all. Raises `StorageError` if it exists already."""
        target = Path(path) if path is not None else settings().models / self.name
        weights = save(
            {
                f"{number}/{name}": tensor.contiguous()
                for number, member in enumerate(self.members)
                for name, tensor in member.tensors().items()
            }
        )
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
            "horizons": list(self.horizons),
            "members": [
                member.describe() | {"weight": weight}
                for member, weight in zip(self.members, self.weights, strict=True)
            ],
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "market": self.market,
            "folds": self.folds,
            "metrics": self.metrics,
            "options": self.options,
            "provenance": self.provenance,
            "spec": self.spec.to_dict(),
            "scaler": {"mean": self.scaler.mean.tolist(), "scale": self.scaler.scale.tolist()},
            "calibrations": [one.to_dict() for one in self.calibrations],
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
        tensors = load(weights)
        members = tuple(
            restore(
                said, {name.partition("/")[2]: one for name, one in tensors.items() if name.startswith(f"{number}/")}
            )
            for number, said in enumerate(content["members"])
        )
        made = Checkpoint(
            name=content["name"],
            variant=content["variant"],
            horizons=tuple(content["horizons"]),
            members=members,
            weights=tuple(said["weight"] for said in content["members"]),
            spec=spec,
            scaler=Scaler(np.array(content["scaler"]["mean"]), np.array(content["scaler"]["scale"])),
            calibrations=tuple(Calibration.from_dict(one) for one in content["calibrations"]),
            options=content["options"],
            market=content["market"],
            folds=content["folds"],
            metrics=content["metrics"],
            curves=content["curves"],
            audit=content["audit"],
            selection=content["selection"],
            provenance=content["provenance"],
        )
        _check_shapes(made)
        return made
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, InputError) as error:
        raise CheckpointError(
            f"{folder} is no whole checkpoint ({type(error).__name__}: {error}). Train again: btclab train"
        ) from error


def _check_shapes(made: Checkpoint) -> None:
    """Raise `ValueError` where the parts do not fit each other, rather than in the middle of a forecast."""
    columns, horizons = len(made.spec.columns), len(made.horizons)
    if not made.members or {len(made.scaler.mean), len(made.scaler.scale)} != {columns}:
        raise ValueError(f"{len(made.members)} members, scaling of {len(made.scaler.mean)} features for {columns}")
    if horizons == 0 or len(made.calibrations) != horizons:
        raise ValueError(f"{len(made.calibrations)} calibrations for {horizons} horizons")
    wrong = [one.method for one in made.calibrations if one.method not in METHODS or len(one.offsets) != len(NAMES)]
    if wrong:
        raise ValueError(f"a calibration by {wrong[0]!r}")
    if lacking := {"train_start", "validation_start", "test_start", "test_stop", "test_end"} - made.folds.keys():
        raise ValueError(f"no {', '.join(sorted(lacking))} among the folds")
    for one in made.members:
        if isinstance(one, NetworkMember) and (one.network.lstm.input_size, one.network.horizons) != (
            columns,
            horizons,
        ):
            raise ValueError(f"a network of {one.network.lstm.input_size} features and {one.network.horizons} horizons")


def _find(path: str | Path) -> Path:
    models, name = settings().models, str(path)
    if name in POINTERS and (models / name).is_file():
        return models / pointed(name)
    for candidate in (models / name, Path(path)):  # a bare name is one of models/, whatever else lies here
        if candidate.is_dir():
            return candidate
    raise CheckpointError(f"There is no checkpoint {name!r} in {models}. Make one: btclab train")


def score(checkpoint: Checkpoint) -> float:
    """By how much its probability of up, which is traded, beat even odds out of sample: 1 − Brier score / ¼; 0 is no skill."""
    return float(1 - checkpoint.metrics["brier"] / checkpoint.metrics["brier_naive"])


def refusal(name: str, pointer: str = "production") -> str:
    """Why `promote` would not point `pointer` to the checkpoint `name`; "" if it would.

    One that was trained on a leaking feature takes no place; one of a simulated market never that of one of a real market,
    and gives way to any other; one of another market, timeframe or horizon takes no place; and one of the same must not have
    scored worse out of sample. Raises `CheckpointError` as `load_checkpoint` does.
    """
    new = load_checkpoint(settings().models / name)
    if leaky := new.audit["leaky"]:
        reason = f"{new.name} was trained on {', '.join(leaky)}, which knew the future"
    else:
        try:
            reason = _outranked(new, load_checkpoint(pointer), pointer)
        except CheckpointError:  # it points to nothing that could be used
            reason = ""
    return (
        f"{reason}. To have it all the same: btclab models promote {new.name} --as {pointer} --force" if reason else ""
    )


def _outranked(new: Checkpoint, old: Checkpoint, pointer: str) -> str:
    """Why `new` does not take the place of `old`; "" if it does."""
    if new.market["simulated"] and not old.market["simulated"]:
        return f"{pointer!r} is of a real market, and {new.name} of a simulated one"
    other_simulation = old.market["simulated"] and new.market["source"] != old.market["source"]
    if new.name == old.name or old.audit["leaky"] or other_simulation:
        return ""
    before, after = (f"{one.market['symbol']} {one.market['timeframe']}, {one.horizon} ahead" for one in (old, new))
    if before != after:
        return f"{pointer!r} is of {before}, and {new.name} of {after}"
    if score(new) >= score(old):
        return ""
    said = [
        f"{score(one):+.4f} from {one.folds['test_start'][:10]} to {one.folds['test_stop'][:10]}" for one in (old, new)
    ]
    return f"{pointer!r} scored {said[0]}, and {new.name} {said[1]}"


def promote(name: str, pointer: str = "production", force: bool = False) -> bool:
    """Let `pointer` ("production" or "best") name the checkpoint `name` from now on; the change is atomic.

    False, and nothing changes, where `refusal` has a reason, unless `force`. Raises `CheckpointError` for a checkpoint that
    is not in `models/` or no whole one.
    """
    if pointer not in POINTERS:
        raise unknown("pointer", pointer, POINTERS)
    name = resolved(name)
    reason = refusal(name, pointer)  # loads it: what is no whole checkpoint is never pointed to
    if reason and not force:
        return False
    write_atomically(settings().models / pointer, lambda aside: aside.write_text(name + "\n", encoding="utf-8"))
    return True


def pointed(pointer: str) -> str:
    """The name that `pointer` holds; "" if there is no such pointer. Raises `CheckpointError` for a damaged one."""
    path = settings().models / pointer
    if not path.is_file():
        return ""
    name = path.read_text(encoding="utf-8", errors="replace").strip()
    if not NAME.fullmatch(name):
        raise CheckpointError(
            f"The pointer {path} is damaged. Point it to a checkpoint: btclab models promote NAME --force"
        )
    return name


def resolved(name: str) -> str:
    """The name of a checkpoint in `models/`, from it or a pointer. Raises `CheckpointError` if it is not there."""
    found = pointed(name) if name in POINTERS and not (settings().models / name).is_dir() else name
    if not NAME.fullmatch(found) or not (settings().models / found).is_dir():
        raise CheckpointError(f"There is no checkpoint {name!r} in {settings().models}. See them: btclab models list")
    return found


def stored_checkpoints() -> pd.DataFrame:
    """All checkpoints in `models/`, newest first: name, variant, market, timeframe, horizons, score, coverage, pointers, state.

    One that cannot be read is listed too; its `state` says why.
    """
    rows: list[dict[str, Any]] = []
    folders = [path for path in settings().models.glob("*") if path.is_dir() and not path.name.startswith(".")]
    for folder in folders:
        pointers = ", ".join(pointer for pointer in POINTERS if _points(pointer, folder.name))
        try:
            one = load_checkpoint(folder)
        except CheckpointError as error:
            rows.append({"name": folder.name, "pointers": pointers, "state": str(error)})
            continue
        market = f"{one.market['symbol']} {'(simulated)' if one.market['simulated'] else ''}".strip()
        rows.append(
            {
                "name": folder.name,
                "created": one.provenance["created"][:16],
                "variant": one.variant,
                "market": market,
                "timeframe": one.market["timeframe"],
                "horizons": ", ".join(map(str, one.horizons)),
                "score": score(one),
                "ic": one.metrics["ic"],
                "coverage": one.metrics["coverage_90"],
                "pointers": pointers,
                "state": "leaky" if one.audit.get("leaky") else "",
            }
        )
    names = [
        "name",
        "created",
        "variant",
        "market",
        "timeframe",
        "horizons",
        "score",
        "ic",
        "coverage",
        "pointers",
        "state",
    ]
    return pd.DataFrame(rows, columns=names).sort_values("created", ascending=False, ignore_index=True)


def _points(pointer: str, name: str) -> bool:
    try:
        return pointed(pointer) == name
    except CheckpointError:  # a damaged pointer points nowhere
        return False


def remove_checkpoint(name: str) -> None:
    """Delete the checkpoint `name` from `models/`. Raises `CheckpointError` if it is not there or a pointer names it."""
    folder = settings().models / resolved(name)
    for pointer in POINTERS:
        if pointed(pointer) == folder.name:
            raise CheckpointError(
                f"{pointer!r} points to {folder.name}; point it elsewhere first: btclab models promote NAME --as {pointer}"
            )
    if folder.is_symlink():
        folder.unlink()
        return
    aside = folder.with_name(f".{folder.name}.removed.{secrets.token_hex(3)}")
    folder.rename(aside)  # gone at once, whatever happens while the files are deleted
    shutil.rmtree(aside)
