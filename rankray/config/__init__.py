"""The configuration: its fields, how it is read, and the search space. Needs pydantic and yaml only."""

from rankray.config.distribution import Distribution
from rankray.config.fields import all_fields
from rankray.config.load import LoadedConfig, load_config
from rankray.config.params import apply_params, config_from, trial_tree
from rankray.config.schema import Config, default_store
from rankray.config.space import baseline_points, distributions

__all__ = [
    "Config",
    "Distribution",
    "LoadedConfig",
    "all_fields",
    "apply_params",
    "baseline_points",
    "config_from",
    "default_store",
    "distributions",
    "load_config",
    "trial_tree",
]
