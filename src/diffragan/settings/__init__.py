"""Every choice a run depends on: its sections, their layers, and the keys of earlier versions."""

from diffragan.settings.classes import ClassesSettings
from diffragan.settings.exposures import (
    DetectorSettings,
    ImageSettings,
    PatternSettings,
    SpecimenSettings,
)
from diffragan.settings.layers import (
    given_by_hand,
    load_settings,
    preset_names,
    settings_from_dict,
    settings_to_toml,
)
from diffragan.settings.networks import ConditionsSettings, NetworkSettings, TrainSettings
from diffragan.settings.phase import PhaseSettings
from diffragan.settings.sections import (
    AtomsSettings,
    InspectSettings,
    ManyViewsSettings,
    PrepareSettings,
    ProjectionSettings,
    RelionSettings,
    Settings,
    SimulationSettings,
)
from diffragan.settings.session import ScanSettings, SessionSettings

__all__ = [
    "AtomsSettings",
    "ClassesSettings",
    "ConditionsSettings",
    "DetectorSettings",
    "ImageSettings",
    "InspectSettings",
    "ManyViewsSettings",
    "NetworkSettings",
    "PatternSettings",
    "PhaseSettings",
    "PrepareSettings",
    "ProjectionSettings",
    "RelionSettings",
    "ScanSettings",
    "SessionSettings",
    "Settings",
    "SimulationSettings",
    "SpecimenSettings",
    "TrainSettings",
    "given_by_hand",
    "load_settings",
    "preset_names",
    "settings_from_dict",
    "settings_to_toml",
]
