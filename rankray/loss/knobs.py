"""The settings of a loss: every field of `loss:` in a configuration, with its default and its rule, defined here only.

`rankray.config` uses this model as its `loss:` block; `rankray.loss` makes it from keyword arguments. Needs pydantic,
but not torch.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from rankray.errors import LossError, describe_invalid, nearest, shown

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveOrInfinite = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class KeyOf:
    """Annotation of a text that must be a key of a dictionary, as that is when the text is validated.

    Attributes:
        names: returns the dictionary, or its keys.
        also: what else would be allowed, for the error.
    """

    names: Callable[[], Iterable[str]]
    also: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, given: str) -> str:
        names = list(self.names())
        if given not in names:
            allowed = ", ".join([*names, self.also] if self.also else names)
            raise ValueError(f"got {shown(given)}{nearest(given, names)}; allowed: {allowed}; correct the name")
        return given


def objectives() -> list[str]:
    """Return the names of the weight functions there are now."""
    from rankray.loss.weights import WEIGHTS

    return list(WEIGHTS)


class Fields(BaseModel):
    """What the sections of a configuration share: frozen, closed, documented by attribute docstrings, no odd truths.

    `true` is 1 in Python, and YAML reads `yes` as true; here neither is a number, and only true and false are truths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truths_are_no_numbers(cls, given: Any, info: ValidationInfo) -> Any:
        annotation: Any = cls.model_fields[info.field_name or ""].annotation
        kinds = _kinds(annotation)
        if bool in kinds and str not in kinds and isinstance(given, str | int | float) and not isinstance(given, bool):
            raise PydanticCustomError("bool_type", "Input should be true or false")
        values = given if isinstance(given, list | tuple) else [given]
        if bool not in kinds and kinds & {int, float} and any(isinstance(value, bool) for value in values):
            raise PydanticCustomError("number_type", "Input should be a number, not true or false")
        return given


@cache
def _kinds(annotation: Any) -> frozenset[Any]:
    """Return the plain types that an annotation names, in unions, lists and `Annotated`, too."""
    if isinstance(annotation, type) or annotation is Any:
        return frozenset([annotation])
    return frozenset().union(*(_kinds(part) for part in typing.get_args(annotation) if isinstance(part, Hashable)))


class Knobs(Fields):
    """How each token's loss is weighted: the `loss:` block of a configuration.

    A value is checked whether or not the objective uses it. An objective ignores the fields that it does not use.
    """

    objective: Annotated[str, KeyOf(objectives, "or a function added to rankray.loss.WEIGHTS")] = "rri"
    """What weights a token: `sft` 1, `dft` p_t, `talr` p_t^(1/T), `eaft` entropy, `power` p_t^alpha, `threshold` 1 or 0
    by p_t, `deft` p_t^(sum p^2), `iw_sft` a sequence's ratio to the base model, `rri` the relative rank."""
    form: Literal["bound", "exact"] = "bound"
    """Form of the indicator (rri): `bound` is what the paper trains with, `exact` uses the expected rank itself."""
    base: Literal["one", "prob"] = "prob"
    """Base weight that the relative scale multiplies (rri): `one`, or the target's probability (the paper, maths)."""
    temperature: PositiveOrInfinite = 1.0
    """Rank-mapping temperature of the indicator (rri); 1 is the paper, large values give the base objective itself."""
    entropy_weight: NonNegative = 1.0
    """Weight of the expected rank against the rank itself (rri); 1 is the paper, 0 looks at probability only."""
    low_entropy: Literal["max_prob", "bound"] = "max_prob"
    """Bound of the expected rank below 2 bits of entropy (rri, form bound): `max_prob` takes 2 - p_max, as the paper's
    authors train; `bound` takes 2^H / 4 + 1, which is a bound from 2 bits on only."""
    min_competence: Annotated[float, Field(ge=0, le=1)] = 1e-6
    """Lower limit of p_t * s^entropy_weight before the power (rri, form bound), so that S is at most
    min_competence^(-K / temperature); 1e-6 is the authors', 0 sets no limit."""
    max_scale: PositiveOrInfinite | None = None
    """Cap on the relative scale S (rri); null leaves it as it is."""
    min_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Lower limit of a token's weight (talr)."""
    talr_temperature: PositiveOrInfinite | Literal["auto"] = "auto"
    """T of talr; `auto` takes the median over the batch's sequences of their mean NLL in nats."""
    alpha: NonNegative = 1.0
    """Exponent of the normalised top-20 entropy (eaft), or of the target's probability (power); 0 is sft."""
    eaft_scale: Literal[3, 1] = 3
    """What divides the top-20 entropy in nats (eaft): 3 as LLaMA-Factory has it, 1 as Axolotl has it."""
    q: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Probability of the target at which a token starts to count (threshold), or ceases to; 0 counts all or none."""
    direction: Literal["above", "below"] = "above"
    """Which tokens count (threshold): those with p_t >= q (`above`), or those with p_t < q (`below`)."""
    iw_power: NonNegative = 2.0
    """Power of a sequence's mean probability ratio to the base model (iw_sft); 0 is sft."""
    iw_clip: PositiveOrInfinite = 16.0
    """Upper limit of a sequence's weight (iw_sft)."""
    signal: Literal["online", "base"] = "online"
    """Which model's predictions make the weights: the one in training (`online`), or the frozen `base` model, whose
    statistics are computed once for all trials of a study. `iw_sft` compares with the base model in both cases."""
    kl_weight: NonNegative = 0.0
    """Weight of the divergence from the base model, added per token beside any objective; 0 leaves it out."""
    kl_direction: Literal["forward", "reverse"] = "forward"
    """Which divergence: `forward` is KL(base || model), `reverse` is KL(model || base)."""

    @property
    def needs_base(self) -> bool:
        """Whether a weight looks at the base model's statistics; sft looks at none."""
        return self.objective == "iw_sft" or (self.signal == "base" and self.objective != "sft")


def make_knobs(knobs: Knobs | None = None, objective: str | None = None, **given: Any) -> Knobs:
    """Return the settings of one call: `knobs` as they are, or checked keyword arguments with defaults filled in.

    Raises:
        LossError: an unknown name or an impossible value, both `knobs` and keyword arguments, or `knobs` that are none.
    """
    if objective is not None:
        given["objective"] = objective
    if knobs is not None:
        if not isinstance(knobs, Knobs):
            raise LossError(f"knobs: got {shown(knobs)}; allowed: a Knobs; give Knobs(...), or the settings by name")
        if given:
            raise LossError(f"knobs: got them and {', '.join(given)}; allowed: one of the two; leave the others out")
        return knobs
    try:
        return Knobs.model_validate(given, strict=True)
    except ValidationError as error:
        by_name: dict[str, list[Any]] = {}
        for item in error.errors():
            by_name.setdefault(str(item["loc"][0]), []).append(item)
        problems = [f"loss.{name}: {describe_invalid(items, Knobs.model_fields)}" for name, items in by_name.items()]
        raise LossError("\n".join(problems)) from error
