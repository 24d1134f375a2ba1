"""Judging what exists: `rankray evaluate`, a model on held-out examples, and `diagnose`, what a weighting trusts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankray.cli.common import attached, console, load, print_json, say
from rankray.cli.options import NONE, Json, Sets, Store, Verbose
from rankray.paths import temporary_directory

if TYPE_CHECKING:
    from rankray.config import Config, LoadedConfig
    from rankray.evaluate.target import Reported
    from rankray.store import StudyStore

logger = logging.getLogger(__name__)

JUDGED = ("model", "data", "evaluate", "train.sft.bf16", "train.sft.fp16")
"""The sections and fields that say what is evaluated, and how."""
OF_TRAINING = (
    *("data.train", "data.max_examples", "data.prompt_weight", "data.weight_column", "data.token_weights"),
    *("model.lora.*", "evaluate.every_steps", "evaluate.rungs"),
)
"""The fields in `JUDGED` that say how a model is trained, which it is: adapters have their own rank."""
OF_THE_OTHER = {"eval": ("data.test",), "test": ("data.eval", "evaluate.max_examples")}
"""Split -> the fields that say nothing of it: all of `data.test` is used."""
OF_TASKS = ("model", "evaluate.batch_size", "train.sft.bf16", "train.sft.fp16")
"""The sections and fields that say how the tasks of lm-eval are evaluated, which have data and metrics of their own."""


def evaluate(
    target: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A directory, or the name of a study: its best.")],
    file: Annotated[
        Path | None, typer.Argument(help="The configuration; a checkpoint and an exported model have their own.")
    ] = None,
    split: Annotated[str, typer.Option(help="eval, or test: the split of data.test.")] = "eval",
    sets: Sets = NONE,
    store: Store = "",
    tasks: Annotated[str, typer.Option(help="Tasks of lm-eval instead, separated by commas.")] = "",
    include: Annotated[Path | None, typer.Option(help="A directory with further tasks of lm-eval.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Only the first so many examples of each task; 0 is all.")] = 0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Evaluate a checkpoint, a study's best or a model, with standard errors."""
    from rankray import logs
    from rankray.cli.lineage import other_base
    from rankray.errors import ConfigError

    logs.configure(verbose)
    check_split(split)
    check_overrides(sets, split, tasks=bool(tasks))
    if tasks:
        from rankray.evaluate.harness import require_harness

        if split != "eval":
            raise ConfigError(
                "evaluate: --split beside --tasks, which have data of their own; allowed: one of the two; leave one out"
            )
        require_harness()
    elif limit or include is not None:
        option, other = ("--limit", "set evaluate.max_examples") if limit else ("--include", "name its tasks")
        raise ConfigError(
            f"evaluate: {option} without --tasks changes nothing; allowed: beside it; add --tasks, or {other}"
        )
    with ExitStack() as stack:
        config, checkpoint, label, seen, changed = _target(target, file, sets, store, split, stack)
        warnings = [*changed, *filter(None, [other_base(checkpoint, config) if checkpoint is not None else ""])]
        for line in warnings:
            say(f"warning: {line}", to_stderr=True)
        if tasks:
            found = _of_tasks(config, checkpoint, tasks, include, limit)
        else:
            found = figures(config, checkpoint, split)
    if as_json:
        print_json({"metrics": found} | ({"warnings": warnings} if warnings else {}))
        return
    from rankray.errors import printable
    from rankray.finetune.preview import sources_of
    from rankray.report.figures import figures_view

    data = f"data.{split}: {', '.join(sources_of(config, split))}"
    if split == "eval" and sources_of(config, "eval") == seen and not changed:
        data += ", which the search has seen: expect less on others" + " (--split test)" * bool(config.data.test)
    say(printable(f"{label}, on {f'tasks of lm-eval: {tasks}' if tasks else data}"))
    console().print(figures_view(found))


def check_split(split: str) -> None:
    """Refuse a split that nothing is evaluated on."""
    from rankray.errors import ConfigError, shown

    if split not in ("eval", "test"):
        raise ConfigError(f"evaluate: --split: got {shown(split)}; allowed: eval, test; choose one")


def _of_tasks(config: Config, checkpoint: Path | None, tasks: str, include: Path | None, limit: int) -> Reported:
    from rankray.evaluate.harness import run_tasks
    from rankray.evaluate.target import with_own_tokenizer
    from rankray.finetune.quiet import quiet
    from rankray.model.resident import tokenizer_of
    from rankray.model.trained import load_model

    with quiet():
        config, checkpoint = with_own_tokenizer(config, checkpoint)
        return run_tasks(
            load_model(config, checkpoint),
            tokenizer_of(config),
            tasks.split(","),
            include=include,
            batch_size=config.evaluate.batch_size,
            limit=limit or None,
        )


