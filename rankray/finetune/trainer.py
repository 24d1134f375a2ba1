"""TRL's SFTTrainer with a weighted loss that never computes the logits, and checkpoints that hold the whole state.

Gradient accumulation is exact: the loss of every micro batch is divided by the supervised tokens of the whole batch,
over all micro batches and ranks. For talr with `talr_temperature: auto`, a batch in several parts first passes through
the model without gradients or dropout, because the median is over all sequences of the batch; a number saves that pass.

This is the only file that uses private names of trl, transformers and accelerate, all read from trl 1.16, transformers
5.23 and accelerate 1.15. A test in `tests/finetune/test_trainer.py` fails when one of them changes.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl import SFTTrainer  # type: ignore[attr-defined]

from rankray.loss import Knobs, LossStats, weighted_nll_with_stats
from rankray.model.head import HeadInputs, attach_head, plain_model, sequence_nlls

StepFunction = Callable[["RankrayTrainer", int], str]
"""Called after each optimizer step with its number; if it returns a text, training stops."""


class RankrayTrainer(SFTTrainer):
    """An SFTTrainer that minimises the loss of `loss:` and calls back after every step.

    Args:
        loss: the config's `loss:` block.
        on_step: see `StepFunction`.
        arguments: the arguments of SFTTrainer.
    """

    loss_is_scaled_for_ga: Any = True
    """The loss is already the micro batch's share of the whole batch's; transformers must not divide it again."""

    loads_weights = False
    """Whether resuming loads a full model's weights, too; here they were loaded before."""

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
        self._loss_shifts_labels = True  # `num_items_in_batch` must not count first tokens, which nothing predicts
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

        def loss_of(given: HeadInputs) -> tuple[Tensor, Tensor]:
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

        loss: Tensor
        loss, vector = model(**inputs, head=loss_of)
        stats = LossStats.from_vector(vector)
        self._stats = stats if self._stats is None else self._stats + stats
        if items is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return loss

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Collect the micro batches of a batch; for talr also compute the temperature T that they share."""
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

        `train/loss` is the weighted loss per supervised token, `train/nll` the plain one in nats. `train/scale_p05`,
        `_p50` and `_p95` are quantiles of the relative scale.
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
        """Continue from `train_sums`; on the first rank only, because they are the sums over all ranks."""
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
            # The first is a pickle; the second is FSDP's own copy of the weights.
            for name in ("training_args.bin", "pytorch_model_fsdp.bin"):
                (Path(directory) / name).unlink(missing_ok=True)
            self.state.save_to_json(os.path.join(directory, "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load adapters only: a full model was loaded from its checkpoint before the trainer was made.

        transformers would use a lenient `load_state_dict`, which ignores weights that a checkpoint names differently.
        """
        if self.loads_weights or isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _send_telemetry(self) -> None:
        """Send nothing: TRL would report each new trainer to the hub."""


class _AfterStep(TrainerCallback):
    """Calls `on_step` when a step is complete: weights and schedule are updated, and the gradients are cleared."""

    def __init__(self, trainer: RankrayTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self._trainer.stopped = self._trainer.on_step(self._trainer, state.global_step)
        control.should_training_stop = control.should_training_stop or bool(self._trainer.stopped)
        return control


def reset_accelerate() -> None:
    """Reset accelerate's global state (precision, device, accumulation); a process group stays as it is."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
