"""The other stacks of `overhead.py`: the same trials, `finetune.run` on the same file, without rankray's search.

    python benchmarks/overhead_stacks.py train FILE DIRECTORY SLOTS     Tune function > TorchTrainer (Train V2), ASHA
    python benchmarks/overhead_stacks.py tune FILE DIRECTORY SLOTS      Tune function, reuse_actors, ASHA
    python benchmarks/overhead_stacks.py optuna FILE DIRECTORY SLOTS    study.optimize in SLOTS processes over SQLite

Written as their documentation shows it. Every stack asks its pruner, and none prunes, so all do the same work.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankray.cluster.environment import prepare_environment
from rankray.config import Config, load_config
from rankray.contracts import Report, TrialSpec, Verdict


class _Passing:
    """A reporter that passes every report to a function, and never stops a trial."""

    def __init__(self, send: Callable[[Report], None]) -> None:
        self._send = send

    def report(self, report: Report) -> Verdict:
        self._send(report)
        return Verdict(stop=False)


def run_trial(file: str, params: dict[str, Any], directory: str, send: Callable[[Report], None]) -> dict[str, float]:
    """Train one trial in this process."""
    from rankray.finetune import run
    from rankray.search.specs import worker_config

    config = worker_config(load_config(Path(file)).config, params)
    return run(TrialSpec(config, directory), _Passing(send)).metrics


def tune_trial(config: dict[str, Any]) -> None:
    """A trial as a Tune function."""
    from ray import tune

    def send(report: Report) -> None:
        tune.report({**report.metrics, "step": report.step})

    params = {name: value for name, value in config.items() if "." in name}
    run_trial(config["file"], params, str(Path(config["directory"]) / _unique(params)), send)


def train_worker(config: dict[str, Any]) -> None:
    """A trial in the workers of Ray Train; all of them report, as Train requires."""
    import importlib

    import ray.train

    def send(report: Report) -> None:
        ray.train.report({**report.metrics, "step": report.step})

    run: Any = importlib.import_module("rankray.finetune.run")
    asked_by_all = "_shared_verdict" if hasattr(run, "_shared_verdict") else "_verdict_for_all"
    setattr(run, asked_by_all, lambda reporter, report: reporter.report(report))
    run_trial(config["file"], config["params"], config["directory"], send)


def train_trial(config: dict[str, Any]) -> None:
    """A trial as a Tune function that trains with TorchTrainer."""
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    params = {name: value for name, value in config.items() if "." in name}
    directory = str(Path(config["directory"]) / _unique(params))
    TorchTrainer(
        train_worker,
        train_loop_config={"file": config["file"], "params": params, "directory": directory},
        scaling_config=ray.train.ScalingConfig(num_workers=config["workers"]),
        run_config=ray.train.RunConfig(
            name=_unique(params), storage_path=config["directory"] + "/train", callbacks=[TuneReportCallback()]
        ),
    ).fit()


def search_with_tune(trainable: Any, file: Path, directory: Path, config: Config, slots: int, reuse: bool) -> None:
    """OptunaSearch and ASHA, as usual."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    ray.init(address="local", logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    steps = config.train.max_steps
    space = {
        "train.learning_rate": tune.loguniform(1e-4, 1e-2),
        "loss.temperature": tune.loguniform(0.25, 4.0),
        "file": str(file),
        "directory": str(directory),
        "workers": config.resources.workers,
    }
    # Where TorchTrainer's workers train, the function itself computes nothing, and reserves no core.
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1} if reuse else {"node:__internal_head__": 0.001}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="eval/nll",
            mode="min",
            search_alg=OptunaSearch(),
            scheduler=ASHAScheduler(time_attr="step", max_t=steps + 1, grace_period=steps),
            num_samples=config.study.trials,
            max_concurrent_trials=slots,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(name="peer", storage_path=str(directory), verbose=0),
    ).fit()
    ray.shutdown()


def make_study(directory: Path, config: Config) -> Any:
    """Create Optuna's study, or open it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name="peer",
        storage=f"sqlite:///{directory}/optuna.db",
        load_if_exists=True,
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=config.train.max_steps + 1),
    )


def optimize(file: Path, directory: Path, config: Config) -> None:
    """One process of Optuna's own search."""
    import optuna

    def objective(trial: optuna.Trial) -> float:
        params = {
            "train.learning_rate": trial.suggest_float("train.learning_rate", 1e-4, 1e-2, log=True),
            "loss.temperature": trial.suggest_float("loss.temperature", 0.25, 4.0, log=True),
        }

        def send(report: Report) -> None:
            trial.report(report.metrics["eval/nll"], report.step)
            if trial.should_prune():
                raise optuna.TrialPruned

        return run_trial(str(file), params, str(directory / f"trial-{trial.number}"), send)["eval/nll"]

    study = make_study(directory, config)
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING)
    left = optuna.study.MaxTrialsCallback(config.study.trials, states=done)
    study.optimize(objective, callbacks=[left])


def _unique(params: dict[str, Any]) -> str:
    return "-".join(f"{value:.9g}" for value in params.values())


def main() -> None:
    """Run one stack."""
    stack, file, directory, slots = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    config = load_config(file).config
    prepare_environment()
    if stack == "optuna":
        make_study(directory, config)  # two processes that make a database at once fail
        others = [subprocess.Popen([sys.executable, *sys.argv[:4], "1"]) for _ in range(slots - 1)]
        optimize(file, directory, config)
        assert not any(other.wait() for other in others)
    else:
        reuse = stack == "tune"
        search_with_tune(tune_trial if reuse else train_trial, file, directory, config, slots, reuse)


if __name__ == "__main__":
    main()