def figures(config: Config, checkpoint: Path | None, split: str) -> Reported:
    """Return the metrics of a model on a split; see `evaluate_target`.

    Args:
        config: to evaluate with.
        checkpoint: None is the model of `model.path`.
        split: eval or test.

    Raises:
        UserError: there is no such split, or the model cannot be loaded.
    """
    from rankray.evaluate.target import evaluate_target, with_own_tokenizer
    from rankray.finetune.quiet import quiet

    with quiet():
        return evaluate_target(*with_own_tokenizer(config, checkpoint), split)


def _target(
    target: str, file: Path | None, sets: list[str], store: str, split: str, stack: ExitStack
) -> tuple[Config, Path | None, str, list[str], list[str]]:
    """Find what is to be evaluated.

    Returns:
        the configuration to evaluate with; the checkpoint, None being the model of `model.path`; what it is called;
        the held-out data that chose it, where a search did; and what has changed since that search (`changes`).

    Raises:
        UserError: it is neither a directory nor a study, or there is nothing to evaluate.

    What was downloaded for it is deleted where `stack` ends.
    """
    from rankray.checkpoints import manifest
    from rankray.errors import ConfigError
    from rankray.evaluate.target import STATE_FILE, config_of

    place = Path(target)
    if place.is_dir():
        if file is None:
            file = _exported_file(place)
        if file is not None:
            config = _pinned_by(place, load(file, sets, store).config)
        else:
            config = with_overrides(config_of(place), sets)
        if (place / STATE_FILE).is_file():
            manifest.check(place, str(place), lambda line: say(line, to_stderr=True))
        is_model = config.model.path and Path(config.model.path).expanduser().resolve() == place.resolve()
        return config, None if is_model else place, target, [], []
    if "/" in target or target.startswith("."):
        raise ConfigError(
            f"evaluate: no directory {target!r}; allowed is a checkpoint, a model directory or the name of a study; "
            "fix the path"
        )
    from rankray.finetune.preview import sources_of

    study = attached(store, target)
    best = trial_to_use(study)
    if file is not None:
        from rankray.cli.pins import pinned_as

        config = pinned_as(load(file, sets, store).config, study.config)
    else:
        config = study.config
    label, seen = f"trial {best['number']} of study {target}", sources_of(study.config, "eval")
    config = with_overrides(judged(config, study, best), sets)  # what is asked for now comes last
    changed = changes(study, config, split)  # what is wrong so far is said before anything is downloaded
    return config, stack.enter_context(checkpoint_of(study, best)), label, seen, changed


def trial_to_use(study: StudyStore) -> dict[str, Any]:
    """Return the trial of a study that is to be used.

    Raises:
        ConfigError: none is complete.
    """
    from rankray.errors import ConfigError
    from rankray.store import views

    best = views.recommended(study)
    if best is None:
        raise ConfigError(f"evaluate: study {study.name} has no complete trial yet; needed is one; wait for it")
    return best


@contextmanager
def checkpoint_of(study: StudyStore, trial: dict[str, Any]) -> Iterator[Path]:
    """Yield a trial's checkpoint on this machine's disk; one that was downloaded is deleted at the end of the block.

    Raises:
        UserError: it is not there, not in the study's storage or damaged.
    """
    from rankray.cli.checkpoints import fetched, place_of

    place = place_of(study, trial, "evaluate")
    with temporary_directory("rankray-evaluated-") as scratch:
        yield fetched(place, scratch)


def changes(study: StudyStore, config: Config, split: str) -> list[str]:
    """Return what has changed since the study of what is evaluated: a file of its data, or the model below adapters.

    Raises:
        DataError, ModelError: one is not there any more.
    """
    from rankray.cli.lineage import base_has_changed
    from rankray.data.sources import fingerprint, is_local

    found, held = [], study.provenance.get("data", {})
    names = {f"data.{split}": (getattr(config.data, split), getattr(study.config.data, split))}
    sets, earlier = config.evaluate.also, study.config.evaluate.also
    names |= {f"evaluate.also.{name}.data": (sets[name].data, earlier[name].data) for name in sets if name in earlier}
    for name, (given, before) in names.items():
        known = held.get(name.removeprefix("data."))
        if known is None or given is None or given != before or not is_local(given):
            continue
        if fingerprint(given, f"evaluate: {name}") != known:
            found.append(
                f"{name} has changed since study {study.name} was made: these figures are not those of the search; "
                "to compare with it, bring back the files it had"
            )
    if base_has_changed(study, config, "evaluate"):
        found.append(
            f"model.path has changed since study {study.name} was made: its adapters were trained on another; bring "
            "back the model it had"
        )
    return found


def _pinned_by(checkpoint: Path, config: Config) -> Config:
    """Return a configuration with the commits of the run that wrote a checkpoint, where it says them."""
    from rankray.cli.pins import pinned_as
    from rankray.errors import ConfigError
    from rankray.evaluate.target import config_of

    try:
        return pinned_as(config, config_of(checkpoint))
    except ConfigError as error:
        logger.debug("%s names no commits: %s", checkpoint, error)
        return config


