"""The energy of a run is what codecarbon measured, over all its starts, without a network and without a made-up place."""

import json
import sys
from types import SimpleNamespace

import pytest
import transformers

from hf_bert4rec import prepare, train
from hf_bert4rec.energy import EnergyMeter, total_energy
from hf_bert4rec.run_folder import read_record

TINY = {"hidden_size": 16, "intermediate_size": 32, "use_cpu": True, "disable_tqdm": True, "report_to": "codecarbon"}
STEPS = {"num_train_epochs": 4, "per_device_train_batch_size": 4, "eval_steps": 2, "save_steps": 2, "logging_steps": 2}


@pytest.fixture
def data(interaction_log, tmp_path):
    return prepare(interaction_log, tmp_path / "data", min_user_events=2)


@pytest.fixture
def no_network(monkeypatch):
    """Nothing may ask where this machine stands."""
    pytest.importorskip("codecarbon")
    import requests

    monkeypatch.setattr(requests, "get", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.delenv("CODECARBON_COUNTRY_ISO_CODE", raising=False)


def test_a_run_records_energy_and_the_emissions_of_its_country(data, tmp_path, no_network, monkeypatch):
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "FRA")
    run = train(data, tmp_path / "run", max_steps=3, **TINY)
    found = read_record(run)["energy"]
    assert found["kwh"] > 0
    assert found["country"] == "France"
    assert found["tracker"].startswith("codecarbon ")
    (session,) = read_record(run)["sessions"]
    assert session["energy"] == found
    assert 0 < found["seconds"] <= session["wall_seconds"] + 0.1
    assert not list(run.rglob("emissions*"))


def test_without_a_country_emissions_are_those_of_the_world_and_not_of_quebec(data, tmp_path, no_network, monkeypatch):
    unknown = read_record(train(data, tmp_path / "run", max_steps=2, **TINY))["energy"]
    assert unknown["country"] is None
    assert unknown["emissions_kg"] / unknown["kwh"] == pytest.approx(0.475, abs=0.1)  # kg a kWh, the world's mean
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "NOR")
    norway = read_record(train(data, tmp_path / "other", max_steps=2, **TINY))["energy"]
    assert norway["emissions_kg"] / norway["kwh"] < 0.05


def test_energy_is_added_up_over_the_starts_of_a_run(data, tmp_path, no_network, monkeypatch):
    class Stopped(Exception):
        pass

    after_step = transformers.Trainer._maybe_log_save_evaluate

    def stop(self, *args, **kwargs):
        after_step(self, *args, **kwargs)
        if self.state.global_step == 5:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(transformers.Trainer, "_maybe_log_save_evaluate", stop)
        with pytest.raises(Stopped):
            train(data, tmp_path / "run", **TINY, **STEPS)
    (left,) = json.loads((tmp_path / "run.partial" / "sessions.json").read_text())
    assert left["energy"]["kwh"] > 0
    record = read_record(train(data, tmp_path / "run", **TINY, **STEPS))
    first, second = record["sessions"]
    assert first["energy"] == left["energy"]
    for name in ("kwh", "emissions_kg", "seconds"):
        assert record["energy"][name] == pytest.approx(first["energy"][name] + second["energy"][name])


def test_a_run_that_is_not_asked_to_measure_has_no_energy(data, tmp_path):
    record = read_record(train(data, tmp_path / "run", max_steps=1, **TINY | {"report_to": "none"}))
    assert "energy" not in record
    assert "energy" not in record["sessions"][0]


def test_the_meter_keeps_what_the_tracker_hands_it(monkeypatch):
    class Tracker:
        def __init__(self, output_methods, output_handlers, log_level):
            assert output_methods == []
            (self.handler,) = output_handlers
            self.kwh = 0.0

        def flush(self):
            self.kwh += 0.5
            measured = {"energy_consumed": self.kwh, "emissions": self.kwh / 4, "duration": 9.0}
            self.handler.out(SimpleNamespace(**measured, country_name="Chile", codecarbon_version="3.0"), None)

    monkeypatch.setitem(sys.modules, "codecarbon", SimpleNamespace(OfflineEmissionsTracker=Tracker))
    meter = EnergyMeter()
    assert meter.measured is None
    meter.read(), meter.read()
    expected = {"kwh": 1.0, "emissions_kg": 0.25, "seconds": 9.0, "country": "Chile", "tracker": "codecarbon 3.0"}
    assert meter.measured == expected
    elsewhere = expected | {"country": "Peru"}
    assert total_energy([{"energy": expected}, {"energy": elsewhere}])["country"] == "Chile, Peru"
    assert total_energy([{"energy": expected}, {"energy": elsewhere | {"country": None}}])["country"] is None
    assert total_energy([{}]) is None
