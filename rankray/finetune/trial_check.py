"""Find what a trial would be refused for, with the code that trials run, before any trial starts.

The tokenizer is loaded and every split is tokenised as in training (a trial then finds the tokens in the node's cache).
The model is built without weights, and adapters are put on it. TRL's SFTConfig, the optimizer, the schedule and the
reporters are made as they are for training. Nothing is trained.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from accelerate.utils import DynamoBackend
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Trainer
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from trl import SFTConfig  # type: ignore[attr-defined]

from rankray.config import Config, LoadedConfig
from rankray.config.evaluation import AlsoSection
from rankray.data.hub import HubOrigin
from rankray.data.sources import Placed, Source, entries_of, is_local
from rankray.data.tokenize import Split
from rankray.errors import ConfigError, DataError, ModelError, RankrayError, UserError, listed, nearest, shown
from rankray.evaluate.sets import as_config, read_choices
from rankray.finetune.arguments import check_batches, lora_config, sft_arguments
from rankray.finetune.base_model import gigabytes
from rankray.finetune.liger import check_liger
from rankray.finetune.preflight import STREAMED_ROWS, UNREAD, Findings
from rankray.finetune.process import clean_process
from rankray.finetune.quiet import quiet
from rankray.finetune.rate_check import check_rates
from rankray.finetune.rows_check import rendering_warnings
from rankray.finetune.variants import as_drawn, searched_variants
from rankray.model.files import context_length
from rankray.model.quantized import check_quantization, check_saved_form, weight_bytes
from rankray.model.resident import computes_in_half, configured_dtype, model_config, split_of, tokenizer_of
from rankray.model.saved import check_saved_weights
from rankray.paths import temporary_directory

logger = logging.getLogger(__name__)

NEED_A_GPU = ("bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval", "torch_compile")
"""Fields of SFTConfig that are refused on a machine without the GPU that the workers may well have."""
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")
LOOKED_AT = 50
"""How many examples are searched for a stop token."""


def check_trial(loaded: LoadedConfig, findings: Findings) -> None:
    """Check the configuration, and each that the space may choose, as far as nothing has to be trained.

    Args:
        loaded: the configuration.
        findings: sizes of the splits, warnings, and what was not looked at, are added.

    Raises:
        UserError: a trial would be refused; the message begins with the place of the field.
    """
    with quiet(), clean_process(loaded.config.train.threads):
        for variant in searched_variants(loaded):
            _check(variant, Findings())
        _check(as_drawn(loaded), findings)


def _check(loaded: LoadedConfig, findings: Findings) -> None:
    config = loaded.config
    with _placed(loaded.where):
        if not config.resources.gpus_per_worker:
            computes_in_half(config)
            check_quantization(config)
        tokenizer = tokenizer_of(config)
        splits = {split: split_of(split, config, tokenizer) for split in ("train", "eval")}
        for split, tokens in splits.items():
            findings.unseen = [line for line in findings.unseen if line != UNREAD.format(split)]
            known = split in findings.data
            findings.left_out[f"data.{split}"] = tokens.left_out
            table = findings.data[split] = tokens.lengths()
            warning = table.warning(split, context_length(model_config(config).to_dict()))
            findings.warnings += [warning] if warning and not known else []
        for name, section in config.evaluate.also.items():
            _check_set(name, section, config, tokenizer)
        findings.warnings += _without_stop(config, tokenizer, splits["train"])
        findings.warnings += _left_out_of_text(config, tokenizer)
        check_saved_form(model_config(config), config.model.quantization)
        findings.warnings += check_saved_weights(config)
        model = _check_model(config, tokenizer, splits, findings)
        remote = bool(config.resources.gpus_per_worker) and not torch.accelerator.is_available()
        findings.unseen += filter(None, [check_liger(config, model_config(config).model_type, remote)])
        _check_arguments(config, splits["train"], model, findings, remote)


@contextmanager
def _placed(where: Callable[[str], str]) -> Iterator[None]:
    """Put the place of the field, with which a message begins, before it."""
    try:
        yield
    except UserError as error:
        path = str(error).split(":")[0]
        raise type(error)(f"{where(path)}: {error}") from error


def _check_set(name: str, section: AlsoSection, config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
    """Read and tokenise a further set as an evaluation will."""
    where = f"evaluate.also.{name}"
    try:
        split = split_of("eval", as_config(section, config), tokenizer)
    except UserError as error:
        raise type(error)(f"{where}: {error}") from error
    if section.choices:
        for row in split.own_rows:
            read_choices(row, section, where)


def _without_stop(config: Config, tokenizer: PreTrainedTokenizerBase, split: Split) -> list[str]:
    """Return a warning where the model is not taught to stop."""
    stops = {tokenizer.eos_token_id} - {None}
    ends = getattr(model_config(config), "eos_token_id", None)
    stops |= {end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)}
    tokens = [each for each in split.first_tokens(LOOKED_AT) if each.supervised and len(each.input_ids) < split.limit]
    if not tokens or any(stops & set(each.input_ids[each.start :]) for each in tokens):
        return []
    named = tokenizer.eos_token
    why = f"the stop token {named!r}" if named else "a stop token, and the tokenizer has none"
    ended = (
        "let the chat template end an answer with it, as data.chat_template: plain does"  # a text ends with it anyway
    )
    fix = ended if named else "give the tokenizer one"
    return [
        f"model.path: no completion ends with {why}, so the model never learns to stop, and answers run to "
        f"evaluate.max_new_tokens; {fix}"
    ]


def _left_out_of_text(config: Config, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what the chat template leaves out of data of the hub, by their first rows; files are read before this."""
    if is_local(config.data.train):
        return []
    examples: list[Placed] = []
    for entry in entries_of(config.data.train):
        data = config.data.model_copy(update={"train": [entry], "streaming": True})
        source = Source("train", data, hub=partial(HubOrigin, streaming=config.data.streaming), tokenizer=tokenizer)
        examples += islice(source.placed(), STREAMED_ROWS)
    return rendering_warnings(examples, tokenizer, "data.train")