def _exported_file(place: Path) -> Path | None:
    """Return the configuration that `rankray export` wrote beside a model, or None where the directory is none of its.

    Raises:
        ConfigError: it asks to run code that came with the model: nobody has named this file.
    """
    from rankray.errors import ConfigError
    from rankray.evaluate.target import EXPORTED_FILE, STATE_FILE

    file = place / EXPORTED_FILE
    if (place / STATE_FILE).is_file() or not file.is_file():
        return None
    if load(file, []).config.model.trust_remote_code:
        raise ConfigError(
            f"evaluate: {file} sets model.trust_remote_code: code that comes with the model would run; allowed is to "
            "name the file knowingly; read that code, then give the file as the second argument"
        )
    return file


def judged(config: Config, study: StudyStore, trial: dict[str, Any]) -> Config:
    """Return the configuration to evaluate a study's trial with; what this version refuses only where it matters."""
    from rankray.config import Config
    from rankray.config.lenient import params_of

    config = params_of(config, trial["params"])
    if not study.refused:
        return config
    plain = Config.model_construct()
    other = {name: getattr(plain, name) for name in ("loss", "space", "study", "resources", "logging")}
    other["train"] = plain.train.model_copy(update={"sft": config.train.sft})
    return config.model_copy(update=other)


def with_overrides(config: Config, given: Sequence[str] | Mapping[str, Any]) -> Config:
    """Return a configuration with overrides, as `path=value` or in a mapping.

    Raises:
        ConfigError: a path or a value it does not accept.
    """
    from rankray.config.load import overridden

    return overridden(config.model_dump(mode="json"), given)


def check_overrides(given: Sequence[str] | Mapping[str, Any], split: str, *, tasks: bool = False) -> None:
    """Refuse overrides that cannot change what is evaluated, or how.

    Args:
        given: as for `load_config`.
        split: what is evaluated on.
        tasks: it is evaluated on tasks of lm-eval instead.

    Raises:
        ConfigError: a field that says how a model is trained, or nothing of this split.
    """
    from rankray.config import Config
    from rankray.config.load import parsed_overrides
    from rankray.errors import ConfigError

    allowed, others = (OF_TASKS, ()) if tasks else (JUDGED, OF_THE_OTHER[split])
    without = () if tasks else (*OF_TRAINING, *others)
    left_out = f" (without {', '.join(without)})" if without else ""
    for path, _, place in parsed_overrides(given):
        if path.split(".")[0] not in Config.model_fields or path == "train.sft":
            continue
        if _is_in(path, allowed) and not _is_in(path, without):
            continue
        what = f"the split {split}" if _is_in(path, others) else "an evaluation, whose model is trained"
        raise ConfigError(
            f"{place}: changes nothing of {'tasks of lm-eval' if tasks else what}; allowed: fields of "
            f"{', '.join(allowed)}{left_out}; " + ("give --store" if path == "store" else "leave it out")
        )


def _is_in(path: str, fields: Iterable[str]) -> bool:
    """Whether a field is one of these, which may be patterns, or in one of these sections."""
    return any(fnmatchcase(path, each) or fnmatchcase(path, f"{each}.*") for each in fields)


def diagnose(
    file: Annotated[Path, typer.Argument(help="The YAML configuration.", show_default=False)],
    sets: Sets = NONE,
    noise_rate: Annotated[float, typer.Option(min=0.0, max=0.5, help="Share of tokens that are replaced.")] = 0.0082,
    noise: Annotated[str, typer.Option(help="random (any token), swap (within the completion) or digit.")] = "random",
    examples: Annotated[int, typer.Option(min=1, help="Training examples used, the first ones.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    contamination: Annotated[
        bool, typer.Option("--contamination", help="Also: held-out prompts that the untrained model completes itself.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write a page with pictures.")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show without training which tokens each objective trusts, and how much noise it would learn."""
    from rankray import logs
    from rankray.cli.common import check_output, preflight

    logs.configure(verbose)
    check_output(output, "diagnose: -o", ".html", ".htm")
    loaded: LoadedConfig = load(file, sets)

    preflight(loaded, alone=True)
    from rankray.evaluate.diagnose import diagnose as run_diagnosis
    from rankray.finetune.quiet import quiet

    with quiet():
        found = run_diagnosis(
            loaded.config, noise_rate=noise_rate, noise=noise, examples=examples, seed=seed, contamination=contamination
        )
    if output is not None:
        from rankray.report.diagnosis import page
        from rankray.report.write import write

        write(page(found, loaded.config.name).encode(), output, "diagnose: -o")
    if as_json:
        print_json(found)
        return
    from rankray.report.diagnosis import diagnosis_view

    console().print(diagnosis_view(found))
    if output is not None:
        say(f"pictures: {output}")
