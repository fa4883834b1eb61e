"""The feature section of the reports: what the figures show, and that they stay light enough for a page."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import btclab as bl
from btclab.errors import TooFewBars
from btclab.reporting import clusters, features
from btclab.reporting.charts import GREY, ORANGE

SIMULATED = {"simulated": True, "source": "simulated:7"}


def frame(columns, start="2021-01-01", freq="h", warmup=0):
    """A feature table by hand: name → (group, values)."""
    length = len(next(iter(columns.values()))[1])
    index = pd.date_range(start, periods=length, freq=freq, tz="UTC", name="timestamp")
    table = pd.DataFrame({name: values for name, (_, values) in columns.items()}, index=index, dtype=float)
    facts = {name: {"group": group, "warmup": warmup, "unit": "−1…1"} for name, (group, _) in columns.items()}
    table.attrs = {**SIMULATED, "features": facts, "missing": {}}
    return table


def noise(seed, length=1000):
    return np.random.default_rng(seed).standard_normal(length)


def labels(figure):
    return [note.text for note in figure.layout.annotations]


@pytest.fixture(scope="module")
def core(candles):
    return bl.build_features(candles, spec="core")


# The table


def test_columns_that_the_bars_are_too_few_for_are_named_and_the_others_built(candles):
    table = features.feature_table(candles)
    assert "ema_200_distance" not in table
    assert table.attrs["missing"]["ema_200_distance"] == "needs 2,502 bars to warm up; there are 2,160"
    assert table["sma_200_distance"].notna().sum() == 2160 - 199


def test_a_table_of_which_nothing_can_be_built_is_refused(candles):
    with pytest.raises(TooFewBars):
        features.feature_table(candles.iloc[:10], spec=bl.resolve_spec("core").only(["sma_200_distance"]))


# Coverage


def cells(figure):
    """Row name → cells."""
    return dict(zip(figure.layout.yaxis.ticktext, figure.data[0].z.tolist(), strict=True))


def test_coverage_is_the_share_of_the_bars_of_each_day_with_a_value():
    holes = np.ones(96)
    holes[36:48] = np.nan
    rows = cells(features.coverage(frame({"whole": ("trend", np.ones(96)), "holed": ("macro", holes)})))
    assert rows == {"trend · whole": [100] * 4, "macro · holed": [100, 50, 100, 100]}


def test_a_share_that_is_not_quite_whole_is_not_rounded_up():
    holes = np.ones(24 * 900)
    holes[1000] = np.nan  # of the 672 bars of February
    shares = cells(features.coverage(frame({"holed": ("macro", holes)})))["macro · holed"]
    assert shares[:3] == [100, 99, 100]


def test_columns_of_a_group_share_a_row_unless_they_differ_after_their_warm_up():
    late = np.where(np.arange(96) < 48, np.nan, 1.0)
    table = frame(
        {"a": ("trend", np.ones(96)), "b": ("trend", late), "c": ("trend", late), "d": ("macro", np.ones(96))}
    )
    assert list(cells(features.coverage(table))) == ["trend · a", "trend · 2 columns", "macro · d"]
    for name in "bc":
        table.attrs["features"][name]["warmup"] = 48
    rows = cells(features.coverage(table))
    assert list(rows) == ["trend · 3 columns", "macro · d"]
    assert rows["trend · 3 columns"] == [33, 33, 100, 100]


def test_a_column_without_a_value_is_not_in_the_coverage():
    table = frame({"a": ("trend", np.ones(96)), "empty": ("macro", np.full(96, np.nan))})
    assert list(cells(features.coverage(table))) == ["trend · a"]


def test_a_stretch_without_bars_is_blank():
    table = frame({"a": ("trend", np.ones(96))})
    holed = table.drop(index=table.index[24:48])
    assert np.isnan(cells(features.coverage(holed))["trend · a"][1])


@pytest.mark.parametrize(
    ("days", "unit", "first"),
    [
        (100, "day", "2021-01-01"),
        (300, "week from", "2020-12-28"),
        (1500, "month", "2021-01"),
        (5000, "quarter", "2021Q1"),
    ],
)
def test_coverage_is_shown_in_the_shortest_stretches_that_fit(days, unit, first):
    figure = features.coverage(frame({"a": ("trend", np.ones(days))}, freq="D"))
    assert figure.layout.xaxis.title.text == f"{unit} (UTC)"
    assert figure.data[0].x[0] == first
    assert len(figure.data[0].x) <= features.MOST_STRETCHES


# What was left out


def test_columns_left_out_for_one_kind_of_reason_share_a_row(candles):
    html = features.left_out(features.feature_table(candles).attrs["missing"], "default").data
    assert html.count("<tr") == 1 + 2  # the heading; no context, and too slow
    assert "on-chain (12), sentiment (3), derivatives (5), macro (10)" in html
    assert "it reads a series, and no context was given: nothing in the world belongs to a simulated market" in html
    assert "active_addresses" in html
    assert "needs … bars to warm up; there are 2,160" in html
    assert "ema_200_distance (2,502)" in html


def test_different_reasons_stand_apart():
    reasons = {"fear_greed": "missing in 54 % of the training bars", "vix": "vix: nothing is stored; fetch it"}
    html = features.left_out(reasons, "default").data
    assert html.count("<tr") == 3
    assert "fear_greed (54 %)" in html
    assert "a series: nothing is stored; fetch it" in html


def test_nothing_left_out_is_said():
    assert features.left_out({}, "core").data == "<p>None.</p>"


# Distributions


def test_tails_count_what_lies_beyond_six_standard_deviations():
    values = noise(0, 10_000)
    values[:20] = 50.0
    found = features.tails(frame({"tail": ("trend", values), "calm": ("trend", noise(1, 10_000))}))
    assert found.loc["tail", "beyond"] == pytest.approx(0.2)
    assert found.loc["tail", "skewness"] > 5
    assert found.loc["calm", "beyond"] == 0
    assert found.loc["calm", 0.5] == pytest.approx(0, abs=0.05)
    assert found.loc["calm", 0.95] == pytest.approx(1.645, abs=0.1)


def test_missing_values_and_a_column_that_never_changes_do_no_harm():
    values = noise(0)
    values[:500] = np.nan
    found = features.tails(frame({"half": ("trend", values), "flat": ("trend", np.ones(1000))}))
    assert found.loc["half", 0.5] == pytest.approx(0, abs=0.1)
    assert found.loc["flat", "beyond"] == 0


def test_the_menu_shows_one_group_at_a_time(core):
    figure = features.distributions(core)
    buttons = {button.label: button.args for button in figure.layout.updatemenus[0].buttons}
    assert next(iter(buttons)) == "furthest out (20)"
    assert "momentum (7)" in buttons
    shown, layout = buttons["momentum (7)"]
    visible = [trace for trace, on in zip(figure.data, shown["visible"], strict=True) if on]
    names = [name for name, one in core.attrs["features"].items() if one["group"] == "momentum"]
    assert list(layout["yaxis.ticktext"]) == names
    assert [list(trace.text) for trace in visible if trace.mode == "markers"] == [names]
    assert {len(trace.y) for trace in visible if trace.mode == "lines"} == {3 * len(names)}  # two ends and a break each
    assert [len(trace.text) for trace in visible if trace.mode == "text"] == [2 * len(names)]


def test_the_first_view_is_of_the_columns_that_reach_furthest_out(core):
    figure = features.distributions(core)
    furthest = features.tails(core)["beyond"].nlargest(20)
    assert set(figure.layout.yaxis.ticktext[:3]) == set(furthest.index[:3])
    assert [len(trace.text) for trace in figure.data if trace.visible and trace.mode == "markers"] == [20]


# Correlation


@pytest.fixture(scope="module")
def alike():
    one, other = noise(0), noise(1)
    table = {
        "a": ("trend", one),
        "x": ("macro", other),
        "b": ("trend", np.exp(one)),
        "c": ("trend", -one),
        "flat": ("trend", np.ones(1000)),
        "empty": ("trend", np.full(1000, np.nan)),
    }
    return clusters.cluster(frame(table))


def test_columns_that_rise_and_fall_together_are_one_cluster_whatever_their_sign(alike):
    assert sorted(sorted(members) for members in alike.members()) == [["a", "b", "c"], ["x"]]


def test_alike_columns_stand_side_by_side(alike):
    order = list(alike.correlation.columns)
    assert sorted(order) == ["a", "b", "c", "x"]
    assert "x" in (order[0], order[-1])
    assert alike.correlation.loc["a", "b"] == pytest.approx(1)
    assert alike.correlation.loc["a", "c"] == pytest.approx(-1)


def test_a_frame_is_drawn_around_each_cluster_and_its_first_column_named(alike):
    figure = clusters.correlations(alike)
    assert len(figure.layout.shapes) == 1
    box = figure.layout.shapes[0]
    inside = [name for place, name in enumerate(figure.data[0].y) if box.y0 < place < box.y1]
    assert sorted(inside) == ["a", "b", "c"]
    assert any(text.endswith(" +2") for text in figure.layout.yaxis.ticktext)


def test_clusters_are_those_of_the_selection(core, candles):
    whole = core.iloc[200:]
    chosen = bl.select_features(whole, bl.forward_log_return(candles).to_numpy()[200:], most=20)
    groups = chosen.table[chosen.table["cluster"] >= 0].groupby("cluster")["feature"].agg(frozenset)
    assert set(groups) == {frozenset(members) for members in clusters.cluster(whole).members()}


def test_names_beside_the_map_do_not_overlap():
    places = clusters._apart({0.0: 1, 1.0: 5, 2.0: 2, 10.0: 2}, 3)
    assert places == [1.0, 10.0]


def test_one_column_is_a_cluster_of_its_own():
    assert clusters.cluster(frame({"a": ("trend", noise(0))})).members() == [["a"]]


# Selection


SELECTION = {
    "columns": ["b", "a"],
    "noise_line": 0.001,
    "rows": 900,
    "table": [
        {"feature": "a", "kept": True, "reason": "kept", "cluster": 0, "information": 0.0005, "above_noise": False},
        {"feature": "b", "kept": True, "reason": "kept", "cluster": 1, "information": 0.004, "above_noise": True},
        {"feature": "c", "kept": False, "reason": "as b (rank 0.97)", "cluster": 1, "information": 0.003, "above_noise": True},
        {"feature": "d", "kept": False, "reason": "never changes", "cluster": -1, "information": None, "above_noise": False},
    ],
}  # fmt: skip


def test_the_selection_lists_what_was_chosen_by_information_and_what_each_speaks_for():
    table = frame({name: ("trend", noise(0)) for name in "abcd"})
    html = features.selection_table(SELECTION, table).data
    chosen, _, rest = html.partition("<details>")
    assert chosen.index("<td>b</td>") < chosen.index("<td>a</td>")
    assert "<td>4.00</td>" in chosen
    assert "<td>c</td>" in chosen
    assert "2 columns that were not chosen" in rest
    assert "as b (rank 0.97)" in rest
    assert "never changes" in rest


def test_without_a_selection_all_columns_were_taken(core):
    assert "all were taken" in features.selection_table(None, core).data


def test_the_selection_of_a_checkpoint_can_be_shown(trained, trained_candles):
    table = features.feature_table(trained_candles)
    html = features.selection_table(trained.selection, table).data
    assert all(f"<td>{name}</td>" in html for name in trained.spec.columns if not name.startswith("noise"))


# Importance


def weighed(columns=3):
    rows = [(f"c{n}", "trend", 0.5 - n / 100, 0.3 - n / 100, 0.7, False) for n in range(columns)]
    rows += [("noise_1", "noise", 0.1, -0.1, 0.2, True)]
    table = pd.DataFrame(rows, columns=["feature", "group", "importance", "low", "high", "noise"])
    table["above_noise"] = (table["low"] > 0.28) & ~table["noise"]
    table.attrs = {"noise_line": 0.28, "noise_columns": 1, "bars": 500, "calibrated": True}
    return table


def test_importance_colours_what_stands_above_the_noise_and_draws_the_line():
    figure = features.importance(weighed(), SIMULATED)
    assert list(figure.layout.yaxis.ticktext) == ["c0", "c1", "c2", "noise_1"]
    assert list(figure.data[0].marker.color) == [ORANGE, ORANGE, "#f3cf9f", GREY]
    assert figure.layout.shapes[0].x0 == 0.28
    assert figure.data[0].error_x.array[0] == pytest.approx(0.2)
    assert figure.data[0].error_x.arrayminus[0] == pytest.approx(0.2)


def test_of_many_columns_the_most_important_are_drawn_and_all_noise():
    figure = features.importance(weighed(60), SIMULATED)
    assert len(figure.layout.yaxis.ticktext) == features.MOST_BARS + 1
    assert "noise_1" in figure.layout.yaxis.ticktext
    assert "the first 40 of 60" in figure.layout.title.text


def test_where_too_few_bars_are_unseen_there_are_words_instead(trained, trained_candles):
    few = trained_candles[trained_candles.index < trained.test_start + pd.Timedelta("100h")]
    assert features.measured_importance(trained, few) is None
    assert "200 unseen bars" in features.importance(None, SIMULATED).data


def test_importance_of_a_checkpoint_can_be_drawn(trained, trained_candles):
    found = features.measured_importance(trained, trained_candles)
    assert isinstance(features.importance(found, trained_candles.attrs), go.Figure)


# The certificate


def leaky(checkpoint, *names, **more):
    audit = {**checkpoint.audit, "passed": not names, "leaky": list(names), **more}
    return dataclasses.replace(checkpoint, audit=audit)


def test_the_certificate_of_a_clean_checkpoint_is_green_and_gives_its_size(trained):
    box = features.certificate(trained).data
    assert "#1f9d61" in box
    assert "#d1393b" not in box
    assert "Look-ahead audit passed" in box
    assert f"{trained.audit['bars']:,} bars" in box
    assert f"{trained.audit['cuts']} cuts" in box


def test_the_certificate_of_a_leaky_checkpoint_is_red_and_names_the_columns(trained):
    box = features.certificate(leaky(trained, "chikou", "tomorrow")).data
    assert "#d1393b" in box
    assert "#1f9d61" not in box
    assert "<code>chikou</code>, <code>tomorrow</code> know the future" in box


def test_the_certificate_says_what_could_not_be_verified_and_why(trained):
    box = features.certificate(leaky(trained, unverified={"mine": "it follows <neither>"})).data
    assert "Not verified: <code>mine</code>, it follows &lt;neither&gt;." in box


def test_a_column_cannot_put_markup_into_the_certificate(trained):
    assert "<script>" not in features.certificate(leaky(trained, "<script>")).data


def test_an_audit_itself_and_what_it_hands_on_give_the_same_box(candles):
    audit = bl.audit_features(candles, "core")
    assert features.certificate(audit).data == features.certificate(audit.certificate()).data


# When a value is known


def test_each_value_is_drawn_at_the_close_of_its_bar(candles, core):
    figure = features.known_when(candles, core, ["rsi_14"], bars=12)
    line = next(trace for trace in figure.data if trace.name == "rsi_14")
    assert pd.DatetimeIndex(line.x).tz_localize(None)[0] == candles.index[-12].tz_localize(None) + pd.Timedelta("1h")
    assert list(line.y) == core["rsi_14"].iloc[-12:].tolist()
    assert line.line.shape == "hv"


def test_the_shaded_bar_is_known_from_its_close_on(candles, core):
    figure = features.known_when(candles, core, ["rsi_14"], bars=12)
    shade = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert pd.Timestamp(shade.x1) - pd.Timestamp(shade.x0) == pd.Timedelta("1h")
    assert any("is known from" in text for text in labels(figure))


# All figures


@pytest.fixture(scope="module")
def wide():
    """130 columns of 64,000 bars."""
    table = np.random.default_rng(0).standard_normal((64_000, 130))
    return frame({f"column_{n:03}": (f"group {n % 12}", table[:, n]) for n in range(130)}, start="2017-08-17")


@pytest.mark.parametrize(
    "draw",
    [features.coverage, features.distributions, lambda table: clusters.correlations(clusters.cluster(table))],
    ids=["coverage", "distributions", "correlations"],
)
def test_a_figure_of_many_bars_and_columns_is_light(wide, draw):
    assert len(draw(wide).to_json()) < 300_000


@pytest.mark.parametrize(
    "draw",
    [
        features.coverage,
        features.distributions,
        lambda table: clusters.correlations(clusters.cluster(table)),
        lambda table: features.importance(weighed(), table.attrs),
    ],
    ids=["coverage", "distributions", "correlations", "importance"],
)
def test_a_figure_of_simulated_data_says_so_and_has_a_title(core, draw):
    figure = draw(core)
    assert any("SIMULATED MARKET" in (text or "") for text in labels(figure))
    assert figure.layout.title.text
