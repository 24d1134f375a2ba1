"""`rankray confirm`: plan a confirmation of a search, run what is missing, and keep the verdict with the search.

The runs are trials of a study of their own, `NAME.confirm`, in the same store and the same slots, and are placed by the
same code as a search's (`experiment`). What is to be run is decided in `confirmation`.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from rankray.analysis.intervals import LEVEL, half_width_in_sd, smallest_found
from rankray.analysis.verdict import ENOUGH
from rankray.config import Config, config_from
from rankray.config.load import overridden, parsed_overrides
from rankray.config.schema import FREE_FIELDS
from rankray.contracts import Observer
from rankray.errors import ConfigError, SearchFailed, UserError, nearest, shown
from rankray.search.candidates import baselines, confirmation_config, decided_on, finalists, splits, used_seeds
from rankray.search.confirmation import Confirmation, Options, Plan, Points
from rankray.store import StudyStore, open_study, views
from rankray.store.claims import Claims
from rankray.store.confirmation import CONFIRMS, PLAN, decisions, record_verdict, runs_of
from rankray.store.pareto import metrics_of
from rankray.store.records import steps_of
from rankray.store.stored import number as as_number

Overrides = Sequence[str] | Mapping[str, Any]
"""As for `load_config`: `path=value`, or dotted path to value."""
Watching = Callable[[StudyStore], AbstractContextManager[Observer]]
Notice = Callable[[str], None]
SUFFIX = ".confirm"
"""What the name of a confirmation's study ends with; a label may follow."""
OF_A_SEARCH = ("study.trials", "study.keep_best")
"""Fields that change no setting, and that a confirmation has no use for."""


