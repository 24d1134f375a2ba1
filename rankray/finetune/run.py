"""Train one trial: `run(spec, reporter) -> Outcome`, the only way to train.

A trial is `study.seeds` training runs of `train.max_steps` steps, one after another. Run i uses `train.seed` + i, and
its steps are numbered after those of the runs before. If the spec asks for it, the untrained model is evaluated first
and reported as step 0, which no checkpoint and no outcome mentions. At every multiple of `evaluate.every_steps` within
a run, and at its last step, the model is evaluated, a checkpoint is written if one is due, and both are reported. The
reported `eval/...` metrics are the mean of the finished runs' final ones and the current run's; `train/...` metrics
cover the steps since the previous report. A checkpoint that `train.checkpoint_every_steps` asks for between two
evaluations is written at the later one, so every checkpoint belongs to a report; the last step of a run always has one.

A trial that resumes from a checkpoint first reports that checkpoint's step again. This costs nothing, because the
checkpoint holds the metrics, and it returns the verdict again. From there the trial computes what an uninterrupted one
would, bit for bit on a CPU.

A reporter with a method `preemption()` is asked after every step whether the trial is preempted, for example because
its node is about to be taken away. If so, a checkpoint of this step is written and reported (without metrics if no
evaluation is due), and the run ends. A trial resumed from it again computes what an uninterrupted one would.

With several workers (a process group, or the environment variables of one) every worker calls `run`. The first worker's
reporter is asked, and all obey its verdict. Every worker's `preemption()` is asked, and one that is preempted ends all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import set_seed

from rankray.config import Config, config_from
from rankray.contracts import Outcome, Report, Reporter, TrialSpec, Verdict
from rankray.errors import ConfigError
from rankray.evaluate.answers import load_function
from rankray.evaluate.engine import refuse_server_in_training
from rankray.evaluate.run import evaluate
from rankray.finetune.arguments import check_batches, lora_config, sft_arguments, world_size
from rankray.finetune.checkpoint import Progress, read_progress, remove_partial, write_checkpoint
from rankray.finetune.process import clean_process, free_memory
from rankray.finetune.quiet import quiet
from rankray.finetune.signal import base_signal, cost_of
from rankray.finetune.trainer import RankrayTrainer
from rankray.finetune.weights import token_weights
from rankray.model.quantized import adapters_in_float32
from rankray.model.resident import (
    computes_in_half,
    fresh_model,
    frozen_model,
    keeps_master_weights,
    split_of,
    tokenizer_of,
)

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
"""The shortest time between two calls of `reporter.progress(step, metrics)`, where a reporter has that method."""


def run(spec: TrialSpec, reporter: Reporter) -> Outcome:
    """Train a trial from its start or from `spec.checkpoint`, until its end or the first verdict that stops it.

    What the reporter raises ends the training and is raised here. A loss that is not finite is reported as it is; the
    verdict decides what happens.

    Args:
        spec: the trial.
        reporter: asked for a verdict at every report. Four more methods are optional. `note(text)` is called with what
            a person may want to know beside the metrics: what the base model's statistics cost.
            `progress(step, metrics)` is called between reports with the `train/...` metrics so far, about once a
            second. `preemption() -> str` is called after every step; if it returns a text, the run ends with a
            checkpoint, see `Outcome.preempted`.
            `keep(checkpoint)` means that the directory belongs to this node alone: the first worker of each node writes
            the trial's files, and every worker calls it with each complete checkpoint before that is reported.

    Raises:
        ConfigError, DataError, ModelError, LossError: the trial cannot be trained as configured.
    """
    config = config_from(spec.config)
    with quiet(), clean_process(config.train.threads):
        return _Trial(config, spec, reporter).run()


class _Trial:
    """One call of `run`."""

    def __init__(self, config: Config, spec: TrialSpec, reporter: Reporter) -> None:
        self._config = config
        self._spec = spec
        self._reporter = reporter
        self._directory = Path(spec.directory).absolute()
        self._finished: list[dict[str, float]] = []
        self._outcome = Outcome(metrics={}, steps=0, checkpoint=spec.checkpoint)
        self._last_reported_at = float("-inf")
        self._sums: list[float] = []

    def run(self) -> Outcome:
        for name in self._config.evaluate.functions:
            load_function(name, "evaluate.functions")
        refuse_server_in_training(self._config.evaluate)
        first, resume = 0, self._spec.checkpoint
        if resume is not None:
            _init_process_group()
            progress = read_progress(resume)
            self._finished, first, self._sums = list(progress.finished), progress.seed_index, progress.train_sums
            if self._report(progress.step, progress.metrics, resume):
                return self._outcome
            if progress.seed_step >= self._config.train.max_steps:
                self._finished.append(progress.own_metrics)
                first, resume = first + 1, None
        for index in range(first, self._config.study.seeds):
            self._train(index, resume)
            resume = None
            if self._outcome.stopped or self._outcome.preempted:
                break
        return self._outcome

    def _train(self, index: int, resume: str | None) -> None:
        config = self._config
        half = computes_in_half(config)
        tokenizer = tokenizer_of(config)
        train, self._held_out = split_of("train", config, tokenizer), split_of("eval", config, tokenizer)
        mixed = keeps_master_weights(config)
        arguments = sft_arguments(config, config.train.seed + index, str(self._directory), half, mixed)
        check_batches(arguments, len(train.dataset), config)
        signal = base_signal(config, tokenizer, train, arguments.device) if config.loss.needs_base else None
        weights = token_weights(train.dataset, config.data.prompt_weight) if train.weighted else None
        numbered = signal or weights  # both number the supervised tokens in the same way
        set_seed(arguments.seed)  # adapters are drawn when the trainer is made; TRL 1.10 does not seed before
        trainer = RankrayTrainer(
            model=fresh_model(config, None if config.model.lora else resume),
            args=arguments,
            train_dataset=train.dataset if numbered is None else numbered.dataset,
            processing_class=tokenizer,
            peft_config=lora_config(config),
            loss=config.loss,
            signal=signal,
            weights=weights,
            reference=frozen_model(config) if config.loss.kl_weight and config.model.lora is None else None,
            on_step=lambda trainer, step: self._after_step(trainer, index, step),
            on_begin=self._report_untrained if self._spec.untrained and not (index or resume) else None,
        )
        if config.model.quantization is not None:
            adapters_in_float32(trainer.model)
        if self._writes_files(trainer):
            remove_partial(self._directory)
        trainer.restore_train_sums(self._sums if resume else [])
        started, begun = time.monotonic(), self._outcome.steps
        trainer.train(resume_from_checkpoint=resume)
        if self._outcome.steps == begun and not (self._outcome.stopped or self._outcome.preempted):
            raise ConfigError(
                f"train.max_steps: no step of {config.train.max_steps} was made from the {len(train.dataset)} rows of "
                "data.train; needed is at least one batch; lower train.batch_size, or remove fields of train.sft"
            )
        if signal is not None and signal.seconds:
            self._note(cost_of(signal, time.monotonic() - started))
        del trainer, signal, weights, numbered
        free_memory()

    def _after_step(self, trainer: RankrayTrainer, index: int, seed_step: int) -> str:
        """Evaluate, write a checkpoint and report, where due; return why to stop, or an empty string."""
        every, last = self._config.evaluate.every_steps, self._config.train.max_steps
        step = index * last + seed_step
        preempted = self._preemption(trainer)
        metrics: dict[str, float] = {}
        own: dict[str, float] = {}
        spread = None
        if seed_step % every == 0 or seed_step == last:
            own = self._evaluate(trainer, last=seed_step == last)
            spread = trainer.scale_spread()
            metrics = _mean([*self._finished, own]) | trainer.train_metrics(reset=True)
        elif not preempted:
            self._report_progress(trainer, step)
            return ""
        checkpoint = None
        if preempted or self._checkpoint_due(seed_step):
            progress = Progress(
                step, index, seed_step, metrics, own, self._finished, trainer.train_sums(), _without_store(self._config)
            )
            checkpoint = write_checkpoint(
                self._directory,
                progress,
                trainer.save_to,
                leads=self._writes_files(trainer),
                wait=trainer.accelerator.wait_for_everyone,
                rank=trainer.accelerator.process_index,
            )
            self._keep(trainer, checkpoint)
        if seed_step == last:
            self._finished = [*self._finished, own]
        stop = self._report(step, metrics, checkpoint, spread)
        if preempted and not stop and step < last * self._config.study.seeds:
            self._outcome = replace(self._outcome, preempted=preempted)
            return preempted
        return stop

    def _report_untrained(self, trainer: RankrayTrainer) -> None:
        """Evaluate the model as it is before training, and report that as step 0."""
        _shared_verdict(self._reporter, Report(0, self._evaluate(trainer, last=True)))

    def _evaluate(self, trainer: RankrayTrainer, last: bool) -> dict[str, float]:
        return evaluate(trainer.model, tokenizer_of(self._config), self._held_out, self._config, last=last)

    def _writes_files(self, trainer: RankrayTrainer) -> bool:
        """Whether this worker makes, renames and removes files in the trial's directory."""
        is_nodes_own = hasattr(self._reporter, "keep")
        return bool(trainer.is_local_process_zero() if is_nodes_own else trainer.is_world_process_zero())

    def _keep(self, trainer: RankrayTrainer, checkpoint: str) -> None:
        keep = getattr(self._reporter, "keep", None)
        if keep is not None:
            keep(checkpoint)
            trainer.accelerator.wait_for_everyone()

    def _preemption(self, trainer: RankrayTrainer) -> str:
        """Return why the trial is preempted, or an empty string; one preempted worker preempts all."""
        preemption = getattr(self._reporter, "preemption", None)
        if preemption is None:
            return ""
        reason: str = preemption()
        if trainer.accelerator.num_processes > 1:
            flag = torch.tensor([bool(reason)], dtype=torch.float32, device=trainer.accelerator.device)
            any_worker = bool(trainer.accelerator.reduce(flag, reduction="sum").item())
            reason = reason or ("another worker is preempted" if any_worker else "")
        return reason

    def _checkpoint_due(self, seed_step: int) -> bool:
        """Whether a multiple of `checkpoint_every_steps` lies after the previous evaluation, up to this one."""
        every, distance = self._config.evaluate.every_steps, self._config.train.checkpoint_every_steps
        if distance is None or seed_step == self._config.train.max_steps:
            return True
        previous = (seed_step - 1) // every * every
        return seed_step // distance > previous // distance

    def _report(
        self,
        step: int,
        metrics: Mapping[str, float],
        checkpoint: str | None,
        spread: Mapping[str, Any] | None = None,
    ) -> str:
        """Report, update the outcome so far, and return why to stop, or an empty string."""
        verdict = _shared_verdict(self._reporter, Report(step, dict(metrics), checkpoint, spread))
        self._outcome = Outcome(
            metrics=dict(metrics) or self._outcome.metrics,
            steps=step,
            checkpoint=checkpoint or self._outcome.checkpoint,
            stopped=verdict.reason if verdict.stop else "",
        )
        self._last_reported_at = time.monotonic()
        return self._outcome.stopped

    def _note(self, text: str) -> None:
        """Call the reporter's `note`, where it has one; the log has the text in any case."""
        logger.info("%s", text)
        note = getattr(self._reporter, "note", None)
        if note is not None:
            note(text)

    def _report_progress(self, trainer: RankrayTrainer, step: int) -> None:
        """Call the reporter's `progress`, at most every PROGRESS_SECONDS; not with several workers."""
        progress = getattr(self._reporter, "progress", None)
        if progress is None or trainer.accelerator.num_processes > 1:
            return
        if time.monotonic() - self._last_reported_at >= PROGRESS_SECONDS:
            self._last_reported_at = time.monotonic()
            progress(step, trainer.train_metrics(reset=False))