def _check_model(
    config: Config, tokenizer: PreTrainedTokenizerBase, splits: dict[str, Split], findings: Findings
) -> Any:
    """Build the model without weights, compare it with the tokenizer, put the adapters on it; return it, or None."""
    try:
        model = _without_weights(config)
        _check_attention(config, findings)
    except RankrayError:
        raise
    except Exception as error:  # code of a model's own, or an architecture without a language model
        logger.debug("the model cannot be built without weights", exc_info=True)
        findings.unseen.append(f"the model, which cannot be built without its weights ({_first(error)})")
        return None
    rows = model.get_input_embeddings().weight.shape[0]
    used = max(split.largest_token for split in splits.values())
    if used >= rows:
        raise ModelError(
            f"model.path: the tokenizer writes token {used}, and the model has {rows} embeddings; needed is an "
            "embedding for every token; take the model's own tokenizer, or resize the embeddings and save the model "
            "again"
        )
    if len(tokenizer) > rows:
        findings.warnings.append(
            f"model.path: the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings; the data use none "
            "of the others, but a prompt that does will fail; resize the embeddings and save the model again"
        )
    findings.notes += _memory_notes(config, model)
    adapters = lora_config(config)
    if adapters is None:
        return model
    _refuse_unknown_modules(config, model)
    try:
        adapted: Any = get_peft_model(model, adapters)
    except Exception as error:
        logger.debug("the adapters cannot be made", exc_info=True)
        given, names = config.model.lora and config.model.lora.target_modules, _linear_names(model)
        near, todo = "", "choose from these"
        if isinstance(given, str):
            near = nearest(given, ["all-linear", *names])
            todo = f"write [{given}]" if given in names else "a single text is a pattern over whole names; write a list"
        raise ConfigError(
            f"model.lora.target_modules: {shown(given)}{near}: {_first(error)}; allowed: all-linear, or names such as "
            f"{listed(names)}; {todo}"
        ) from error
    if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
        raise ConfigError(
            "model.lora.target_modules: names the output head, and TRL refuses to train adapters there; allowed are "
            "the layers below it; leave the head out"
        )
    return model


def _without_weights(config: Config, attention: str | None = None) -> Any:
    own = copy.deepcopy(model_config(config))  # which keeps the kind of attention that was asked for last
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            own, trust_remote_code=config.model.trust_remote_code, attn_implementation=attention
        )


def _check_attention(config: Config, findings: Findings) -> None:
    """Refuse a kind of attention that the model cannot have; one that is not installed here may be on the workers."""
    given = config.model.attn_implementation
    if given is None:
        return
    try:
        _without_weights(config, given)
    except Exception as error:
        logger.debug("no model with attention %s", given, exc_info=True)
        remote = bool(config.resources.gpus_per_worker) and not torch.accelerator.is_available()
        if remote and isinstance(error, ImportError):
            findings.unseen.append(f"model.attn_implementation: {given}, which is not installed on this machine")
            return
        near = "" if given in ATTENTION else nearest(given, ATTENTION)
        raise ConfigError(
            f"model.attn_implementation: got {shown(given)}{near}: {_first(error)}; allowed: "
            f"{', '.join(ATTENTION)}, or another that transformers has for this model; choose one, or leave it out"
        ) from error


