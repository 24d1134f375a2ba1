"""From the configuration to TRL's SFTConfig: fixed values, the fields of `train:`, and those of `train.sft:`."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from peft import LoraConfig
from trl import SFTConfig  # type: ignore[attr-defined]

from rankray.config.schema import Config
from rankray.errors import ConfigError, first_line, shown
from rankray.finetune.liger import layer_kernels
from rankray.finetune.schedules import check_schedule
from rankray.finetune.sft_fields import check_sft_fields

logger = logging.getLogger(__name__)
SEEDS = 2**32
"""How many seeds numpy tells apart."""


def sft_arguments(
    config: Config, seed: int, directory: str, half: bool = False, mixed: bool = False, cpu: bool = False
) -> SFTConfig:
    """Return the SFTConfig of one training run.

    The trainer itself prints, reports, uploads, evaluates and saves nothing: `run` evaluates, saves and reports.
    Weights are trained in the type they have, without autocast (except with `half` and `mixed`); mixed precision of
    float32 weights is `train.sft: {bf16: true}`.

    Args:
        config: the trial's configuration.
        seed: for data order, dropout and the initial adapters; those from `SEEDS` on begin again at 0.
        directory: where the trial writes.
        half: compute in float16 with loss scaling; float16 does not train without it.
        mixed: compute in bfloat16 under autocast, on float32 weights.
        cpu: touch no GPU even where there is one, for a check of the values.

    Raises:
        ConfigError: a field of `train.sft` that does not exist, is set elsewhere or has an impossible value; a batch
            size that does not divide over the workers.
    """
    check_sft_fields(config.train.sft)
    check_schedule(config)
    batch, accumulation = split_batch(config.train.batch_size, config.train.micro_batch_size, world_size())
    gpu = torch.accelerator.is_available() and not cpu
    fields: dict[str, Any] = {
        "output_dir": directory,
        "max_steps": config.train.max_steps,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": config.train.learning_rate,
        "warmup_steps": round(config.train.warmup_ratio * config.train.max_steps),
        "weight_decay": config.train.weight_decay,
        "lr_scheduler_type": config.train.schedule,
        "seed": seed % SEEDS,
        "data_seed": seed % SEEDS,
        "use_cpu": not gpu,
        "fp16": half,
        "bf16": mixed,
        "dataloader_pin_memory": gpu,
        "gradient_checkpointing": False,
        "max_length": None,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "push_to_hub": False,
    }
    if config.train.parallelism == "fsdp" and world_size() > 1:
        fields |= {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"}}
        _refuse_fsdp_on_cpus()
    fields.update(config.train.sft)
    if fields.get("use_liger_kernel"):
        fields["liger_kernel_config"] = layer_kernels(fields.get("liger_kernel_config"))
    if not (fields.get("packing") or fields.get("shuffle_dataset")):
        fields["dataset_kwargs"] = {"skip_prepare_dataset": True}
    elif fields.get("packing"):
        fields["max_length"] = config.data.max_length
    try:
        return SFTConfig(**fields)
    except Exception as error:  # a missing library is an ImportError, an unknown device a RuntimeError ...
        logger.debug("SFTConfig refuses its fields", exc_info=True)
        first = first_line(error)
        raise ConfigError(
            f"train.sft: {shown(config.train.sft, 300)}: {first}; allowed is what TRL's SFTConfig takes; fix that value"
        ) from error


def check_batches(arguments: SFTConfig, rows: int, config: Config) -> None:
    """Refuse a training set of which dropping the last batch leaves nothing.

    Raises:
        ConfigError: there is no whole batch.
    """
    batch = arguments.per_device_train_batch_size * world_size()
    if arguments.dataloader_drop_last and rows < batch and not arguments.packing:
        raise ConfigError(
            f"train.sft.dataloader_drop_last: got true, and the {rows} rows of data.train are less than one batch of "
            f"{batch}, so nothing would be trained; allowed is at least one whole batch; lower train.batch_size or "
            "train.micro_batch_size, or remove it"
        )


def _refuse_fsdp_on_cpus() -> None:
    """Refuse FSDP on CPUs, which accelerate would silently train as DDP (docs/traps.md)."""
    if not torch.accelerator.is_available():
        raise ConfigError(
            "train.parallelism: fsdp on a CPU, where accelerate does not shard; allowed there is ddp; set it, or give "
            "each worker a GPU with resources.gpus_per_worker"
        )


def split_batch(batch_size: int, micro_batch_size: int | None, workers: int) -> tuple[int, int]:
    """Return (examples per forward pass and worker, accumulation steps) that make up one optimizer step.

    Raises:
        ConfigError: the batch does not divide evenly.
    """
    if batch_size % workers:
        raise ConfigError(
            f"train.batch_size: {batch_size} examples do not divide over {workers} workers; allowed are multiples of "
            f"{workers}; set one, or resources.workers"
        )
    share = batch_size // workers
    micro = min(micro_batch_size or share, share)
    if share % micro:
        raise ConfigError(
            f"train.micro_batch_size: {micro} does not divide the {share} examples of each of {workers} workers; "
            f"allowed are divisors of {share}; set one"
        )
    return micro, share // micro


def world_size() -> int:
    """Return how many processes train this trial together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def lora_config(config: Config) -> LoraConfig | None:
    """Return the adapters' configuration, or None when all weights are trained."""
    lora = config.model.lora
    if lora is None:
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        use_dora=lora.dora,
    )
