"""What a run of one of the project's configs is expected to reach: its published comparison."""

from pathlib import Path
from typing import Any

from experiments.config import METADATA_FIELDS, ExperimentConfig
from experiments.errors import UserError
from experiments.runs.config_loading import CONFIG_DIR, included_configs, load_config, with_values
from experiments.runs.records import read_json
from experiments.tables import model_name

RESULTS = Path(__file__).parents[1] / "results"


def expected_metrics(config: ExperimentConfig) -> dict[str, Any] | None:
    """Returns the test metrics of a config, as in `compare.json`: mean, deviation and values.

    None unless a comparison of the project has trained the same settings, with any seeds.
    """
    for name in included_configs():
        comparison = RESULTS / name / "compare.json"
        if not comparison.is_file():
            continue
        try:
            published = load_config(CONFIG_DIR / f"{name}.yaml")
        except UserError:
            # In a clone, its user may be at work on it.
            continue
        if _settings(published) != _settings(config):
            continue
        for model in read_json(comparison)["models"]:
            # Values that only this cell had; those of its size are in the model's name.
            own = with_values(config, model.get("own", {}), where=str(comparison))
            if model["model"] == model_name(config.model) and _settings(own) == _settings(config):
                return model["test"]
    return None


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    return config.model_dump(exclude={"seed", *METADATA_FIELDS})