def confirmed_config(
    search: StudyStore, url: str, overrides: Overrides, label: str = "", metric: str = ""
) -> tuple[Config, Config]:
    """Return the search's configuration with overrides, and that of the confirmation's study.

    Args:
        search: the search's study, attached.
        url: the store, with its password.
        overrides: of fields that do not change what a trial is.
        label: distinguishes a further confirmation of the same search.
        metric: which of the search's metrics is confirmed, its first if empty. A confirmation by another one is a
            further confirmation, with the metric as its label where none is given.

    The search's limits are not the confirmation's: those of `study.budget` that are among the overrides are, with the
    search's prices.

    Raises:
        ConfigError: an override of another field, or one that the configuration refuses; a metric that the search did
            not select by; a label that no study's name can have.
        UserError: the study is a confirmation itself.
    """
    if label and not (isinstance(label, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,50}", label)):
        raise ConfigError(
            f"confirm: --label {shown(label)}: it becomes a part of a study's name; allowed: letters, digits, dot, "
            "dash and underscore, 50 at most; correct it"
        )
    if of := search.provenance.get(CONFIRMS):
        raise UserError(
            f"confirm: {search.name} is a confirmation itself, of {of}; allowed: a search; name the search, with "
            "--label NAME for a further confirmation"
        )
    names = search.config.study.metrics or [search.config.study.metric]
    if metric and metric not in names:
        raise ConfigError(
            f"confirm: --metric {metric}: {search.name} was not selected by it{nearest(metric, names)}; allowed: "
            f"{', '.join(names)}; give one of these"
        )
    allowed = [*(each for each in FREE_FIELDS if each not in OF_A_SEARCH), "data.test"]
    tree = search.config.model_dump(mode="json") | {"store": url}
    tree["study"]["budget"] = {"price": tree["study"]["budget"]["price"]}
    if metric and metric != search.config.study.metric:
        tree["study"] |= {"metric": metric, "metrics": [], "direction": search.config.direction_of(metric)}
        label = label or metric.removeprefix("eval/").replace("/", ".")
    for path, _, place in parsed_overrides(overrides):
        if not any(path == each or path.startswith(f"{each}.") for each in allowed):
            raise ConfigError(
                f"{place}: it would confirm another setting than the one found{nearest(path, allowed)}; "
                f"allowed: {', '.join(allowed)}; leave it out"
                if path not in OF_A_SEARCH
                else f"{place}: a confirmation runs as many trials as its finalists and its seeds ask for; allowed: "
                f"{', '.join(allowed)}; leave it out"
            )
    config = overridden(tree, overrides)
    if config.study.budget.plateau is not None:
        place = next(place for path, _, place in parsed_overrides(overrides) if path.startswith("study.budget"))
        raise ConfigError(
            f"{place}: study.budget.plateau: a confirmation looks for nothing better; allowed: wall_hours, gpu_hours, "
            "money; leave it out, and give looks to stop as soon as it can decide"
        )
    return config, confirmation_config(config, f"{config.name}{SUFFIX}{label and '-' + label}")


def as_begun(
    search: StudyStore,
    url: str,
    overrides: Overrides,
    given: Mapping[str, Any],
    label: str = "",
    metric: str = "",
) -> tuple[Config, Config, Options]:
    """Return what `confirmed_config` does, and the options; what is not given is as the confirmation was begun.

    Args:
        search: the search's study, attached.
        url: the store, with its password.
        overrides: as for `confirmed_config`.
        given: the options that are given, by the names of `Options`.
        label: as for `confirmed_config`.
        metric: as for `confirmed_config`.

    Raises:
        ConfigError: an option is wrong; see `confirmed_config`.
        UserError: what was begun belongs to a deleted search of this name; see `confirmed_config`.
        StoreUnavailable: the store does not answer.
    """
    config, confirmation = confirmed_config(search, url, overrides, label, metric)
    plan = _own_plan(search, url, confirmation)
    options = Options.of(given, None if plan is None else plan.options)
    if plan is not None and not any(path in ("data", "data.test") for path, _, _ in parsed_overrides(overrides)):
        tree = config.model_dump(mode="json")
        if splits(config)[1] != plan.decide_on:
            tree["data"]["test"] = plan.decide_on
            config = config_from(tree)
            confirmation = confirmation_config(config, confirmation.name)
    return config, confirmation, options


def make_plan(
    search: StudyStore,
    config: Config,
    confirmation: Config,
    options: Options,
    notice: Notice = lambda line: None,
) -> Plan:
    """Return what a confirmation would compare, from the search as it is now. Writes nothing.

    Args:
        search: the search's study, attached.
        config: its configuration (`confirmed_config`).
        confirmation: that of the confirmation's study.
        options: how.
        notice: is called with one line where a driver that may be dead has to be watched for a while.

    Raises:
        UserError: drivers still work on the search, or it has nothing to confirm.
    """
    if alive := search.settle_drivers(notice):
        hosts = ", ".join(f"{each.get('host')} (process {each.get('pid')})" for each in alive.values())
        raise UserError(f"confirm: {search.name}: a search still runs, on {hosts}; allowed: none; wait for its end")
    rows = _rows(search, config.study.metric)
    best = finalists(rows, config, confirmation, options.finalists)
    return Plan(
        options=options,
        finalists=best,
        baselines=baselines(rows, config, confirmation, len(best)),
        choose_on=splits(config)[0],
        decide_on=splits(config)[1],
        salt=_salt(search, confirmation),
        used=sorted(used_seeds(rows, config)),
        finished=search.counts().finished,
    )


def _rows(search: StudyStore, metric: str) -> list[dict[str, Any]]:
    """Return the search's trials as shown, with one of its metrics as their value; None where a trial has none."""
    rows = views.trials(search)
    if metric == search.config.study.metric:
        return rows
    values = {trial.number: as_number(metrics_of(trial).get(metric)) for trial in search.trials()}
    return [{**row, "value": values.get(row["number"])} for row in rows]


def stored_plan(url: str, confirmation: Config) -> Plan | None:
    """Return the plan of a confirmation that has begun, or None. Writes nothing.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    found = decisions(url, confirmation, create=False)
    tree = None if found is None else found.first(PLAN)
    return None if tree is None else Plan.from_json(tree)


def _salt(search: StudyStore, confirmation: Config) -> str:
    return f"{search.identity or search.name}:{confirmation.name}"


def _own_plan(search: StudyStore, url: str, confirmation: Config) -> Plan | None:
    """Return the plan of a confirmation of this very search that has begun, or None.

    Raises:
        UserError: it was begun for another search of the same name, which was deleted since.
        StoreUnavailable: the store does not answer.
    """
    plan = stored_plan(url, confirmation)
    if plan is not None:
        _refuse_another_search(search, confirmation, plan)
    return plan


def _refuse_another_search(search: StudyStore, confirmation: Config, plan: Plan) -> None:
    if plan.salt != _salt(search, confirmation):
        raise UserError(
            f"confirm: {search.name}: {confirmation.name} confirms another search of this name, which was deleted; "
            f"allowed: a confirmation of this one; delete that one (rankray store delete {confirmation.name}), or give "
            "--label NAME for one beside it"
        )


def planned(
    search: StudyStore,
    url: str,
    config: Config,
    confirmation: Config,
    options: Options,
    notice: Notice = lambda line: None,
) -> Plan:
    """Return the plan of a confirmation that has begun, or else what it would be now. Writes nothing.

    Raises:
        ConfigError: it was begun with other options.
        UserError: see `make_plan` and `_own_plan`.
        StoreUnavailable: the store does not answer.
    """
    stored = _own_plan(search, url, confirmation)
    if stored is None:
        return make_plan(search, config, confirmation, options, notice)
    _refuse_others(search.name, stored, options, config)
    return stored


def decided_plan(
    search: StudyStore, url: str, config: Config, confirmation: Config, options: Options
) -> tuple[Plan, Claims]:
    """Return the plan of a confirmation, begun now or earlier, and the claims that hold it.

    Raises:
        ConfigError: it was begun with other options.
        UserError: see `make_plan` and `_own_plan`.
        StoreUnavailable: the store does not answer.
    """
    stored = _own_plan(search, url, confirmation)
    plan = stored or make_plan(search, config, confirmation, options)
    claims = decisions(url, confirmation)
    assert claims is not None
    if stored is None:
        plan = Plan.from_json(claims.enter(PLAN, plan.to_json()))
        _refuse_another_search(search, confirmation, plan)
    _refuse_others(search.name, plan, options, config)
    return plan, claims


def _refuse_others(name: str, plan: Plan, options: Options, config: Config) -> None:
    now = (options, splits(config)[1])
    if (plan.options, plan.decide_on) != now:
        raise ConfigError(
            f"confirm: {name}: it was begun with {_described(plan.options, plan.decide_on)}, and is asked for with "
            f"{_described(*now)}; allowed: the same, because who adds seeds after having looked errs more often; leave "
            "the options out, or give --label NAME for a further confirmation on seeds of its own"
        )


def run_confirmation(
    search: StudyStore,
    url: str,
    config: Config,
    confirmation: Config,
    options: Options,
    watching: Watching,
    *,
    provenance: Mapping[str, Any] | None = None,
    verbose: bool = False,
    run: Callable[..., bool] | None = None,
) -> dict[str, Any] | None:
    """Run what is missing of a confirmation, and return its verdict, which is then in the store; None if interrupted.

    Args:
        search: the search's study, attached.
        url: the store, with its password.
        config: the search's configuration.
        confirmation: that of the confirmation's study (`confirmed_config`).
        options: how.
        watching: gives an observer for the study that is being run.
        provenance: as for `open_study`.
        verbose: show Ray's own messages.
        run: what runs the study until it is done; None takes `run_search`, which needs Ray.

    Raises:
        UserError: see `decided_plan`; or a trial cannot be placed, see `run_search`.
        SearchFailed: too many runs failed, or a limit of `study.budget` ended it before it could decide.
        StoreUnavailable: the store does not answer.
    """
    plan, claims = decided_plan(search, url, config, confirmation, options)
    ledger = Confirmation(confirmation, plan, claims)
    metric = confirmation.study.metric

    def due(trials: Sequence[Any]) -> Points:
        return ledger.points(runs_of(trials, metric))

    section = confirmation.study.model_copy(update={"trials": plan.total})
    confirmation = confirmation.model_copy(update={"study": section})
    study = open_study(url, confirmation, provenance={**(provenance or {}), CONFIRMS: search.name}, plan=due)
    if not study.done:
        from rankray.search.experiment import run_search

        with watching(study) as observer:
            if not (run or run_search)(study, observer, verbose=verbose):
                return None
    verdict = ledger.verdict(runs_of(study.trials(), metric), search.name)
    if verdict is None:
        end = study.ended
        assert end is not None, "every run that is due has ended"
        raise SearchFailed(
            f"confirm: {search.name}: study.budget.{end.by} ended it before it could decide, after {study.finished} of "
            f"{plan.total} runs: {end.reason}; allowed: a higher limit, or none; give it, and the runs so far "
            "count"
        )
    record_verdict(search, study, verdict)
    return verdict


def plan_figures(search: StudyStore, confirmation: Config, plan: Plan) -> dict[str, Any]:
    """Return what `rankray confirm NAME --plan --json` prints: what would be run, what it costs, what it can tell.

    Args:
        search: the search's study, attached.
        confirmation: the configuration of the confirmation's study.
        plan: what is compared.
    """
    options = plan.options
    each, steps = step_seconds(search), plan_steps(plan, confirmation)
    tells = [
        {
            "seeds": seeds,
            "half_width_sd": half_width_in_sd(seeds, level),
            "found_sd": smallest_found(seeds, ENOUGH, level),
            "level": level,
        }
        for seeds, level in {**dict.fromkeys((3, 5, 8, 16, 32), LEVEL), options.seeds: LEVEL}.items()
    ]
    runs = [{"seeds": seeds, "runs": plan.choosing + 2 * seeds} for seeds in options.all_looks]
    return {
        "study": search.name,
        "confirmation": confirmation.name,
        "metric": confirmation.study.metric,
        "direction": confirmation.direction,
        "data": decided_on(confirmation, (plan.choose_on, plan.decide_on)),
        "finalists": [each.to_json() for each in plan.finalists],
        "baselines": [each.to_json() for each in plan.baselines],
        "runs": {"choose": plan.choosing, "decide": 2 * options.seeds, "total": plan.total, "at_looks": runs},
        "steps": steps,
        "run_seconds": None if each is None else each * steps / plan.total,
        "seconds": None if each is None else each * steps,
        "seeds": options.seeds,
        "looks": [
            {"seeds": seeds, "level": level, "half_width_sd": half_width_in_sd(seeds, level)}
            for seeds, level in zip(options.all_looks, options.levels, strict=True)
        ],
        "tells": sorted(tells, key=lambda each: each["seeds"]),
        "search_interrupted": views.status(search)["state"] == "interrupted",
    }


def step_seconds(search: StudyStore) -> float | None:
    """Return how long drivers worked on a step of a complete trial, in the median; None where there is none."""
    times = [
        search.seconds(trial) / max(steps)
        for trial in search.trials()
        if trial.state.name == "COMPLETE" and max(steps := steps_of(trial), default=0) > 0
    ]
    known = [each for each in times if each > 0]
    return statistics.median(known) if known else None


def plan_steps(plan: Plan, confirmation: Config) -> int:
    """Return how many optimizer steps a confirmation trains at most; on which candidates it decides is open."""
    steps = {side: [confirmation.steps_with(each.params) for each in found] for side, found in plan.sides.items()}
    chosen = sum(sum(each) for each in steps.values() if len(each) > 1) * plan.options.choose_seeds
    return chosen + plan.options.seeds * sum(max(each, default=0) for each in steps.values())


def _described(options: Options, data: str) -> str:
    looks = f", --looks {','.join(map(str, options.looks))} --spending {options.spending}" if options.looks else ""
    choosing = f"--finalists {options.finalists} --choose-seeds {options.choose_seeds}"
    return f"{choosing} --seeds {options.seeds}{looks}, on {data}"
