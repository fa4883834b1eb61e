"""Training: learns what is there, stops by validation, never reads the test fold, repeats itself bit for bit."""

from __future__ import annotations

import itertools

import pytest
import torch

from btclab.errors import InputError, LookAheadError, TrainingFailed
from btclab.forecasting import training
from btclab.forecasting.dataset import Folds
from btclab.forecasting.networks import VARIANTS
from btclab.forecasting.training import TrainingOptions, _starts, learning_rate, train_network

FOLDS = Folds(slice(50, 1400), slice(1400, 1700), slice(1700, 2000))
SMALL = TrainingOptions(context=8, hidden=8, epochs=4, stretch=40, batch=8, dropout=0.0, learning_rate=2e-2)


@pytest.fixture(scope="module")
def problem():
    """2,000 bars of which the target is the feature of the bar before, plus noise."""
    noise = torch.Generator().manual_seed(1)
    features = torch.randn(2000, 2, generator=noise)
    targets = features[:, 0].roll(1) + 0.5 * torch.randn(2000, generator=noise)
    return features, targets[:, None], torch.ones(2000, 1, dtype=torch.bool)


def fit(problem, options=SMALL, variant="base", keep=None):
    return train_network(*problem, FOLDS, variant, options, progress=False, keep=keep)


def same(one, other):
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_it_learns_what_can_be_learnt(problem):
    trained = fit(problem, TrainingOptions(**{**vars(SMALL), "epochs": 25}))
    assert min(trained.curves["validation"]) < 0.6 < trained.curves["train"][0]


def test_two_trainings_with_one_seed_give_the_same_weights_bit_for_bit(problem):
    assert same(fit(problem), fit(problem))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_variant_learns_and_repeats_itself(problem, variant):
    options = TrainingOptions(**{**vars(SMALL), "epochs": 12, "dropout": 0.2})
    trained = fit(problem, options, variant)
    assert trained.curves["validation"][-1] < trained.curves["validation"][0]
    assert same(trained, fit(problem, options, variant))


def test_another_seed_gives_other_weights(problem):
    other = TrainingOptions(**{**vars(SMALL), "seed": 1})
    assert not torch.equal(fit(problem).network.head.weight, fit(problem, other).network.head.weight)


def test_training_leaves_the_global_random_state_alone(problem):
    before = torch.random.get_rng_state()
    fit(problem)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_test_fold_is_never_read(problem):
    features, targets, usable = (tensor.clone() for tensor in problem)
    features[FOLDS.test], targets[FOLDS.test] = 99.0, -99.0
    one, other = fit(problem), fit((features, targets, usable))
    assert one.curves == other.curves
    assert torch.equal(one.network.head.weight, other.network.head.weight)


def test_a_bar_that_is_not_usable_is_not_scored(problem):
    features, targets, usable = (tensor.clone() for tensor in problem)
    usable[100:600] = False
    targets[100:600] = 5.0
    one = fit((features, targets, usable))
    targets[100:600] = -5.0
    assert fit((features, targets, usable)).curves == one.curves


def test_the_scored_parts_cover_the_fold_once():
    for offset in (0, 17, 39):
        first_scored = [start + SMALL.context - 1 for start in _starts(FOLDS.train, SMALL, offset)]
        assert first_scored[0] <= FOLDS.train.start
        assert first_scored[-1] + SMALL.stretch >= FOLDS.train.stop
        assert {b - a for a, b in itertools.pairwise(first_scored)} == {SMALL.stretch}


