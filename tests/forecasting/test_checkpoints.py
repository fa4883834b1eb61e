"""Checkpoints: whole or not at all, refused when altered, no pickle."""

from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pytest
import torch

import btclab as bl
from btclab.errors import CheckpointError, StorageError
from btclab.forecasting.checkpoints import DESCRIPTION, WEIGHTS


@pytest.fixture
def saved(trained, home):
    return trained.save()


def test_a_checkpoint_forecasts_the_same_after_saving_and_loading(saved, trained, trained_candles):
    recent = trained_candles.iloc[-2000:]
    one, other = bl.forecast(trained, recent), bl.forecast(bl.load_checkpoint(trained.name), recent)
    pd.testing.assert_frame_equal(one, other)


def test_it_lies_in_models_under_its_name_as_safetensors_and_json(saved, trained, home):
    assert saved == home / "models" / trained.name
    assert sorted(path.name for path in saved.iterdir()) == [DESCRIPTION, WEIGHTS]
    described = json.loads((saved / DESCRIPTION).read_text())
    assert described["provenance"]["fingerprint"]
    assert described["spec"]["features"][0]["name"] == trained.spec.columns[0]


def test_saving_twice_is_refused_and_harms_nothing(saved, trained):
    with pytest.raises(StorageError):
        trained.save()
    assert torch.equal(bl.load_checkpoint(saved).network.head.weight, trained.network.head.weight)


def test_a_pointer_leads_to_the_checkpoint(saved, trained):
    bl.promote(trained.name)
    assert bl.load_checkpoint("production").name == trained.name


def test_a_pointer_to_nothing_is_refused(saved):
    with pytest.raises(CheckpointError, match="must be a folder"):
        bl.promote("../elsewhere")


def test_a_missing_checkpoint_says_how_to_make_one(home):
    with pytest.raises(CheckpointError, match=r"no checkpoint 'production'.*btclab train"):
        bl.load_checkpoint()


def test_altered_weights_are_refused(saved):
    content = bytearray((saved / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (saved / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum differs"):
        bl.load_checkpoint(saved)


@pytest.mark.parametrize("damage", ["truncate", "remove weights", "no json", "missing key", "other variant"])
def test_a_damaged_checkpoint_is_refused(saved, damage):
    path = saved / DESCRIPTION
    described = json.loads(path.read_text())
    match damage:
        case "truncate":
            path.write_text(path.read_text()[:200])
        case "remove weights":
            (saved / WEIGHTS).unlink()
        case "no json":
            path.unlink()
        case "missing key":
            del described["scaler"]
            path.write_text(json.dumps(described))
        case "other variant":
            path.write_text(json.dumps(described | {"variant": "pickle"}))
    with pytest.raises(CheckpointError, match=r"no whole checkpoint|not as it was saved"):
        bl.load_checkpoint(saved)


def test_an_altered_description_is_refused(saved):
    described = json.loads((saved / DESCRIPTION).read_text())
    described["calibration"]["slope"] = 0.123
    (saved / DESCRIPTION).write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="not as it was saved"):
        bl.load_checkpoint(saved)


def test_a_simulated_checkpoint_never_takes_the_place_of_a_real_one(saved, trained):
    real = dataclasses.replace(trained, name="real", market={**trained.market, "simulated": False})
    real.save()
    assert bl.promote(trained.name)
    assert bl.promote("real")
    assert not bl.promote(trained.name)
    assert bl.load_checkpoint("production").name == "real"


def test_another_format_is_refused_with_the_remedy(saved):
    path = saved / DESCRIPTION
    path.write_text(path.read_text().replace('"format": 2', '"format": 99'))
    with pytest.raises(CheckpointError, match=r"format 99.*Train again"):
        bl.load_checkpoint(saved)
