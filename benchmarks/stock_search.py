"""The stock stack, for comparison: Ray Tune, OptunaSearch over a database, ASHA, and Tuner.restore after a crash.

Written as their documentation shows it; a trial is the same `finetune.run` on the same file, with Tune's checkpoints.

    python benchmarks/stock_search.py FILE DIRECTORY URL        # again: restores
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from rankray.cluster.environment import prepare_environment

os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1")
prepare_environment()

import optuna  # noqa: E402
import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402
from ray.tune.search.optuna import OptunaSearch  # noqa: E402

from rankray.config import load_config  # noqa: E402


def train(config: dict[str, Any]) -> None:
    """One trial as a Tune function: report and checkpoint at every evaluation, resume from the checkpoint."""
    from rankray.contracts import Report, TrialSpec, Verdict
    from rankray.finetune import run
    from rankray.search.specs import worker_config

    loaded = load_config(config["file"]).config
    params = {path: value for path, value in config.items() if path != "file"}
    earlier = tune.get_checkpoint()

    class Reporter:
        def report(self, report: Report) -> Verdict:
            metrics = {**report.metrics, "step": report.step}
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(report.checkpoint))
            return Verdict(stop=False)

    spec = TrialSpec(worker_config(loaded, params), str(Path(tune.get_context().get_trial_dir()) / "work"))
    if earlier is not None:
        spec = TrialSpec(spec.config, spec.directory, checkpoint=earlier.to_directory())
    run(spec, Reporter())


def main() -> None:
    """Run, or restore and run."""
    file, directory = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    config = load_config(file).config
    metric, steps = config.study.metric, config.train.max_steps
    ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    space = {
        "train.learning_rate": tune.loguniform(1e-4, 1e-2),
        "loss.temperature": tune.loguniform(0.25, 4.0),
        "file": str(file),
    }
    place = str(directory / "stock")
    if tune.Tuner.can_restore(place):
        tuner = tune.Tuner.restore(place, trainable=tune.with_resources(train, {"cpu": 1}), resume_errored=True)
    else:
        storage = optuna.storages.RDBStorage(sys.argv[3])
        tuner = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=metric,
                mode="min" if config.direction == "minimize" else "max",
                search_alg=OptunaSearch(study_name="stock", storage=storage),
                scheduler=ASHAScheduler(
                    time_attr="step", max_t=steps, grace_period=config.evaluate.every_steps, reduction_factor=3
                ),
                num_samples=config.study.trials,
                max_concurrent_trials=2,
            ),
            run_config=tune.RunConfig(
                name="stock",
                storage_path=str(directory),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=3),
            ),
        )
    results = tuner.fit()
    print("finished", len(results) - results.num_errors, "errors", results.num_errors)


if __name__ == "__main__":
    main()
