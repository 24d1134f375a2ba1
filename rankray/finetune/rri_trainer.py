"""`RRITrainer`: TRL's SFTTrainer with a weighted loss, for scripts of your own.

    from rankray import RRITrainer

    trainer = RRITrainer(model="Qwen/Qwen2.5-0.5B", train_dataset=dataset, temperature=0.7)

Everything else is as in `SFTTrainer`: arguments, datasets, LoRA, checkpoints, callbacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rankray.errors import LossError
from rankray.finetune.trainer import RankrayTrainer
from rankray.loss import Knobs, LossStats
from rankray.loss.knobs import make_knobs
from rankray.model.head import check_head, plain_model, plain_totals


class RRITrainer(RankrayTrainer):
    """An SFTTrainer that trains on the weighted loss and evaluates on the plain one.

    The logged `loss` is the weighted loss per supervised token; `nll` beside it is the plain one. `evaluate()` gives
    the plain NLL in nats per supervised token, over all of the data, as `eval_loss`: it does not depend on the weights,
    so runs with different settings can be compared on it.

    Args:
        arguments: those of `trl.SFTTrainer`, and the settings of the loss by name (`objective`, `temperature`,
            `entropy_weight`, ...: the fields of `rankray.loss.Knobs`, as in `loss:` of a configuration), or all of them
            as `loss=Knobs(...)`.

    Raises:
        LossError: an impossible setting, or a field of SFTConfig that asks for another loss.
        ModelError: the model transforms its logits in an unknown way.

    Source: arXiv:2602.01745.
    """

    loads_weights = True
    """`resume_from_checkpoint` loads the model's weights, as in any trainer of transformers."""

    def __init__(self, *positional: Any, loss: Knobs | None = None, **arguments: Any) -> None:
        names = ("model", "args", "data_collator", "train_dataset", "eval_dataset")
        arguments |= dict(zip(names, positional, strict=False))
        settings = {name: arguments.pop(name) for name in Knobs.model_fields if name in arguments}
        knobs = make_knobs(loss, **settings)
        _refuse_other_losses(arguments)
        self._evaluated: LossStats | None = None
        super().__init__(loss=knobs, on_step=lambda trainer, step: "", **arguments)
        check_head(plain_model(self.model))

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
        plain = {name: value for name, value in inputs.items() if name not in ("labels", "use_cache")}
        stats: LossStats = model(**plain, labels=inputs["labels"], head=plain_totals)
        self._evaluated = stats if self._evaluated is None else self._evaluated + stats
        loss = torch.tensor(stats.nll, device=self.args.device)
        return (loss, SimpleNamespace(logits=model(**plain).logits)) if return_outputs else loss

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


def _refuse_other_losses(arguments: Mapping[str, Any]) -> None:
    args = arguments.get("args")
    for name, harmless in (("loss_type", "nll"), ("label_smoothing_factor", 0), ("use_liger_kernel", False)):
        value = getattr(args, name, harmless)
        if value != harmless:
            raise LossError(
                f"RRITrainer: args.{name} is {value!r}; allowed is {harmless!r}, because the loss is rankray's own; "
                "leave it out, and choose the loss with objective="
            )
    if arguments.get("compute_loss_func") is not None:
        raise LossError("RRITrainer: got compute_loss_func; allowed is none; choose the loss with objective=")
