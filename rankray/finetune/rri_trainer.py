"""`RRITrainer`: TRL's SFTTrainer with a weighted loss, for scripts of your own.

    from rankray import RRITrainer

    trainer = RRITrainer(model="Qwen/Qwen2.5-0.5B", train_dataset=dataset, temperature=0.7)

Everything else is as in `SFTTrainer`: arguments, datasets, LoRA, checkpoints, callbacks.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutput
from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from rankray.errors import LossError, listed, nearest
from rankray.finetune.batches import deal_once, ignore_repeated
from rankray.finetune.trainer import RankrayTrainer
from rankray.finetune.weights import TOKEN_WEIGHTS, ColumnCollator, check_columns
from rankray.loss import Knobs, LossStats
from rankray.loss.knobs import make_knobs
from rankray.model.head import check_head, plain_model, plain_totals

HARMLESS: dict[str, tuple[Any, ...]] = {
    "loss_type": ("nll", "chunked_nll"),  # the second is the default of TRL 1.10
    "label_smoothing_factor": (0,),
    "use_liger_kernel": (False,),
}
"""Fields of SFTConfig that choose a loss -> the values that choose none but the plain one."""


class RRITrainer(RankrayTrainer):
    """An SFTTrainer that trains on the weighted loss and evaluates on the plain one.

    The logged `loss` is the weighted loss per supervised token; `nll` beside it is the plain one. `evaluate()` gives
    the plain NLL in nats per supervised token, over all of the data, as `eval_loss`: it does not depend on the weights,
    so runs with different settings can be compared on it. With several processes each example counts once in training
    and in evaluation, where accelerate repeats the first ones; of a stream (IterableDataset) they are repeated as in
    SFTTrainer.

    Args:
        arguments: those of `trl.SFTTrainer`, and the settings of the loss by name (`objective`, `temperature`,
            `entropy_weight`, ...: the fields of `rankray.loss.Knobs`, as in `loss:` of a configuration), or all of them
            as `loss=Knobs(...)` or a mapping. With `kl_weight`, and without LoRA, also `reference`: a frozen copy of
            the base model. What looks at the base model's probabilities (`objective="iw_sft"`, `signal="base"`) needs
            `rankray train`, which reads them beforehand.
        weight_column: column of the training set with a weight for each example, 0 or more, which multiplies those of
            its tokens. Evaluation ignores it.
        token_weights: column of a tokenised training set with a list of weights, one for each of `input_ids`.
        prompt_weight: weight from 0 to 1 of the tokens that TRL leaves without a label (those of prompts, or of other
            turns than the assistant's), next to 1 for the others, in training alone; 0 does not train on them.

    Raises:
        LossError: an impossible setting, a field of SFTConfig that asks for another loss, a column with weights that
            the training set does not have, or weights with packing.
        DataError: a weight that is missing, no number, negative or not finite, or weights that are all 0; of a stream
            when its batch is made.
        ModelError: the model transforms its logits in an unknown way.

    Source: arXiv:2602.01745.

    >>> import datasets, rankray, trl
    >>> rows = datasets.Dataset.from_list([{"prompt": "1 plus 1 is?", "completion": " 2"}] * 8)
    >>> args = trl.SFTConfig(place, max_steps=1, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True)
    >>> trainer = rankray.RRITrainer(model=model, args=args, train_dataset=rows, temperature=0.7)
    >>> trainer.train().global_step
    1
    """

    loads_weights = True
    """`resume_from_checkpoint` loads the model's weights, as in any trainer of transformers."""

    def __init__(
        self,
        *positional: Any,
        loss: Knobs | Mapping[str, Any] | None = None,
        weight_column: str | None = None,
        token_weights: str | None = None,
        prompt_weight: float = 0.0,
        **arguments: Any,
    ) -> None:
        if isinstance(prompt_weight, bool) or not 0 <= prompt_weight <= 1:  # false for NaN
            raise LossError(f"RRITrainer: prompt_weight {prompt_weight!r}; allowed is a number from 0 to 1; correct it")
        self.further_columns = tuple(name for name in (weight_column, token_weights) if name is not None)
        names = ("model", "args", "data_collator", "train_dataset", "eval_dataset")
        arguments |= dict(zip(names, positional, strict=False))
        settings = {name: arguments.pop(name) for name in Knobs.model_fields if name in arguments}
        if isinstance(loss, Mapping):
            loss = make_knobs(**loss)
        knobs = make_knobs(loss, **settings)
        _refuse_unknown(arguments)
        _refuse_other_losses(arguments)
        is_weighted = bool(self.further_columns or prompt_weight)
        if is_weighted:
            _check_columns(self.further_columns, arguments)
            longest = getattr(arguments.get("args") or SFTConfig, "max_length", None)
            check_columns(arguments.get("train_dataset"), weight_column, token_weights, longest)
        self._evaluated: LossStats | None = None
        super().__init__(loss=knobs, on_step=lambda trainer, step: "", **arguments)
        check_head(plain_model(self.model))
        self._weighted: ColumnCollator | None = None
        if is_weighted:
            self._weighted = ColumnCollator(self.data_collator, weight_column, token_weights, prompt_weight)
            self.data_collator = self._weighted

    def get_eval_dataloader(self, *positional: Any, **arguments: Any) -> Any:
        """Return batches of held-out examples, without weights."""
        with self._unweighted():
            return self._once(super().get_eval_dataloader(*positional, **arguments))

    def get_test_dataloader(self, *positional: Any, **arguments: Any) -> Any:
        """Return batches of the examples of `predict`, without weights."""
        with self._unweighted():
            return self._once(super().get_test_dataloader(*positional, **arguments))

    def _once(self, loader: Any) -> Any:
        """Return a loader that deals each example once where rows do not say which those are that are repeated.

        Elsewhere transformers gathers losses and logits of batches of one size, so that accelerate's batches stay.
        """
        if self.padding_free:
            deal_once(loader)
        return loader

    @contextmanager
    def _unweighted(self) -> Iterator[None]:
        collator, weighted = self.data_collator, self._weighted
        is_ours: bool = collator is weighted
        if weighted is not None and is_ours:
            self.data_collator = weighted.for_evaluation()
        try:
            yield
        finally:
            self.data_collator = collator

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the weighted loss in training, the plain one in evaluation; with outputs only where they are asked."""
        if model.training:
            return super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        inputs = ignore_repeated(inputs, flat=self.padding_free)
        plain = {name: value for name, value in inputs.items() if name not in ("labels", "use_cache", TOKEN_WEIGHTS)}
        stats: LossStats = model(**plain, labels=inputs["labels"], head=plain_totals)
        self._evaluated = stats if self._evaluated is None else self._evaluated + stats
        loss = torch.tensor(stats.nll, device=self.args.device)
        return (loss, CausalLMOutput(logits=model(**plain).logits)) if return_outputs else loss

    def evaluation_loop(self, *positional: Any, **arguments: Any) -> Any:
        """Evaluate, and put the NLL over all supervised tokens in the place of transformers' mean over batches."""
        self._evaluated = None
        found = super().evaluation_loop(*positional, **arguments)
        if self._evaluated is not None:
            prefix = arguments.get("metric_key_prefix", "eval")
            total: Tensor = self.accelerator.reduce(self._evaluated.vector(), reduction="sum")
            found.metrics[f"{prefix}_loss"] = LossStats.from_vector(total).nll
        return found

    def log(self, logs: dict[str, float], *positional: Any, **arguments: Any) -> None:
        """Log the plain NLL and the spread of the weights beside the weighted loss."""
        if "loss" in logs:
            found = self.train_metrics(reset=True)
            names = ("nll", "token_accuracy", "mean_weight", "mean_scale", "effective_share")
            logs |= {name: found[f"train/{name}"] for name in names if f"train/{name}" in found}
        super().log(logs, *positional, **arguments)


def _refuse_unknown(arguments: Mapping[str, Any]) -> None:
    """Refuse what is neither an argument of SFTTrainer nor a setting of the loss: most likely one that is misspelt."""
    known = {*inspect.signature(SFTTrainer.__init__).parameters, "reference"}
    for name in arguments:
        if name not in known:
            names = [*Knobs.model_fields, *known]
            raise LossError(
                f"RRITrainer: {name}: unknown{nearest(name, names)}; allowed: the arguments of SFTTrainer and the "
                "settings of the loss; correct the name"
            )


def _refuse_other_losses(arguments: Mapping[str, Any]) -> None:
    args = arguments.get("args")
    for name, harmless in HARMLESS.items():
        value = getattr(args, name, harmless[0])
        if value not in harmless:
            raise LossError(
                f"RRITrainer: args.{name} is {value!r}; allowed is {harmless[0]!r}, because the loss is rankray's own; "
                "leave it out, and choose the loss with objective="
            )
    if arguments.get("compute_loss_func") is not None:
        raise LossError("RRITrainer: got compute_loss_func; allowed is none; choose the loss with objective=")


def _check_columns(names: Sequence[str], arguments: Mapping[str, Any]) -> None:
    """Refuse columns with weights that are not there, or that packing would drop."""
    dataset = arguments.get("train_dataset")
    have = getattr(dataset, "column_names", None)
    if names and have is None and dataset is not None:  # of an IterableDataset: it is seen in its first row
        have = list(next(iter(dataset), {}))
    lacking = [name for name in names if have is not None and name not in have]
    if lacking:
        raise LossError(
            f"RRITrainer: train_dataset has no column {lacking[0]!r}{nearest(lacking[0], have or [])}; allowed: "
            f"{listed(have or [])}; name one of them"
        )
    args = arguments.get("args")
    for name, harmless in (("packing", False), ("truncation_mode", "keep_start")):
        if (value := getattr(args, name, harmless)) != harmless:
            raise LossError(
                f"RRITrainer: {f'weights in the column {names[0]!r}' if names else 'prompt_weight'} with args.{name} "
                f"{value!r}, which loses them; allowed is {harmless!r}; leave it out, or train with `rankray train`, "
                "which carries weights along"
            )
