"""The configuration: its shape, how it is read, and the search space. Needs pydantic and yaml only."""

from rankray.config.load import LoadedConfig, load_config
from rankray.config.schema import Config, default_store
from rankray.config.space import Distribution, apply_params, baseline_points

__all__ = ["Config", "Distribution", "LoadedConfig", "apply_params", "baseline_points", "default_store", "load_config"]
