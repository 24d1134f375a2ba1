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
from transformers import PreTrainedModel
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl import SFTTrainer  # type: ignore[attr-defined]

from rankray.errors import LossError
from rankray.finetune.batches import deal_once, ignore_repeated, own_batches
from rankray.finetune.signal import BASE_STATS, BaseSignal, SignalCollator, base_sequence_nlls, stats_at
from rankray.finetune.weights import TOKEN_WEIGHTS, TokenWeights, WeightCollator, weights_at
from rankray.loss import Anchor, Knobs, LossStats, weighted_nll_with_stats
from rankray.model.head import HeadInputs, attach_head, plain_model, sequence_nlls

StepFunction = Callable[["RankrayTrainer", int], str]
"""Called after each optimizer step with its number; if it returns a text, training stops."""


class RankrayTrainer(SFTTrainer):
    """An SFTTrainer that minimises the loss of `loss:` and calls back after every step.

    Args:
        loss: the config's `loss:` block.
        on_step: see `StepFunction`.
        on_begin: called when the model is ready to be trained, before the first step.
        signal: the base model's statistics, where the loss looks at them; its `dataset` is then the training set.
        weights: those that the data give to tokens; its `dataset` is then the training set, unless a signal's is.
        reference: the base model, frozen, for `kl_weight` where all weights are trained; with LoRA the model with its
            adapters off takes its place.
        arguments: the arguments of SFTTrainer.
    """

    loss_is_scaled_for_ga: Any = True
    """The loss is already the micro batch's share of the whole batch's; transformers must not divide it again."""

    loads_weights = False
    """Whether resuming loads a full model's weights, too; here they were loaded before."""

    further_columns: tuple[str, ...] = ()
    """Columns of the training set that the collator gets beside those of SFTTrainer."""

    def __init__(
        self,
        *,
        loss: Knobs,
        on_step: StepFunction,
        on_begin: Callable[[RankrayTrainer], None] | None = None,
        signal: BaseSignal | None = None,
        weights: TokenWeights | None = None,
        reference: PreTrainedModel | None = None,
        **arguments: Any,
    ) -> None:
        self._knobs = loss
        self._shares_temperature = loss.objective == "talr" and loss.talr_temperature == "auto"
        self._stats: LossStats | None = None
        self.on_step = on_step
        self.on_begin = on_begin
        self.stopped = ""
        super().__init__(**arguments)
        self.remove_callback(PrinterCallback)
        self.add_callback(_AfterStep(self))
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = True  # `num_items_in_batch` must not count first tokens, which nothing predicts
        attach_head(plain_model(self.model))
        if loss.needs_base and signal is None:
            raise LossError(
                f"loss: objective {loss.objective} with signal {loss.signal} and no statistics of the base model; "
                "allowed are objectives that need none; take another, or train with `rankray train` or a search"
            )
        if loss.kl_weight and reference is None and not isinstance(self.model, PeftModel):
            raise LossError(
                f"loss: kl_weight {loss.kl_weight} where all weights are trained and no reference is given; allowed is "
                "a frozen copy of the base model; give reference=, train with LoRA, or set kl_weight to 0"
            )
        if weights is not None:
            self.data_collator = WeightCollator(self.data_collator, weights, keeps_numbers=signal is not None)
        if signal is not None:
            self.data_collator = SignalCollator(self.data_collator, signal)
        self._reference: Any = None
        if reference is not None:
            attach_head(reference)
            self._reference = torch.nn.Module.to(reference, self.args.device)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        known: list[str] = list(self._signature_columns or [])
        self._signature_columns: Any = [*known, *(name for name in self.further_columns if name not in known)]

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
        weight_BT = inputs.pop(TOKEN_WEIGHTS, None)
        base_BT7 = inputs.pop(BASE_STATS, None)
        base_stats = None if base_BT7 is None else stats_at(base_BT7, inputs["labels"])
        anchor = self._anchor(inputs) if self._knobs.kl_weight else None

        def loss_of(given: HeadInputs) -> tuple[Tensor, Tensor, Tensor | None]:
            loss, stats = weighted_nll_with_stats(
                given.hidden_NH,
                given.head.weight_VH,
                given.label_N,
                sequence_N=given.sequence_N,
                num_items=items,
                base_stats=base_stats,
                anchor=anchor,
                token_weight_N=None if weight_BT is None else weights_at(weight_BT, inputs["labels"]),
                **given.head.options,
                knobs=self._knobs,
            )
            return loss, stats.vector(), given.router_loss

        loss: Tensor
        loss, vector, router_loss = model(**inputs, head=loss_of)
        stats = LossStats.from_vector(vector)
        self._stats = stats if self._stats is None else self._stats + stats
        if items is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        if router_loss is not None:  # a mean per micro batch, which ranks average, as in SFTTrainer.compute_loss
            parts = 1 if items is None else self.current_gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * router_loss * self._router_share(parts)
        return loss

    def _router_share(self, parts: int) -> float:
        """Return the share of a micro batch in the router's loss: of a filler none, of the others the same."""
        state = self.accelerator.gradient_state
        own = own_batches(state.active_dataloader)
        if own is None or not state.end_of_dataloader:
            return 1 / parts
        if own.ends_with_filler and state.sync_gradients:  # the last micro batch of a pass
            return 0.0
        return own.workers / ((parts - 1) * own.workers + own.last_round)

    @torch.no_grad()
    def _anchor(self, inputs: dict[str, Any]) -> Anchor:
        """Return the base model's hidden states and head for a micro batch; no dropout, no random numbers."""
        if self._reference is not None:
            given: HeadInputs = self._reference(**inputs, head=_as_given)
        else:
            model: Any = self.model
            model.eval()
            with model.disable_adapter():
                given = model(**inputs, head=_as_given)
            model.train()
        return Anchor(given.hidden_NH, given.head.weight_VH, given.head.bias_V)

    def train(self, *positional: Any, **arguments: Any) -> Any:
        """Train as SFTTrainer does, with several processes together also after an evaluation (docs/traps.md)."""
        is_bare = self.model_wrapped is self.model and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        if is_bare and self.accelerator.num_processes > 1:
            model: Any = self.model
            model._is_accelerate_prepared = False
        return super().train(*positional, **arguments)

    def get_train_dataloader(self) -> Any:
        """Return batches of training examples, each example once in a pass, also with several workers."""
        loader = super().get_train_dataloader()
        deal_once(loader)
        return loader

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Collect the micro batches of a batch; for talr also compute the temperature T that they share."""
        once = (ignore_repeated(batch, flat=self.padding_free) for batch in epoch_iterator)
        parts, items = super().get_batch_samples(once, num_batches, device)
        if self._shares_temperature and (len(parts) > 1 or self.accelerator.num_processes > 1):
            self._knobs = self._knobs.model_copy(update={"talr_temperature": self._median_nll(parts)})
        elif self._shares_temperature:
            self._knobs = self._knobs.model_copy(update={"talr_temperature": "auto"})
        return parts, items

    def _median_nll(self, parts: list[dict[str, Any]]) -> float:
        """Return the median over all sequences of a batch, on all ranks, of their mean plain NLL in nats."""
        model: Any = self.model
        if self._knobs.needs_base:
            found = [nll for part in parts for nll in base_sequence_nlls(part)]
        else:
            plain = [{name: value for name, value in part.items() if name != TOKEN_WEIGHTS} for part in parts]
            model.eval()
            with torch.no_grad():
                found = [nll for part in plain for nll in model(**self._prepare_inputs(part), head=sequence_nlls)]
            model.train()
        everywhere: list[float] = gather_object(found)
        return max(statistics.median(everywhere or [1.0]), torch.finfo(torch.float32).tiny)

    def train_metrics(self, reset: bool) -> dict[str, float]:
        """Return `train/...` over the tokens seen since the last reset, over all ranks; empty before the first step.

        `train/loss` is the weighted loss per supervised token, the divergence from the base model included, and
        `train/nll` the plain one in nats. `train/scale_p05`, `_p50` and `_p95` are quantiles of the relative scale.
        `train/kl` is the divergence in nats per token, where `kl_weight` is set.
        """
        if self._stats is None:
            return {}
        stats = LossStats.from_vector(self.accelerator.reduce(self._stats.vector(), reduction="sum"))
        if reset:
            self._stats = None
        kl = float(stats.kl_sum / stats.token_count)
        return {
            "train/loss": float(stats.weighted_sum / stats.token_count) + self._knobs.kl_weight * kl,
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
        } | ({"train/kl": kl} if self._knobs.kl_weight else {})

    def scale_spread(self) -> dict[str, Any] | None:
        """Return the histogram of S over the same tokens as `train_metrics`, over all ranks; None without an S."""
        if self._stats is None or self._knobs.objective != "rri":
            return None
        return LossStats.from_vector(self.accelerator.reduce(self._stats.vector(), reduction="sum")).scale_spread()

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


def _as_given(given: HeadInputs) -> HeadInputs:
    """Head function: what a loss would get."""
    return given


class _AfterStep(TrainerCallback):
    """Calls `on_begin` before the first step, and `on_step` when a step is complete.

    Then weights and schedule are updated, and the gradients are cleared.
    """

    def __init__(self, trainer: RankrayTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.on_begin is not None:
            self._trainer.on_begin(self._trainer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self._trainer.stopped = self._trainer.on_step(self._trainer, state.global_step)
        control.should_training_stop = control.should_training_stop or bool(self._trainer.stopped)
        return control


def reset_accelerate() -> None:
    """Reset accelerate's global state (precision, device, accumulation); a process group stays as it is."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