def test_training_stops_when_validation_no_longer_improves(problem):
    features, _, usable = problem
    nothing = torch.randn(2000, 1, generator=torch.Generator().manual_seed(5))
    options = TrainingOptions(**{**vars(SMALL), "epochs": 40, "patience": 3})
    trained = fit((features, nothing, usable), options)
    assert len(trained.curves["validation"]) == trained.best_epoch + 1 + 3 < 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, r"Unknown training option: 'epoch'. Did you mean 'epochs'"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
        ({"seed": -1}, "seed is -1"),
        ({"hidden": True}, "hidden is True"),
        ({"schedule": "cosin"}, "Unknown schedule: 'cosin'. Did you mean 'cosine'"),
        ({"device": "gpu"}, "Unknown device: 'gpu'"),
        ({"precision": "float16"}, "Unknown precision: 'float16'"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(options, message):
    with pytest.raises(InputError, match=message):
        TrainingOptions.of(options)


def test_an_unknown_variant_names_the_valid_ones(problem):
    with pytest.raises(InputError, match="Unknown variant: 'bse'"):
        fit(problem, variant="bse")


def test_a_network_that_reads_later_steps_is_refused(problem, monkeypatch):
    class Backward(VARIANTS["base"]):
        def forward(self, features):
            return super().forward(features.flip(1)).flip(1)

    monkeypatch.setitem(VARIANTS, "backward", Backward)
    with pytest.raises(LookAheadError, match="'backward' reads later steps"):
        fit(problem, variant="backward")


class Killed(BaseException):
    """As Ctrl-C or a kill: nothing catches it."""


@pytest.mark.parametrize("variant", ["base", "attention"])
@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_training_goes_on_to_the_same_end(problem, tmp_path, monkeypatch, variant, after):
    options = TrainingOptions(**{**vars(SMALL), "epochs": 6, "dropout": 0.2, "schedule": "plateau"})
    whole = fit(problem, options, variant)
    validate, epochs = training._validate, []

    def killed(*words):
        epochs.append(1)
        if len(epochs) > after:
            raise Killed
        return validate(*words)

    monkeypatch.setattr(training, "_validate", killed)
    with pytest.raises(Killed):
        fit(problem, options, variant, keep=tmp_path / "state")
    assert (tmp_path / "state").exists()
    epochs.clear()
    monkeypatch.setattr(training, "_validate", lambda *words: epochs.append(1) or validate(*words))
    resumed = fit(problem, options, variant, keep=tmp_path / "state")
    assert len(epochs) == len(whole.curves["train"]) - after
    assert resumed.curves == whole.curves
    assert same(resumed, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]  # whoever trains several removes them all at the end


def test_half_a_state_is_none(problem, tmp_path):
    keep = tmp_path / "state"
    keep.write_bytes(b"\x10\0\0\0\0\0\0\0{half")
    assert same(fit(problem, keep=keep), fit(problem))


@pytest.mark.parametrize("hidden", [8, 16])
def test_a_state_of_another_network_is_none(problem, tmp_path, hidden):
    options = TrainingOptions(**{**vars(SMALL), "hidden": hidden})
    fit(problem, TrainingOptions(**{**vars(SMALL), "hidden": 12}), keep=tmp_path / "state")
    assert same(fit(problem, options, keep=tmp_path / "state"), fit(problem, options))


def test_a_disk_that_refuses_the_state_does_not_stop_the_training(problem, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="The state of the training cannot be kept, so that a kill would lose it"):
        trained = fit(problem, keep=tmp_path / "file" / "state")
    assert same(trained, fit(problem))


def test_the_rate_falls_as_a_cosine_or_on_plateaus():
    cosine = TrainingOptions(epochs=10, learning_rate=1.0)
    assert [learning_rate(epoch, [], cosine) for epoch in (0, 5, 10)] == pytest.approx([1.0, 0.525, 0.05])
    plateau = TrainingOptions(schedule="plateau", patience=6, learning_rate=1.0)
    assert learning_rate(3, [3.0, 2.0, 1.0], plateau) == 1.0
    assert learning_rate(5, [3.0, 2.0, 1.0, 1.1, 1.2], plateau) == 0.5
    assert learning_rate(9, [], TrainingOptions(schedule="constant", learning_rate=1.0)) == 1.0


def test_several_horizons_are_learnt_at_once(problem):
    features, targets, usable = problem
    both = torch.cat([targets, -targets], dim=1)
    trained = fit((features, both, usable.expand(-1, 2)), TrainingOptions(**{**vars(SMALL), "epochs": 25}))
    assert min(trained.curves["validation"]) < 0.7


def test_bfloat16_and_float32_agree_about_what_is_learnt(problem):
    losses = []
    for precision in ("float32", "bfloat16"):
        options = TrainingOptions(**{**vars(SMALL), "epochs": 25, "device": "cpu", "precision": precision})
        losses.append(min(fit(problem, options).curves["validation"]))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("cause", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes")])
def test_when_memory_runs_out_the_error_says_what_to_change(problem, monkeypatch, cause):
    def full(*_):
        raise cause

    monkeypatch.setattr(training, "_train_epoch", full)
    with pytest.raises(TrainingFailed, match=r"Memory of cpu ran out .* batch=8 .* try batch=4"):
        fit(problem, TrainingOptions(**{**vars(SMALL), "batch": 8, "device": "cpu"}))


def test_another_failure_is_not_called_one_of_memory(problem, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(training, "_train_epoch", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        fit(problem, SMALL)


def test_a_loss_that_diverges_stops_the_training_with_the_remedy(problem):
    features, targets, usable = problem
    with pytest.raises(TrainingFailed, match=r"Use a smaller learning_rate than 0\.01"):
        fit(
            (features, torch.full_like(targets, float("nan")), usable),
            TrainingOptions(**{**vars(SMALL), "learning_rate": 0.01}),
        )