def _init_process_group() -> None:
    """Create the process group that the environment describes, if there is none: a resumed trial reports first."""
    if world_size() > 1 and not torch.distributed.is_initialized():
        PartialState(cpu=not torch.accelerator.is_available())


def _mean(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric that all runs have.

    That of a `_stderr` is no smaller than the standard error of the mean: all runs answer the same examples.
    """
    names = [name for name in runs[-1] if all(name in metrics for metrics in runs)]
    return {name: sum(metrics[name] for metrics in runs) / len(runs) for name in names}


def _without_store(config: Config) -> dict[str, Any]:
    """Return the configuration that a checkpoint carries; the store's URL may hold a password."""
    tree: dict[str, Any] = config.model_dump(mode="json", exclude={"store", "storage"})
    return tree


def _shared_verdict(reporter: Reporter, report: Report) -> Verdict:
    """Ask the first worker's reporter, and return its verdict, or its failure as a stop, in every worker."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return reporter.report(report)
    answer: list[Any] = [None]
    failure: BaseException | None = None
    if torch.distributed.get_rank() == 0:
        try:
            verdict = reporter.report(report)
            answer = [(verdict.stop, verdict.reason)]
        except BaseException as error:
            logger.debug("the reporter failed at step %d, all workers stop: %r", report.step, error)
            failure, answer = error, [(True, f"the first worker failed: {type(error).__name__}")]
    torch.distributed.broadcast_object_list(answer, src=0)
    if failure is not None:
        raise failure
    stop, reason = answer[0]
    return Verdict(stop=stop, reason=reason)
