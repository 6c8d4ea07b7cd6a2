"""
The energy of a run and what it emitted, as codecarbon estimates them, where `report_to` names it.

*Source:* Transformers' `CodeCarbonCallback`; Lottick et al., "Energy Usage Reports" (NeurIPS 2019 workshop).

*Differences:* the callback looks the place of the machine up in the network and takes Quebec where there is none. Here
codecarbon stays offline: emissions are those of the country that its setting `CODECARBON_COUNTRY_ISO_CODE` names, or of the
world's average electricity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import Trainer
from transformers.integrations import CodeCarbonCallback


class EnergyMeter:
    r"""
    Keeps what codecarbon measured last; it is handed to a tracker as one of its output handlers.

    It counts the whole machine, whatever else ran there, and of several machines the first.
    """

    measured: dict[str, Any] | None = None

    def __init__(self):
        from codecarbon import OfflineEmissionsTracker

        self.tracker = OfflineEmissionsTracker(output_methods=[], output_handlers=[self], log_level="error")

    def read(self):
        """Measure now; the tracker calls `out`."""
        self.tracker.flush()

    def out(self, total: Any, delta: Any):
        """Called by the tracker, with its `EmissionsData` since the start."""
        self.measured = {
            "kwh": total.energy_consumed,
            "emissions_kg": total.emissions,
            "seconds": total.duration,
            "country": total.country_name,
            "tracker": f"codecarbon {total.codecarbon_version}",
        }

    def live_out(self, total: Any, delta: Any):
        self.out(total, delta)

    def task_out(self, data: Any, experiment_name: str):
        """No tasks are measured."""

    def exit(self):
        """Nothing is open."""


def measure_energy(trainer: Trainer) -> EnergyMeter | None:
    r"""
    Give the stock callback a tracker that can be read while it runs and needs no network.

    Args:
        trainer (`Trainer`): Before it trains.

    Returns:
        [`EnergyMeter`] or `None`: `None` where nobody asked, and in processes other than the first of a machine.
    """
    callbacks = trainer.callback_handler.callbacks
    callback = next((callback for callback in callbacks if isinstance(callback, CodeCarbonCallback)), None)
    if callback is None or callback.tracker is None:
        return None
    meter = EnergyMeter()
    callback.tracker = meter.tracker
    return meter


def total_energy(sessions: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    r"""
    What all starts of a run took together.

    Args:
        sessions (sequence of `dict`): The sessions of a [`RunClock`].

    Returns:
        `dict` or `None`: `kwh`, `emissions_kg` and `seconds` in all; `country`, where it is known, and `tracker`; `None` where
        nothing was measured.

    Example:
        >>> measured = {"kwh": 0.25, "emissions_kg": 0.1, "seconds": 60.0, "country": "France", "tracker": "codecarbon 3"}
        >>> total_energy([{"energy": measured}, {}, {"energy": measured}])
        {'kwh': 0.5, 'emissions_kg': 0.2, 'seconds': 120.0, 'country': 'France', 'tracker': 'codecarbon 3'}
    """
    measured = [session["energy"] for session in sessions if session.get("energy")]
    if not measured:
        return None
    sums = {name: sum(found[name] for found in measured) for name in ("kwh", "emissions_kg", "seconds")}
    countries, trackers = (dict.fromkeys(found[name] for found in measured) for name in ("country", "tracker"))
    return sums | {
        "country": None if None in countries else ", ".join(countries),
        "tracker": ", ".join(trackers),
    }
