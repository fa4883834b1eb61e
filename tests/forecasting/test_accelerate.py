"""Devices and precisions: chosen by a rule, refused when they are not there, and agreeing with each other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from btclab.errors import InputError
from btclab.forecasting import accelerate
from btclab.forecasting.accelerate import Choice, available, choose


@pytest.fixture
def machine(monkeypatch):
    def has(*devices, bfloat16=()):
        monkeypatch.setattr(accelerate, "available", lambda: [*devices, "cpu"])
        monkeypatch.setattr(accelerate, "has_bfloat16", lambda device: device in bfloat16)

    return has


def test_the_processor_is_always_there():
    assert available()[-1] == "cpu"


def test_the_fastest_device_is_chosen(machine):
    machine("cuda", "xpu", bfloat16=("cuda",))
    assert choose() == Choice("cuda", "bfloat16")
    machine("mps")
    assert choose() == Choice("mps", "float32")


def test_a_processor_computes_in_bfloat16_only_where_it_can_and_where_it_gains(machine):
    machine(bfloat16=("cpu",))
    assert choose(hidden=100).precision == "bfloat16"
    assert choose(hidden=50).precision == "float32"
    machine()
    assert choose(hidden=100).precision == "float32"


def test_what_the_user_names_is_taken(machine):
    machine("cuda", bfloat16=("cuda",))
    assert choose("cpu", "bfloat16", 10) == Choice("cpu", "bfloat16")


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("cuda", "auto", "device is 'cuda', which this machine or PyTorch has not; there are cpu"),
        ("cdua", "auto", "Unknown device: 'cdua'. Did you mean 'cuda'"),
        ("cpu", "half", "Unknown precision: 'half'"),
    ],
)
def test_what_is_not_there_is_refused(machine, device, precision, message):
    machine()
    with pytest.raises(InputError, match=message):
        choose(device, precision)


MEASURE = """
import json, warnings
warnings.simplefilter("ignore")
import torch
from btclab.forecasting.accelerate import measure
before = torch.random.get_rng_state()
found = measure(hidden=16, features=4, repeats=1)
said = [[one.choice.device, one.choice.precision, one.trained, one.forecast, one.difference] for one in found]
print(json.dumps([said, torch.equal(before, torch.random.get_rng_state())]))
"""


def test_all_choices_of_this_machine_agree_and_measuring_leaves_the_random_state_alone():
    """In a process of its own: Intel's extension, once imported, replaces layers for everything after it."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=200)
    found, unmoved = json.loads(done.stdout.splitlines()[-1])
    assert found[0][:2] == ["cpu", "float32"]
    assert found[0][4] == 0
    assert all(trained > 0 and forecast > 0 for _, _, trained, forecast, _ in found)
    assert all(difference < 0.05 for *_, difference in found)
    assert unmoved


def test_training_and_forecasting_never_import_intels_extension():
    script = (
        "import sys, btclab.forecasting.learn, btclab.forecasting.forecaster\n"
        "print('intel_extension_for_pytorch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout.strip() == "False"