def _linear_names(model: Any) -> list[str]:
    """Return what the model's linear layers below its head are called."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    return sorted({n.rpartition(".")[2] for n, m in layers.items() if m is not model.get_output_embeddings()})


def _refuse_unknown_modules(config: Config, model: Any) -> None:
    """Refuse a name that no layer has: peft passes over it where another one of the list is there."""
    lora = config.model.lora
    given = lora.target_modules if lora is not None else "all-linear"
    layers = [name for name, _ in model.named_modules()]
    for name in given if isinstance(given, list) else []:
        if not any(f".{layer}".endswith(f".{name}") for layer in layers):
            names = _linear_names(model)
            raise ConfigError(
                f"model.lora.target_modules: {shown(name)}{nearest(name, names)}: no layer of the model has this name; "
                f"allowed: all-linear, or names such as {listed(names)}; correct it, or leave it out"
            )


def _memory_notes(config: Config, model: Any) -> list[str]:
    """Return what a quantized model takes beside the whole one."""
    given = config.model.quantization
    if given is None:
        return []
    dtype = configured_dtype(config)
    small, whole = (gigabytes(weight_bytes(model, each, dtype)) for each in (given, None))
    return [f"model.quantization {given}: the base model takes about {small} of each GPU, {whole} without"]


def _check_arguments(config: Config, split: Split, model: Any, findings: Findings, remote: bool) -> None:
    """Make SFTConfig, optimizer, schedule and reporters as training does; name the field that is refused."""
    fields = {name: value for name, value in config.train.sft.items() if not (remote and name in NEED_A_GPU)}
    left_out = [name for name in config.train.sft if name not in fields]
    if left_out:
        findings.unseen.append(f"train.sft: {listed(left_out)}, because this machine has no GPU")
    _check_choices(fields)
    try:
        arguments, optimizer = _make(config, fields, split, model, remote)
    except DataError:
        raise
    except Exception as error:
        logger.debug("train.sft is refused", exc_info=True)
        name = next((name for name in fields if _works(config, fields, name, split, model, remote)), "")
        if not name:
            if isinstance(error, UserError):
                raise
            raise ConfigError(
                f"train.sft: {fields}: {_first(error)}; allowed is what training takes; fix it"
            ) from error
        why = _first(error.__cause__ or error)
        raise ConfigError(
            f"train.sft.{name}: got {shown(fields[name])}: {why}; allowed is what the libraries installed here take; "
            "correct or remove it"
        ) from error
    if optimizer is not None:
        findings.warnings += check_rates(config, arguments, optimizer)


def _check_choices(fields: dict[str, Any]) -> None:
    """Refuse a text that SFTConfig does not list for a field, where it lists any: it would be passed over."""
    for field in dataclasses.fields(SFTConfig):
        choices = list(field.metadata.get("choices") or ())
        given = fields.get(field.name)
        if choices and isinstance(given, str) and given not in choices:
            raise ConfigError(
                f"train.sft.{field.name}: got {shown(given)}{nearest(given, choices)}; allowed: {listed(choices)}; "
                "choose one"
            )


def _works(config: Config, fields: dict[str, Any], without: str, split: Split, model: Any, remote: bool) -> bool:
    """Return whether everything can be made without one of the fields."""
    try:
        _make(config, {key: value for key, value in fields.items() if key != without}, split, model, remote)
    except Exception as error:
        logger.debug("it is not train.sft.%s: %s", without, error)
        return False
    return True


def _make(config: Config, fields: dict[str, Any], split: Split, model: Any, remote: bool) -> tuple[Any, Any]:
    """Make everything but the model; return SFTConfig, and a small optimizer, or None where that takes a GPU."""
    train = config.train.model_copy(update={"sft": fields, "parallelism": "ddp"})
    config = config.model_copy(update={"train": train})
    with temporary_directory("rankray-checked-") as scratch:
        arguments = sft_arguments(config, config.train.seed, str(scratch), cpu=True)
        check_batches(arguments, len(split.dataset), config)
        for reporter in get_reporting_integration_callbacks(arguments.report_to):  # type: ignore[no-untyped-call]
            reporter()
        _check_parts(arguments, model, remote)
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        if remote or {"params", "model", "optimizer_dict"} & options.keys():
            return arguments, None
        return arguments, kind([torch.nn.Parameter(torch.zeros(4, 4))], **options)


def _check_parts(arguments: SFTConfig, model: Any, remote: bool) -> None:
    """Make what the trainer makes of some fields when it is too late: the loader, what compiles, the router's loss."""
    torch.utils.data.DataLoader(
        [0],  # type: ignore[arg-type]
        num_workers=arguments.dataloader_num_workers,
        persistent_workers=arguments.dataloader_persistent_workers,
        prefetch_factor=arguments.dataloader_prefetch_factor,
        multiprocessing_context=arguments.dataloader_multiprocessing_context,
    )
    if arguments.torch_compile and not remote:
        backend = DynamoBackend(str(arguments.torch_compile_backend).upper()).value.lower()
        torch.compile(lambda x: x, backend=backend, mode=arguments.torch_compile_mode)
    if arguments.activation_offloading and not (remote or torch.accelerator.is_available()):
        raise ValueError("there is no GPU from which activations could be moved")
    if arguments.router_aux_loss_coef and model is not None:
        text = model.config.get_text_config()
        if not hasattr(text, "output_router_logits"):
            raise ValueError(f"{type(model).__name__} is no mixture of experts that has a router's loss")


def _first(error: BaseException) -> str:
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0], 300).strip("'\"")
