"""TRL's SFTTrainer with a weighted loss that never makes the logits, and checkpoints that hold everything.

Gradient accumulation is exact: every micro batch is divided by the supervised tokens of the whole batch, over all
micro batches and ranks. For talr with `talr_temperature: auto` a batch in several parts is first passed through the
model without gradients or dropout, as its median is one over all the batch's sequences; a number saves that pass.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from rankray.loss import Knobs, LossStats, weighted_nll_with_stats
from rankray.model.head import HeadInputs, attach_head, plain_model, sequence_nlls

StepFunction = Callable[["RankrayTrainer", int], str]
"""Called after each optimizer step with its number; a text it returns stops the training."""


class RankrayTrainer(SFTTrainer):
    """An SFTTrainer that minimises the loss of `loss:` and calls back after every step.

    Args:
        loss: the config's `loss:` block.
        on_step: see `StepFunction`.
        arguments: what SFTTrainer takes.
    """

    loss_is_scaled_for_ga: Any = True

    def __init__(self, *, loss: Knobs, on_step: StepFunction, **arguments: Any) -> None:
        self._knobs = loss
        self._shares_temperature = loss.objective == "talr" and loss.talr_temperature == "auto"
        self._stats: LossStats | None = None
        self.on_step = on_step
        self.stopped = ""
        super().__init__(**arguments)
        self.remove_callback(PrinterCallback)
        self.add_callback(_AfterStep(self))
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = True
        attach_head(plain_model(self.model))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the weighted loss of a micro batch as its share of the whole batch's loss."""
        assert not return_outputs, "there are no logits to return"
        items = None if num_items_in_batch is None else torch.as_tensor(num_items_in_batch).clamp(min=1)

        def weigh(given: HeadInputs) -> tuple[Tensor, Tensor]:
            loss, stats = weighted_nll_with_stats(
                given.hidden_NH,
                given.head.weight_VH,
                given.label_N,
                sequence_N=given.sequence_N,
                num_items=items,
                **given.head.options,
                knobs=self._knobs,
            )
            return loss, stats.vector()

        loss, vector = model(**inputs, head=weigh)
        stats = LossStats.from_vector(vector)
        self._stats = stats if self._stats is None else self._stats + stats
        if items is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Collect the parts of a batch; for talr also settle what T they share."""
        parts, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._shares_temperature and (len(parts) > 1 or self.accelerator.num_processes > 1):
            self._knobs = self._knobs.model_copy(update={"talr_temperature": self._median_nll(parts)})
        elif self._shares_temperature:
            self._knobs = self._knobs.model_copy(update={"talr_temperature": "auto"})
        return parts, items

    def _median_nll(self, parts: list[dict[str, Any]]) -> float:
        """Return the median over all sequences of a batch, on all ranks, of their mean plain NLL in nats."""
        model: Any = self.model
        model.eval()
        with torch.no_grad():
            found = [nll for part in parts for nll in model(**self._prepare_inputs(part), head=sequence_nlls)]
        model.train()
        everywhere: list[float] = gather_object(found)
        return max(statistics.median(everywhere or [1.0]), torch.finfo(torch.float32).tiny)

    def train_metrics(self, reset: bool) -> dict[str, float]:
        """Return `train/...` over the tokens seen since the last reset, over all ranks; empty before the first step.

        `train/loss` is the weighted loss per supervised token, `train/nll` the plain one in nats; `train/scale_p05` and
        so on are quantiles of the relative scale.
        """
        if self._stats is None:
            return {}
        stats = LossStats.from_vector(self.accelerator.reduce(self._stats.vector(), reduction="sum"))
        if reset:
            self._stats = None
        return {
            "train/loss": float(stats.weighted_sum / stats.token_count),
            "train/nll": stats.nll,
            "train/token_accuracy": stats.token_accuracy,
            "train/mean_weight": stats.mean_weight,
            "train/mean_scale": stats.mean_scale,
            "train/scale_near_one_share": stats.scale_near_one_share,
            "train/scale_p05": stats.scale_quantile(0.05),
            "train/scale_p50": stats.scale_quantile(0.50),
            "train/scale_p95": stats.scale_quantile(0.95),
            "train/effective_share": stats.effective_share,
            "train/effective_tokens": stats.effective_tokens,
        }

    def train_sums(self) -> list[float]:
        """Return the sums behind `train_metrics`, over all ranks, for `restore_train_sums` of a later trainer."""
        if self._stats is None:
            return []
        total: Tensor = self.accelerator.reduce(self._stats.vector(), reduction="sum")
        return total.tolist()

    def restore_train_sums(self, sums: list[float]) -> None:
        """Go on from `train_sums`, on the first rank alone, as they are those of all."""
        if sums and self.is_world_process_zero():
            wide = torch.float32 if self.args.device.type == "mps" else torch.float64
            self._stats = LossStats.from_vector(torch.tensor(sums, dtype=wide, device=self.args.device))

    def save_to(self, directory: str) -> None:
        """Write model (or adapters), tokenizer, optimizer, schedule, RNG and trainer state into a directory."""
        self.save_model(directory, _internal_call=True)
        self._save_optimizer_and_scheduler(directory)
        self._save_scaler(directory)
        self._save_rng_state(directory)
        if self.args.should_save:
            # A pickle, and what FSDP saves of the weights a second time.
            for name in ("training_args.bin", "pytorch_model_fsdp.bin"):
                (Path(directory) / name).unlink(missing_ok=True)
            self.state.save_to_json(os.path.join(directory, "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load adapters; a whole model was already loaded from its checkpoint by whoever made it.

        transformers' own way is a lenient `load_state_dict`, which leaves out what a checkpoint names differently.
        """
        if isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _send_telemetry(self) -> None:
        """Send nothing to anybody."""


class _AfterStep(TrainerCallback):
    """Runs `on_step` when a step is done: weights and schedule have moved, gradients are gone, the RNG is at rest."""

    def __init__(self, trainer: RankrayTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self._trainer.stopped = self._trainer.on_step(self._trainer, state.global_step)
        control.should_training_stop = control.should_training_stop or bool(self._trainer.stopped)
        return control
