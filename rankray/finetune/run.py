"""Training one trial: `run(spec, reporter) -> Outcome`, the only way to train.

A trial is `study.seeds` training runs of `train.max_steps` steps, one after another; run i uses `train.seed` + i and
its steps are counted on from those before. At every multiple of `evaluate.every_steps` within a run, and at its last
step, the model is evaluated, a checkpoint is written if one is due, and both are reported. The reported `eval/...`
metrics are the mean over the final ones of the finished runs and the present one's; `train/...` metrics are those of
the steps since the report before. A checkpoint that `train.checkpoint_every_steps` puts between two evaluations is made
at the later one, so that every checkpoint belongs to a report; the last step of a run always has one.

A trial that goes on from a checkpoint reports that checkpoint's step once more, which costs nothing, as its metrics are
kept in it, and brings the verdict again; then it computes what it would have computed, bit for bit on a CPU.

A reporter with a method `preemption()` is asked after every step whether the trial is preempted, because its node is
being taken away, say. If so, the step gets a checkpoint, which is reported without metrics where none are due, and the
run ends there; whoever resumes from it computes, again, what would have been computed.

With several workers (a process group, or the environment of one) every worker calls `run`; the first one's reporter is
asked, and all obey its verdict; each one's `preemption()` is asked, and all leave if one has to.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from rankray.config import Config, config_from
from rankray.contracts import Outcome, Report, Reporter, TrialSpec, Verdict
from rankray.evaluate.run import evaluate, load_function
from rankray.finetune.arguments import lora_config, sft_arguments, world_size
from rankray.finetune.checkpoint import Progress, read_progress, remove_partial, write_checkpoint
from rankray.finetune.quiet import quiet
from rankray.finetune.trainer import RankrayTrainer
from rankray.model.resident import (
    clean_process,
    computes_in_half,
    free_memory,
    fresh_model,
    split_of,
    tokenizer_of,
)

PROGRESS_SECONDS = 1.0
"""How often `reporter.progress(step, metrics)` is called at most, where a reporter has such a method."""


def run(spec: TrialSpec, reporter: Reporter) -> Outcome:
    """Train a trial from its start or from `spec.checkpoint`, to its end or to the first verdict that stops it.

    What the reporter raises ends the training and is raised here. A loss that is not finite is reported as it is and
    left to the verdict.

    Args:
        spec: the trial.
        reporter: asked for a verdict at every report. If it has a method `progress(step, metrics)`, that is called now
            and then in between with the `train/...` metrics so far. If it has a method `preemption() -> str`, a text it
            returns after a step has the run leave with a checkpoint; see `Outcome.preempted`. If it has a method
            `keep(checkpoint)`, the directory is this node's own: the first worker of each node writes what is the
            trial's, and every worker calls it with a complete checkpoint before that is reported.

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
        self._last_word = float("-inf")
        self._sums: list[float] = []

    def run(self) -> Outcome:
        for name in self._config.evaluate.functions:
            load_function(name)
        first, resume = 0, self._spec.checkpoint
        if resume is not None:
            _meet_the_others()
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
        arguments = sft_arguments(config, config.train.seed + index, str(self._directory), half)
        trainer = RankrayTrainer(
            model=fresh_model(config, None if config.model.lora else resume),
            args=arguments,
            train_dataset=train.dataset,
            processing_class=tokenizer,
            peft_config=lora_config(config),
            loss=config.loss,
            on_step=lambda trainer, step: self._after_step(trainer, index, step),
        )
        if self._leads(trainer):
            remove_partial(self._directory)
        trainer.restore_train_sums(self._sums if resume else [])
        trainer.train(resume_from_checkpoint=resume)
        del trainer
        free_memory()

    def _after_step(self, trainer: RankrayTrainer, index: int, seed_step: int) -> str:
        """Do what is due after a step; return why to stop, or an empty string."""
        every, last = self._config.evaluate.every_steps, self._config.train.max_steps
        step = index * last + seed_step
        leaving = self._asked_to_leave(trainer)
        metrics: dict[str, float] = {}
        own: dict[str, float] = {}
        if seed_step % every == 0 or seed_step == last:
            own = evaluate(trainer.model, tokenizer_of(self._config), self._held_out, self._config)
            metrics = _mean([*self._finished, own]) | trainer.train_metrics(reset=True)
        elif not leaving:
            self._show_life(trainer, step)
            return ""
        checkpoint = None
        if leaving or self._checkpoint_due(seed_step):
            progress = Progress(step, index, seed_step, metrics, own, self._finished, trainer.train_sums())
            checkpoint = write_checkpoint(
                self._directory,
                progress,
                trainer.save_to,
                leads=self._leads(trainer),
                wait=trainer.accelerator.wait_for_everyone,
            )
            self._keep(trainer, checkpoint)
        if seed_step == last:
            self._finished = [*self._finished, own]
        stop = self._report(step, metrics, checkpoint)
        if leaving and not stop and step < last * self._config.study.seeds:
            self._outcome = replace(self._outcome, preempted=leaving)
            return leaving
        return stop

    def _leads(self, trainer: RankrayTrainer) -> bool:
        """Whether this worker names and renames in the trial's directory."""
        alone = hasattr(self._reporter, "keep")
        return trainer.is_local_process_zero() if alone else trainer.is_world_process_zero()

    def _keep(self, trainer: RankrayTrainer, checkpoint: str) -> None:
        keep = getattr(self._reporter, "keep", None)
        if keep is not None:
            keep(checkpoint)
            trainer.accelerator.wait_for_everyone()

    def _asked_to_leave(self, trainer: RankrayTrainer) -> str:
        """Ask the reporter whether the trial must leave; any worker's word counts for all."""
        ask = getattr(self._reporter, "preemption", None)
        if ask is None:
            return ""
        why: str = ask()
        if trainer.accelerator.num_processes > 1:
            told = torch.tensor([bool(why)], dtype=torch.float32, device=trainer.accelerator.device)
            anybody = bool(trainer.accelerator.reduce(told, reduction="sum").item())
            why = why or ("another worker's place is being taken away" if anybody else "")
        return why

    def _checkpoint_due(self, seed_step: int) -> bool:
        """Whether a multiple of `checkpoint_every_steps` lies after the evaluation before, up to this one."""
        every, distance = self._config.evaluate.every_steps, self._config.train.checkpoint_every_steps
        if distance is None or seed_step == self._config.train.max_steps:
            return True
        before = (seed_step - 1) // every * every
        return seed_step // distance > before // distance

    def _report(self, step: int, metrics: Mapping[str, float], checkpoint: str | None) -> str:
        """Report, remember it as the outcome so far, and return why to stop, or an empty string."""
        verdict = _verdict_for_all(self._reporter, Report(step, dict(metrics), checkpoint))
        self._outcome = Outcome(
            metrics=dict(metrics) or self._outcome.metrics,
            steps=step,
            checkpoint=checkpoint or self._outcome.checkpoint,
            stopped=verdict.reason if verdict.stop else "",
        )
        self._last_word = time.monotonic()
        return self._outcome.stopped

    def _show_life(self, trainer: RankrayTrainer, step: int) -> None:
        tell = getattr(self._reporter, "progress", None)
        if tell is None or trainer.accelerator.num_processes > 1:
            return
        if time.monotonic() - self._last_word >= PROGRESS_SECONDS:
            self._last_word = time.monotonic()
            tell(step, trainer.train_metrics(reset=False))


def _meet_the_others() -> None:
    """Make the process group of the environment, if nobody has: a resumed trial reports before it trains."""
    if world_size() > 1 and not torch.distributed.is_initialized():
        PartialState(cpu=not torch.accelerator.is_available())


def _mean(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(metrics[name] for metrics in runs) / len(runs) for name in runs[-1]}


def _verdict_for_all(reporter: Reporter, report: Report) -> Verdict:
    """Ask the first worker's reporter, and give every worker its answer or its failure."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return reporter.report(report)
    word: list[Any] = [None]
    failure: BaseException | None = None
    if torch.distributed.get_rank() == 0:
        try:
            verdict = reporter.report(report)
            word = [(verdict.stop, verdict.reason)]
        except BaseException as error:
            failure, word = error, [(True, f"the first worker failed: {type(error).__name__}")]
    torch.distributed.broadcast_object_list(word, src=0)
    if failure is not None:
        raise failure
    return Verdict(stop=word[0][0], reason=word[0][1])
