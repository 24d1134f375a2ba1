"""The space's distributions as Optuna's."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rankray.config import Distribution, distributions
from rankray.config.schema import Config


def optuna_distribution(field: Distribution) -> BaseDistribution:
    """Return the distribution of one field; equal to the one that `Trial.suggest_...` makes for it."""
    if field.kind == "choice":
        return CategoricalDistribution(field.choices)
    if field.kind == "int":
        return IntDistribution(int(field.low), int(field.high), log=field.log, step=int(field.step or 1))
    return FloatDistribution(field.low, field.high, log=field.log, step=field.step)


def optuna_distributions(config: Config) -> dict[str, BaseDistribution]:
    """Return the whole space's distributions by dotted path, in the space's order."""
    return {path: optuna_distribution(field) for path, field in distributions(config).items()}
