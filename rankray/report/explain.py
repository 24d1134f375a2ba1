"""What a configuration means, in words: `rankray explain` and `rankray check`, from the schema's own docstrings."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import yaml
from pydantic.fields import FieldInfo

from rankray.config import Config, LoadedConfig, all_fields, baseline_points, distributions
from rankray.config.evaluation import natural_direction
from rankray.config.lenient import params_of
from rankray.config.other_names import OTHER_NAMES, did_you_mean
from rankray.config.points import all_points
from rankray.config.study import PUBLISHED
from rankray.errors import ConfigError, listed, nearest, shown
from rankray.report.board import short_params, short_value


def explain_lines(key: str = "") -> list[str]:
    """Return the documentation of a dotted path or its end, of a section, of another tool's name, or of everything.

    Raises:
        ConfigError: there is no such field; names the nearest one.
    """
    fields = all_fields()
    chosen, is_list = chosen_fields(key)
    if not is_list:
        return [line for path in chosen for line in [*_field_lines(path, fields[path]), ""]][:-1]
    width = max(len(path) for path in chosen)
    return [f"{path:<{width}}  {' '.join((fields[path].description or '').split())}" for path in chosen]


def explain_json(key: str = "") -> dict[str, dict[str, Any]]:
    """Return the same for programs: path -> `text`, `allowed`, `default` (null where it is required) and `required`.

    Raises:
        ConfigError: there is no such field; names the nearest one.
    """
    fields, found = all_fields(), {}
    for path in chosen_fields(key)[0]:
        field = fields[path]
        default = None if field.is_required() else _default(field)
        found[path] = {
            "text": " ".join((field.description or "").split()),
            "allowed": _said(field),
            "default": default,
            "required": field.is_required(),
        }
    return found


def chosen_fields(key: str = "") -> tuple[list[str], bool]:
    """Return the fields that a key means, and whether they are a section to be listed, a line each.

    A key is a path, a section, the end of one of both (`lora.rank`, `lora`), what another tool calls a field (`lr`), a
    field of a mapping (`train.sft.optim`), or a word of a field's name (`rate`).

    Raises:
        ConfigError: there is no such field; names the nearest one.
    """
    fields = all_fields()
    if not key or key in fields:
        return ([key], False) if key else (list(fields), True)
    if inside := [path for path in fields if path.startswith(f"{key}.")]:
        return inside, True
    if ends := [path for path in fields if path.endswith(f".{key}")]:
        return ends, False
    if inside := [path for path in fields if f".{key}." in path]:
        return inside, True
    section, _, name = key.rpartition(".")
    if name in OTHER_NAMES and (not section or OTHER_NAMES[name].startswith(f"{section}.")):
        return chosen_fields(OTHER_NAMES[name])
    if held := [path for path, field in fields.items() if key.startswith(f"{path}.") and _is_mapping(field)]:
        return held, False
    words = [path for path in fields if key in re.split(r"[._]", path.rpartition(".")[2])]
    if words:
        return words, len(words) > 1
    hint = did_you_mean(name, fields) if name in OTHER_NAMES else nearest(key, [*fields, *_last_names(fields)])
    raise ConfigError(
        f"explain: no field {shown(key)}{hint}; allowed: a path, the end of one, or a section; `rankray explain` lists "
        "them all"
    )


def _last_names(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def _is_mapping(field: FieldInfo) -> bool:
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    return dict in (typing.get_origin(field.annotation), *map(typing.get_origin, kinds))


def check_lines(loaded: LoadedConfig) -> list[str]:
    """Return what a checked configuration would do, a line each."""
    config = loaded.config
    aims = " and ".join(f"{config.direction_of(name)} {name}" for name in config.study.metrics or [config.study.metric])
    lines = [
        f"{loaded.file}: ok",
        f"study {config.name}: {config.study.trials} trials, {aims}",
    ]
    for path, dist in distributions(config).items():
        values = ", ".join(map(short_value, dist.choices)) if dist.kind == "choice" else dist.in_words
        notes = " (log)" * dist.log + "".join(f" when {p} is {' or '.join(map(str, v))}" for p, v in dist.when.items())
        lines.append(f"  searches {path}: {values}{notes}")
    points = all_points(distributions(config), config) if config.space else None
    if points is not None and len(points) < config.study.trials:
        lines.append(f"  the space is finite: the search ends after its {len(points)} points")
    if not config.space:
        lines.append("  searches nothing: the space is empty; `rankray train` is enough")
    known = baseline_points(config)
    lines += [f"  starts with {origin}: {short_params(params)}" for origin, params in known]
    if config.space and points is None:
        lines += _proposed(config, len({repr(params) for _, params in known}))
    trial = f"{config.full_steps} steps of {config.train.batch_size} examples"
    lines.append(f"a trial: {trial}, a report every {config.evaluate.every_steps}")
    for name in config.study.metrics or [config.study.metric]:
        if (own := natural_direction(name)) and config.direction_of(name) != own:
            lines.append(
                f"warning: study.direction: {config.direction_of(name)}, and {name} is better the other way: the worst "
                f"model would win; leave it out, or set {own}"
            )
    if config.study.metric == "eval/nll" and _weights_tokens(config):
        lines.append(
            "note: eval/nll favours plain SFT by construction, and with noisy data rewards learning the noise; where "
            "there are right answers, set study.metric: eval/accuracy (docs/metrics.md)"
        )
    return lines


def _proposed(config: Config, known: int) -> list[str]:
    """Return how many trials are left for the sampler after so many known settings."""
    trials, given = config.study.trials, config.study.sampler
    sampler = f"study.sampler {given if isinstance(given, str) else given.get('name')}"
    earlier = [name for name in config.study.warm_start if isinstance(name, str) and name != PUBLISHED]
    if earlier:
        return [f"  then the best of {listed(earlier)}; what is left of {trials} trials, {sampler} proposes"]
    if known >= trials:
        return [f"  nothing is searched: study.trials is {trials}, and {known} settings are known; raise it"]
    return [f"  then {trials - known} that {sampler} proposes"] if known else []


def _weights_tokens(config: Config) -> bool:
    """Whether some trial may train with another objective than plain SFT."""
    searched = distributions(config).get("loss.objective")
    return any(name != "sft" for name in (searched.choices if searched else (config.loss.objective,)))


def best_yaml(config: Config, params: Mapping[str, Any]) -> str:
    """Return the configuration with the parameters applied, as YAML that `rankray train` takes."""
    tree = params_of(config, params).model_dump(mode="json")
    for key in ("store", "space", "study", "resources"):
        tree.pop(key, None)
    tree["study"] = {"metric": config.study.metric, "direction": config.direction}
    if config.study.seeds != 1:  # the figure is a mean over them
        tree["study"]["seeds"] = config.study.seeds
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _field_lines(path: str, field: FieldInfo) -> list[str]:
    default = f"default {_default(field)!r}"
    if field.is_required():  # of a file; a mapping has no name of its own
        default = "required" if path != "name" else "default the file's name"
    return [f"{path}: {_said(field)}; {default}", f"  {' '.join((field.description or '').split())}"]


def _said(field: FieldInfo) -> str:
    """Return what a field allows, in words."""
    limits = "".join(f", {_limit(item)}" for item in field.metadata if _limit(item))
    return f"{_names(field.metadata) or _allowed(field.annotation)}{limits}"


def _allowed(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is typing.Annotated:
        metadata = getattr(args[1], "metadata", args[1:])
        return " ".join([_names(metadata) or _allowed(args[0]), *filter(None, map(_limit, metadata))])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_allowed(arg) for arg in args)
    if annotation is type(None):
        return "null"
    if origin is not None:
        return f"{origin.__name__} of {', '.join(_allowed(arg) for arg in args)}"
    return {"str": "text", "bool": "true | false", "Any": "anything"}.get(
        getattr(annotation, "__name__", ""), ""
    ) or getattr(annotation, "__name__", str(annotation))


def _default(field: FieldInfo) -> Any:
    default: Any = field.get_default(call_default_factory=True, validated_data={})
    return default


def _names(metadata: Sequence[Any]) -> str:
    """Return the names a text may be, where a field's annotations list them (`rankray.loss.knobs.KeyOf`)."""
    return " | ".join(name for item in metadata if hasattr(item, "names") for name in item.names())


def _limit(item: Any) -> str:
    for name, sign in (
        ("gt", "above"),
        ("ge", "at least"),
        ("lt", "below"),
        ("le", "at most"),
        ("pattern", "matching"),
    ):
        if getattr(item, name, None) is not None:
            return f"{sign} {getattr(item, name)}"
    return ""
