"""Selection: what says something of the target stays, once; what never changes, has holes or repeats another goes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from btclab.errors import InputError, TooFewBars
from btclab.features.selection import (
    mutual_information,
    select_features,
    selection_stability,
    shuffle_in_blocks,
)

ROWS = 4000


@pytest.fixture
def random():
    return np.random.default_rng(5)


@pytest.fixture
def table(random):
    """Twelve columns that mean nothing, half of them slow, and a target that moves with the thirteenth."""
    quick = random.standard_normal((ROWS, 6))
    slow = pd.DataFrame(random.standard_normal((ROWS, 6))).ewm(halflife=50).mean().to_numpy()
    features = pd.DataFrame(np.hstack([quick, slow]), columns=[f"useless_{n}" for n in range(12)])
    features["planted"] = random.standard_normal(ROWS)
    return features


@pytest.fixture
def target(table, random):
    return 0.3 * table["planted"].to_numpy() + random.standard_normal(ROWS)


def reasons(selection):
    return selection.table.set_index("feature")["reason"].to_dict()


def chosen_by(features, target, most=3):
    return select_features(features, target, most).columns


# What stays


def test_a_planted_column_is_kept_and_stands_above_the_noise_line(table, target):
    selection = select_features(table, target, most=1)
    assert selection.columns == ["planted"]
    assert selection.table.loc[selection.table["above_noise"], "feature"].tolist() == ["planted"]


def test_a_column_that_knows_the_size_of_the_move_but_not_its_direction_is_found(table, random):
    target = random.standard_normal(ROWS) * np.exp(0.5 * table["planted"])
    assert chosen_by(table, target.to_numpy(), most=1) == ["planted"]


def test_columns_come_in_the_order_of_the_features(table, target):
    table = table[["planted", *table.columns.drop("planted")]]
    columns = chosen_by(table, target, most=4)
    assert len(columns) == 4
    assert columns == [name for name in table.columns if name in columns]


def test_more_than_there_are_keeps_all_that_may_be_kept(table, target):
    assert chosen_by(table, target, most=1000) == list(table.columns)


def test_one_column_may_be_all_there_is(table, target):
    assert chosen_by(table[["planted"]], target) == ["planted"]


def test_the_other_columns_say_how_many_are_better(table, target):
    words = set(reasons(select_features(table, target, most=3)).values())
    assert words == {"kept"} | {f"less information than {better} others" for better in range(3, 13)}


# What goes


def test_a_copy_goes_and_says_of_which(table, target):
    table["copy"] = -2 * table["planted"] + 1e-3 * table["useless_0"]
    found = reasons(select_features(table, target, most=5))
    assert {found["copy"], found["planted"]} in (
        {"kept", "as planted (rank correlation -1.00)"},
        {"kept", "as copy (rank correlation -1.00)"},
    )


def test_of_two_alike_the_one_with_more_information_stays(table, target, random):
    table["blurred"] = table["planted"] + 0.3 * random.standard_normal(ROWS)
    assert reasons(select_features(table, target, most=5))["blurred"].startswith("as planted (rank correlation 0.9")


def test_columns_that_are_only_somewhat_alike_both_stay(table, target, random):
    table["cousin"] = table["planted"] + random.standard_normal(ROWS)
    assert {"planted", "cousin"} <= set(chosen_by(table, target))


@pytest.mark.parametrize("value", [0.0, 17.3])
def test_a_constant_goes(table, target, value):
    table["constant"] = value
    assert reasons(select_features(table, target, most=50))["constant"] == "never changes"


def test_a_column_with_holes_goes_and_says_how_many(table, target):
    table.loc[table.index[::8], "planted"] = np.nan
    assert reasons(select_features(table, target, most=50))["planted"] == "missing in 12 % of rows"


def test_an_infinite_value_is_a_missing_one(table, target):
    table.loc[table.index[::8], "planted"] = np.inf
    assert reasons(select_features(table, target, most=50))["planted"] == "missing in 12 % of rows"


def test_a_few_holes_do_no_harm(table, target):
    table.loc[table.index[::25], "planted"] = np.nan
    assert chosen_by(table, target, most=1) == ["planted"]


def test_rows_without_a_target_are_left_out(table, target):
    target[::3], table.loc[table.index[::3], "planted"] = np.nan, np.nan
    selection = select_features(table, target, most=1)
    assert selection.columns == ["planted"]
    assert selection.rows == np.isfinite(target).sum()


def test_the_warm_up_is_no_hole_but_a_late_beginning_is(table, target):
    table.loc[table.index[:400], "planted"] = np.nan
    table.attrs["features"] = {"planted": {"group": "trend", "warmup": 400}}
    assert chosen_by(table, target, most=1) == ["planted"]
    table.attrs["features"] = {"planted": {"group": "trend", "warmup": 20}}
    assert reasons(select_features(table, target, most=1))["planted"] == "missing in 10 % of rows"


def test_missing_values_are_not_taken_for_zeros(table, target):
    holes = target > np.quantile(target, 0.96)  # a column that is missing just then must not be praised for it
    table.loc[holes, "useless_0"] = np.nan
    table["useless_0"] += 100
    assert select_features(table, target, most=1).table.set_index("feature")["above_noise"].sum() == 1


# Noise


def test_noise_columns_are_never_chosen(table, target):
    table.attrs["features"] = {name: {"group": "noise", "warmup": 0} for name in ("useless_0", "useless_1")}
    selection = select_features(table, target, most=50)
    assert not {"useless_0", "useless_1"} & set(selection.columns)
    assert reasons(selection)["useless_0"] == "noise"


def test_noise_that_knows_something_raises_the_noise_line(table, target):
    before = select_features(table, target, most=1).noise_line
    table["noise"] = table["planted"]
    table.attrs["features"] = {"noise": {"group": "noise", "warmup": 0}}
    after = select_features(table, target, most=1)
    assert after.noise_line > 10 * before
    assert not after.table["above_noise"].any()


def test_slow_columns_beside_a_slow_target_do_not_pass_the_noise_line(random):
    passed = 0
    for _ in range(10):  # ten tables without any information; white noise for a yardstick lets about all of them pass
        slow = pd.DataFrame(random.standard_normal((ROWS, 11))).ewm(halflife=20).mean()
        table = select_features(slow.iloc[:, 1:].set_axis(list("abcdefghij"), axis=1), slow[0].to_numpy(), 5).table
        passed += int(table["above_noise"].any())
    assert passed <= 3


# What must not matter


def test_rows_that_were_not_given_change_nothing(table, target):
    before = select_features(table.iloc[:2000], target[:2000], most=4)
    table.iloc[2000:] = 1e6
    target[2000:] = -1e6
    after = select_features(table.iloc[:2000], target[:2000], most=4)
    assert before.to_dict() == after.to_dict()


def test_the_same_seed_gives_the_same_result(table, target):
    one, other = (select_features(table, target, most=4, seed=3) for _ in range(2))
    assert one.to_dict() == other.to_dict()


def test_another_seed_moves_the_noise_line_and_nothing_else(table, target):
    one, other = (select_features(table, target, most=4, seed=seed) for seed in (0, 1))
    assert one.noise_line != other.noise_line
    assert one.columns == other.columns


def test_the_order_of_the_columns_decides_nothing(table, target):
    table["twin"] = table["planted"]  # equals: the name decides
    backwards = table[table.columns[::-1]]
    assert set(chosen_by(table, target, most=4)) == set(chosen_by(backwards, target, most=4))


def test_unit_and_shape_of_a_column_decide_nothing(table, target):
    other = table.copy()
    other["planted"] = np.exp(other["planted"]) * 1e-9
    other["useless_3"] = 5000 - 40 * other["useless_3"]
    one, two = select_features(table, target, most=4), select_features(other, target, most=4)
    assert one.columns == two.columns
    np.testing.assert_allclose(one.table["information"], two.table["information"], atol=1e-12)


def test_what_is_given_is_left_as_it_is(table, target):
    before, goal = table.copy(), target.copy()
    select_features(table, target, most=4)
    pd.testing.assert_frame_equal(table, before)
    np.testing.assert_array_equal(target, goal)


# Mutual information


def test_mutual_information_of_two_normals_is_that_of_the_textbook(random):
    """−½ log(1 − ρ²) (Cover and Thomas 2006, Elements of Information Theory, ex. 8.5.1), less what bins lose."""
    one = random.standard_normal(200_000)
    other = 0.3 * one + np.sqrt(1 - 0.3**2) * random.standard_normal(200_000)
    exact = -0.5 * np.log(1 - 0.3**2)
    assert 0.85 * exact < mutual_information(one, other) < exact


def test_mutual_information_of_independent_series_is_zero_on_average(random):
    found = [mutual_information(*random.standard_normal((2, 1000))) for _ in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)


def test_mutual_information_of_a_two_valued_series_with_itself_is_its_entropy():
    coin = np.repeat([0.0, 1.0], 5000)
    assert mutual_information(coin, coin) == pytest.approx(np.log(2), abs=1e-3)


# Shuffling


def test_shuffling_keeps_every_row_once_and_most_neighbours_together(random):
    order = shuffle_in_blocks(10_000, 500, random)
    assert sorted(order) == list(range(10_000))
    assert 15 <= (np.diff(order) != 1).sum() <= 20


def test_shuffling_takes_the_hours_out_of_their_place(random):
    order = shuffle_in_blocks(24 * 200, 24 * 10, random)
    assert np.mean(order % 24 == np.arange(len(order)) % 24) < 0.3


@pytest.mark.parametrize("length", [0, 1, 2, 11])
def test_shuffling_few_rows(length, random):
    assert sorted(shuffle_in_blocks(length, 720, random)) == list(range(length))


# What it says


def test_the_selection_can_be_written_as_json(table, target):
    table["constant"] = 1.0
    said = json.loads(json.dumps(select_features(table, target, most=2).to_dict(), allow_nan=False))
    assert "planted" in said["columns"]
    assert said["rows"] == ROWS
    constant = next(row for row in said["table"] if row["feature"] == "constant")
    assert constant == {
        "feature": "constant",
        "kept": False,
        "reason": "never changes",
        "cluster": -1,
        "information": None,
        "above_noise": False,
    }


def test_the_selection_in_a_sentence(table, target):
    table["constant"], table["copy"] = 1.0, table["planted"]
    assert str(select_features(table, target, most=2)) == (
        "2 of 15 columns chosen on 4,000 rows (1 never changes, 1 repeats another, 11 say less of the target); "
        "1 of them says more of the target than noise does."
    )


# Stability


def test_a_planted_column_is_chosen_in_every_part(table, target):
    stability = selection_stability(table, target, folds=4, most=3)
    found = stability.set_index("feature")["chosen"]
    assert found["planted"] == 1
    assert found.drop("planted").max() < 1
    assert stability.attrs["always"] == ["planted"]
    assert stability.attrs["parts"] == 4


def test_stability_is_one_where_each_part_chooses_the_same(table, random):
    table = table[["useless_0", "useless_1", "planted"]]
    target = table["planted"] + table["useless_0"] + 0.5 * random.standard_normal(ROWS)
    attrs = selection_stability(table, target.to_numpy(), folds=5, most=2).attrs
    assert (attrs["jaccard"], attrs["stability"], attrs["cluster_stability"]) == (1, 1, 1)


def test_stability_of_a_choice_among_noise_is_about_that_of_lots(random):
    table = pd.DataFrame(random.standard_normal((ROWS, 40)), columns=[f"noise_{n}" for n in range(40)])
    attrs = selection_stability(table, random.standard_normal(ROWS), folds=8, most=10).attrs
    assert abs(attrs["stability"]) < 0.15


def test_stability_is_nogueiras(table, target):
    """The formula of the paper by hand, from the share of parts in which each column was chosen."""
    stability = selection_stability(table, target, folds=4, most=3)
    share = stability["chosen"].to_numpy()
    spread = np.mean(4 / 3 * share * (1 - share))
    assert stability.attrs["stability"] == pytest.approx(1 - spread / (share.mean() * (1 - share.mean())))
    assert share.sum() == pytest.approx(3)


def test_of_two_that_say_the_same_it_does_not_matter_which_is_chosen(table, target, random):
    half = np.arange(ROWS) < ROWS / 2
    for name, blurred in (("one", half), ("other", ~half)):
        table[name] = table["planted"] + 0.15 * blurred * random.standard_normal(ROWS)
    stability = selection_stability(table.drop(columns="planted"), target, folds=2, most=1).set_index("feature")
    assert stability.loc[["one", "other"], "chosen"].tolist() == [0.5, 0.5]
    assert stability.loc[["one", "other"], "cluster_chosen"].tolist() == [1, 1]
    assert stability.attrs["cluster_stability"] == 1


def test_parts_may_be_given_as_slices(table, target):
    given = selection_stability(table, target, folds=[slice(0, 2000), slice(2000, 4000)], most=3)
    pd.testing.assert_frame_equal(given, selection_stability(table, target, folds=2, most=3))


# Wrong input


@pytest.mark.parametrize("most", [0, -3, 2.5, True, "all"])
def test_most_must_be_a_number_of_columns(table, target, most):
    with pytest.raises(InputError, match=r"most is .*at least 1"):
        select_features(table, target, most=most)


def test_a_target_of_another_length_is_refused(table, target):
    with pytest.raises(InputError, match=r"shape \(3999,\).*4,000 rows"):
        select_features(table, target[1:], most=3)


def test_too_few_rows_say_how_many_are_needed(table, target):
    target[150:] = np.nan
    with pytest.raises(TooFewBars, match=r"150 rows have a target.*at least 200"):
        select_features(table, target, most=3)


def test_a_table_without_values_is_refused(table, target):
    with pytest.raises(InputError, match=r"No column is left to choose from: 13 × missing in 100 % of rows"):
        select_features(table * np.nan, target, most=3)


@pytest.mark.parametrize("folds", [1, 0, [slice(0, 4000)]])
def test_stability_needs_two_parts(table, target, folds):
    with pytest.raises(InputError, match="at least 2 parts"):
        selection_stability(table, target, folds=folds)


def test_parts_that_are_too_small_are_refused(table, target):
    with pytest.raises(TooFewBars, match="4,000 rows are too few for 30 parts"):
        selection_stability(table, target, folds=30)
