"""`btclab models`: what is stored, what is used, and nothing deleted by mistake."""

from __future__ import annotations

import dataclasses

import pytest

import btclab as bl


@pytest.fixture
def stored(trained, home):
    for name, brier in (("good", 0.20), ("worse", 0.225)):
        dataclasses.replace(trained, name=name, metrics={**trained.metrics, "brier": brier, "brier_naive": 0.25}).save()
    bl.promote("good")


def test_the_list_says_score_and_use(stored, call):
    code, out, _ = call("models", "list")
    assert code == 0
    line = next(row for row in out.splitlines() if "good" in row)
    assert "+0.2000" in line
    assert "production" in line


def test_an_empty_list_says_how_to_fill_it(home, call):
    assert call("models", "list")[1].strip() == "No checkpoints yet. Train one: btclab train"


def test_show_says_what_it_was_made_from_and_what_it_is_worth(stored, call, trained):
    code, out, _ = call("models", "show")
    assert code == 0
    for words in ("good", "information coefficient", trained.provenance["fingerprint"], "Look-ahead audit passed"):
        assert words in out


def test_promotion_asks_for_a_better_score_or_force(stored, call):
    code, _, err = call("models", "promote", "worse")
    assert code == 2
    assert "scored +0.2000 from" in err
    assert "and worse +0.1000 from" in err
    assert call("models", "promote", "worse", "--force")[0] == 0
    assert bl.load_checkpoint().name == "worse"


def test_removing_asks_and_spares_what_is_used(stored, call):
    assert call("models", "remove", "good", "--yes")[0] == 2
    assert call("models", "remove", "worse", "--yes")[0] == 0
    assert "worse" not in call("models", "list")[1]


def test_an_unknown_name_says_where_to_look(stored, call):
    code, _, err = call("models", "remove", "bad", "--yes")
    assert code == 2
    assert "btclab models list" in err
