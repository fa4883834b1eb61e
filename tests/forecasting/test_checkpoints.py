"""Checkpoints: whole or not at all, refused when altered, no pickle."""

from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pytest
import torch

import btclab as bl
from btclab.errors import CheckpointError, StorageError
from btclab.forecasting.checkpoints import DESCRIPTION, WEIGHTS, _digest, refusal, remove_checkpoint, stored_checkpoints


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
    loaded, own = bl.load_checkpoint(saved).members[0].tensors(), trained.members[0].tensors()
    assert all(torch.equal(loaded[name], own[name]) for name in own)


def test_a_pointer_leads_to_the_checkpoint(saved, trained):
    bl.promote(trained.name)
    assert bl.load_checkpoint("production").name == trained.name


def test_a_pointer_to_nothing_is_refused(saved):
    with pytest.raises(CheckpointError, match=r"There is no checkpoint '\.\./elsewhere'"):
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
    described["calibrations"][0]["slope"] = 0.123
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
    path.write_text(path.read_text().replace('"format": 3', '"format": 99'))
    with pytest.raises(CheckpointError, match=r"format 99.*Train again"):
        bl.load_checkpoint(saved)


def scored(trained, name, brier):
    made = dataclasses.replace(trained, name=name, metrics={**trained.metrics, "brier": brier, "brier_naive": 0.25})
    made.save()
    return made


def test_one_that_scored_worse_takes_no_place_unless_forced(trained, home):
    scored(trained, "good", 0.20)
    scored(trained, "worse", 0.225)
    assert bl.promote("good")
    assert not bl.promote("worse")
    span = f"from {trained.folds['test_start'][:10]} to {trained.folds['test_stop'][:10]}"
    assert f"scored +0.2000 {span}, and worse +0.1000 {span}" in refusal("worse")
    assert "btclab models promote worse --as production --force" in refusal("worse")
    assert bl.load_checkpoint("production").name == "good"
    assert bl.promote("worse", force=True)
    assert bl.load_checkpoint("production").name == "worse"
    assert bl.promote("good")


@pytest.mark.parametrize("change", [{"market": {"timeframe": "1d"}}, {"market": {"symbol": "ETH/USDT"}}])
def test_one_of_another_market_or_timeframe_takes_no_place_by_itself(trained, home, change):
    scored(trained, "good", 0.20)
    bl.promote("good")
    other = dataclasses.replace(
        scored(trained, "spare", 0.1), name="other", market={**trained.market, **change["market"]}
    )
    other.save()
    assert "'production' is of BTC/USDT 1h, 1 ahead, and other of " in refusal("other")
    assert not bl.promote("other")
    assert bl.promote("other", force=True)


def test_one_of_another_simulated_market_takes_the_place_whatever_it_scored(trained, home):
    scored(trained, "good", 0.20)
    bl.promote("good")
    dataclasses.replace(
        scored(trained, "spare", 0.3), name="other", market={**trained.market, "source": "simulated:9"}
    ).save()
    assert bl.promote("other")


def test_one_that_saw_the_future_takes_no_place_and_holds_none(trained, home):
    """Else its score, which is worth nothing, would lock out every honest one."""
    cheat = dataclasses.replace(
        scored(trained, "spare", 0.01), name="cheat", audit={**trained.audit, "passed": False, "leaky": ["tomorrow"]}
    )
    cheat.save()
    scored(trained, "honest", 0.24)
    assert not bl.promote("cheat")
    assert "trained on tomorrow, which knew the future" in refusal("cheat")
    assert bl.promote("cheat", force=True)
    assert bl.promote("honest")


@pytest.mark.parametrize("content", [b"../elsewhere", b"\xff\xfe", b"", b"a/b", b".."])
def test_a_damaged_pointer_is_named_with_the_remedy_and_can_be_repaired(trained, home, content):
    scored(trained, "good", 0.20)
    (home / "models" / "production").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"pointer .* is damaged. Point it to a checkpoint: btclab models promote"
    ):
        bl.load_checkpoint()
    assert list(stored_checkpoints()["name"]) == ["good"]
    assert bl.promote("good")
    assert bl.load_checkpoint().name == "good"


def test_a_folder_of_the_same_name_elsewhere_does_not_shadow_it(trained, home, tmp_path, monkeypatch):
    scored(trained, "good", 0.20)
    (tmp_path / "here").mkdir()
    dataclasses.replace(trained, name="impostor").save(tmp_path / "here" / "good")
    monkeypatch.chdir(tmp_path / "here")
    assert bl.load_checkpoint("good").name == "good"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("scaler", {"mean": [0.0], "scale": [1.0]}),
        ("horizons", [1, 4]),
        ("members", []),
        ("folds", {}),
        ("method", "magic"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused_though_the_digest_is_right(saved, part, value):
    content = json.loads((saved / DESCRIPTION).read_text())
    content.pop("sha256")
    if part == "method":
        content["calibrations"][0]["method"] = value
    else:
        content[part] = value
    (saved / DESCRIPTION).write_text(json.dumps(content | {"sha256": _digest(content)}))
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        bl.load_checkpoint(saved)


def test_best_and_production_are_pointers_of_their_own(trained, home):
    scored(trained, "good", 0.20)
    bl.promote("good", "best")
    assert bl.load_checkpoint("best").name == "good"
    with pytest.raises(CheckpointError, match="no checkpoint 'production'"):
        bl.load_checkpoint()


def test_all_that_are_stored_are_listed_the_damaged_ones_too(trained, home):
    scored(trained, "good", 0.20)
    bl.promote("good")
    (home / "models" / "broken").mkdir()
    table = stored_checkpoints().set_index("name")
    assert table.loc["good", "score"] == pytest.approx(0.2)
    assert table.loc["good", "pointers"] == "production"
    assert "no whole checkpoint" in table.loc["broken", "state"]


def test_a_checkpoint_in_use_is_not_removed(trained, home):
    scored(trained, "good", 0.20)
    bl.promote("good")
    with pytest.raises(CheckpointError, match="'production' points to good"):
        remove_checkpoint("good")
    scored(trained, "other", 0.40)
    remove_checkpoint("other")
    assert stored_checkpoints()["name"].tolist() == ["good"]


@pytest.mark.parametrize("name", ["../models/good", ".training", "nothing", ""])
def test_nothing_but_a_checkpoint_is_removed(trained, home, name):
    scored(trained, "good", 0.20)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        remove_checkpoint(name)
    assert (home / "models" / "good").exists()
