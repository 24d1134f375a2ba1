"""Find mistakes in data and model before anything expensive starts, without importing torch.

`check` prints what this finds, and `search` calls it before Ray starts. Local files and model directories are read,
including those that the space may choose. What needs the libraries of training is checked in `trial_check`, by the code
that trials run; `check --offline` leaves that out and says so.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rankray.config import Config, LoadedConfig
from rankray.config.points import refused_draws
from rankray.config.schema import unreached
from rankray.config.space import distributions, known_left_out, never_drawn
from rankray.data.encode import light_tokenizer, measure
from rankray.data.examples import Places
from rankray.data.files import file_fingerprint, files_of, hub_parts, is_file_source
from rankray.data.guess import text_alone
from rankray.data.leaks import leaks_line, leaks_of
from rankray.data.left_out import LeftOut
from rankray.data.lengths import LengthTable, length_table, table_lines
from rankray.data.sources import Placed, Source, entries_of, fingerprint, is_local, refuse_revision
from rankray.data.turns import NO_TEMPLATE
from rankray.errors import ConfigError, DataError, ModelError, first_line, nearest, shown
from rankray.evaluate.answers import is_function, load_function
from rankray.evaluate.engine import is_server, refuse_server_in_training
from rankray.evaluate.sets import check_sets
from rankray.finetune.base_model import check_base_model
from rankray.finetune.rows_check import (
    answer_warnings,
    border_warnings,
    optional_warnings,
    rendering_warnings,
    template_warnings,
    warnings_of_names,
)
from rankray.finetune.schedules import check_one_schedule, check_schedule, ignored_warmup
from rankray.finetune.sft_fields import check_sft_fields, unused_fields
from rankray.finetune.variants import as_drawn, check_kept_processes, searched_variants
from rankray.model.extras import needed, require
from rankray.model.files import context_length, has_chat_template, json_object, local_model, weight_files
from rankray.model.pin import revision_problem
from rankray.model.shapes import shapes_in

logger = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json")
WEIGHT_KINDS = ("*.safetensors", "pytorch_model*.bin")
OTHER_FILES = (
    *TOKENIZER_FILES,
    "*.bin",
    "*.jinja",
    "chat_template*",
    "generation_config.json",
    "*.model",
    "*.py",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
"""What else of a model decides on results, beside config.json and the weights in safetensors."""
SAMPLE_ABOVE_BYTES = 32 << 20
STREAMED_ROWS = 1000
"""How many rows of streamed data are looked at before they are tokenised."""
UNREAD = f"data.{{}}: rows after the first {STREAMED_ROWS:,} (data.streaming)"


@dataclass
class Findings:
    """What a check has found, beside the errors it raises.

    Attributes:
        fingerprints: `{"data": {"train": ..., "eval": ...}, "model": ..., "model_files": ...}`: `sha256:...` of a local
            file, of a local model's config.json and safetensors, and of what else of it decides on results: tokenizer,
            chat template, generation settings, pickled weights. Of files above 32 MiB: the size and evenly spaced
            samples. Otherwise the hub id. Beside the splits, `data` has the local sets of `evaluate.also`; `choices`
            has what the space may choose: each local source and model, as `data.train: FILE`.
        data: the size of each split, where it was tokenised.
        left_out: field, such as `data.train` -> its rows with nothing to train on.
        notes: what is worth knowing before it starts.
        warnings: what will work, but hardly as intended.
        unseen: what was not looked at.
        memory: what a trial takes of it, see `memory_check`; empty where that is not known.
    """

    fingerprints: dict[str, Any] = field(default_factory=dict)
    data: dict[str, LengthTable] = field(default_factory=dict)
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def all_warnings(self) -> list[str]:
        """The warnings, and a line for each field of which rows are left out."""
        return [*(line for name, left in self.left_out.items() if (line := left.line(name))), *self.warnings]

    def sizes(self) -> dict[str, dict[str, Any]]:
        """Return the size of each split as plain JSON types."""
        left = {split: self.left_out.get(f"data.{split}", LeftOut()).as_json() for split in self.data}
        return {split: table.as_json() | {"left_out": left[split]} for split, table in self.data.items()}

    def lines(self, with_unseen: bool = True) -> list[str]:
        """Return sizes, notes, warnings and, if it is wanted, what was not looked at, a line each."""
        sizes = table_lines(self.data)
        unseen = [f"not looked at: {what}" for what in self.unseen if with_unseen]
        return [*sizes, *self.notes, *(f"warning: {warning}" for warning in self.all_warnings), *unseen]


def preflight(loaded: LoadedConfig) -> Findings:
    """Check data and model of a configuration, as far as that is possible without torch and transformers.

    Raises:
        DataError: a file is missing, unreadable or empty, a column does not exist, messages are malformed, or
            `data.max_length` leaves no completion.
        ModelError: a local model directory is incomplete.
        ConfigError: `train.sft` holds a field that does not exist or is set elsewhere.
    """
    findings = Findings(warnings=[*_space_warnings(loaded), *template_warnings(loaded), *ignored_warmup(loaded)])
    check_one_schedule(loaded)
    check_kept_processes(loaded)
    choices: dict[str, Any] = {}
    for variant in searched_variants(loaded):
        found = Findings()
        _check(variant, found)
        choices |= _chosen(variant.config, found.fingerprints, loaded.config.search_space.distributions)
    _check(as_drawn(loaded), findings)
    if choices:
        findings.fingerprints["choices"] = choices
    return findings


def _chosen(config: Config, prints: Mapping[str, Any], searched: Container[str]) -> dict[str, Any]:
    """Return the fingerprints of a variant's local data and model, where the space chooses them, by field and path."""
    data = {f"data.{split}": getattr(config.data, split) for split in ("train", "eval", "test")}
    found = {
        f"{field}: {given}": prints["data"][field.removeprefix("data.")]
        for field, given in data.items()
        if field in searched and isinstance(given, str) and is_local(given)
    }
    if "model.path" in searched and local_model(config.model.path) is not None:
        found[f"model.path: {config.model.path}"] = {name: each for name, each in prints.items() if name != "data"}
    return found


def check_functions(loaded: LoadedConfig) -> None:
    """Import the user's evaluations, engine and comparisons of answers, which may import anything.

    Raises:
        ConfigError: one cannot be imported, or the engine is a server, which does not have a trial's weights.
    """
    given = loaded.config.evaluate
    named = [("evaluate.functions", name) for name in given.functions]
    named += [("evaluate.answer", given.answer)] if is_function(given.answer) else []
    named += [(f"evaluate.also.{name}.answer", each.answer) for name, each in given.also.items()
              if is_function(each.answer)]  # fmt: skip
    named += [] if given.engine is None or is_server(given.engine) else [("evaluate.engine", given.engine)]
    try:
        refuse_server_in_training(given)
        for path, name in named:
            load_function(name, path)
    except ConfigError as error:
        raise ConfigError(f"{loaded.where(str(error).split(':')[0])}: {error}") from error


def _check(loaded: LoadedConfig, findings: Findings) -> None:
    config = loaded.config
    check_sft_fields(config.train.sft, loaded.where)
    findings.warnings += unused_fields(config.train.sft, loaded.where)
    check_schedule(config, loaded.where)
    for extra in needed(config):
        try:
            require(extra)
        except ConfigError as error:
            raise ConfigError(f"{loaded.where(extra.field)}: {error}") from None
    check_base_model(loaded)
    if problem := revision_problem(config):
        raise ModelError(f"{loaded.where('model.revision')}: {problem}")
    prints, directory = check_model_files(config.model.path, loaded.where("model.path"))
    splits = ("train", "eval", *(["test"] if config.data.test is not None else []))
    tokenizer = None if directory is None else _light_tokenizer(directory, loaded)
    data = {split: _check_split(split, loaded, directory, tokenizer, findings) for split in splits}
    has_chats, left_out = check_sets(loaded, tokenizer)
    for name, section in config.evaluate.also.items():
        if is_file_source(section.data):
            place = f"evaluate.also.{name}.data"
            data[place] = fingerprint(section.data, f"{loaded.where(place)}: {place}")
    findings.left_out |= left_out
    if has_chats and directory is not None:
        _needs_chat_template(directory, loaded, loaded.where("evaluate.also"))
    findings.fingerprints = {"data": data, **prints}


def _space_warnings(loaded: LoadedConfig) -> list[str]:
    """Return what the space will do that its author may not expect."""
    config, warnings = loaded.config, []
    for path, why in never_drawn(config).items():
        warnings.append(f"space.{path}: never drawn, because {why}; remove it, or change that")
    for name, why in known_left_out(config).items():
        warnings.append(
            f"{loaded.where('study.known')}: study.known: {name} is not tried, because {why}; search that field, or "
            "remove the name"
        )
    warnings += [f"{loaded.where(line.split(':')[0])}: {line}" for line in unreached(config)]
    draws = refused_draws(config, distributions(config))
    if draws:
        point, why = draws[0]
        warnings.append(
            f"space: {len(draws)} of 200 random points are refused, and each that is drawn is a FAILED trial; {point}: "
            f"{why}"
        )
    return warnings


def check_model_files(path: str, place: str) -> tuple[dict[str, str], Path | None]:
    """Refuse a local model that is incomplete; return the fingerprints of its files, and its directory if it is local.

    Args:
        path: as `model.path` has it.
        place: where that was written, for errors.

    Raises:
        ModelError: the directory is not there, or lacks something.
    """
    directory = local_model(path)
    if directory is None:
        return {"model": path}, None
    where = f"{place}: model.path"
    if not directory.is_dir():
        near = [p.name for p in directory.parent.iterdir() if p.is_dir()] if directory.parent.is_dir() else []
        raise ModelError(
            f"{where}: no directory {path!r}{nearest(directory.name, near)}; allowed is a model directory or a hub id; "
            "fix the path"
        )
    have = ", ".join(sorted(p.name for p in directory.iterdir())[:12]) or "nothing"
    needed = {"config.json": ("config.json",), "weights (*.safetensors)": WEIGHT_KINDS, "a tokenizer": TOKENIZER_FILES}
    for what, patterns in needed.items():
        if not any(file.is_file() for pattern in patterns for file in directory.glob(pattern)):
            raise ModelError(
                f"{where}: {path!r} lacks {what} (it holds {have}); needed are config.json, weights and a tokenizer; "
                "save model and tokenizer there with save_pretrained"
            )
    json_object(directory / "config.json", where)
    _check_weights(directory, where)
    _tokenizer(directory, where)
    weights = [directory / "config.json", *sorted(directory.glob("*.safetensors"))]
    others = {file for pattern in OTHER_FILES for file in directory.glob(pattern) if file.is_file()}
    return {"model": _fingerprint(weights), "model_files": _fingerprint(sorted(others))}, directory


def _fingerprint(files: Sequence[Path]) -> str:
    parts = [f"{file.name} {file_fingerprint(file, SAMPLE_ABOVE_BYTES)}" for file in files]
    return f"sha256:{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}"


def _check_weights(directory: Path, where: str) -> None:
    """Read the headers of the weights, and look for the files that an index names."""
    for index in (file for kind in WEIGHT_KINDS for file in directory.glob(f"{kind}.index.json")):
        named = json_object(index, where).get("weight_map")
        names = set(named.values()) if isinstance(named, dict) else set()
        lacking = sorted(str(name) for name in names if not (directory / str(name)).is_file())
        if lacking or not names:
            what = f"names {shown(lacking[0])}, which is not there" if lacking else "has no weight_map"
            raise ModelError(
                f"{where}: {str(index)!r} {what}; needed are all files of the weights; complete the directory"
            )
    for file in sorted({*directory.glob("*.safetensors"), *weight_files(directory)}):
        try:
            shapes_in(file)
        except Exception as error:  # of the reader's own kind, or the system's
            logger.debug("%s cannot be opened", file, exc_info=True)
            first = first_line(error)
            raise ModelError(
                f"{where}: {str(file)!r} is not a file of weights ({shown(first)}); needed are complete weights, best "
                "in safetensors; save the model again"
            ) from error


def _tokenizer(directory: Path, where: str) -> Any:
    """Return the tokenizer in tokenizer.json; None where there is no such file."""
    file = directory / "tokenizer.json"
    if not file.is_file():
        return None
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain exceptions
        logger.debug("%s cannot be opened", file, exc_info=True)
        first = first_line(error)
        raise ModelError(
            f"{where}: {str(file)!r} is not a tokenizer ({shown(first)}); needed is one that save_pretrained wrote; "
            "save the tokenizer again"
        ) from error


def _check_split(split: str, loaded: LoadedConfig, model: Path | None, tokenizer: Any, findings: Findings) -> str:
    data, place = loaded.config.data, loaded.where(f"data.{split}")
    given, where = getattr(data, split), f"{place}: data.{split}"
    for entry in entries_of(given):
        local = is_file_source(entry.path)
        if local:
            refuse_revision(entry, where)
        name = Path(entry.path).name if local else hub_parts(entry.path, where)[-1].partition("[")[0]
        files = files_of(entry.path, where) if local else []
        findings.warnings += warnings_of_names(split, name, files, where)
    if not is_local(given):
        return fingerprint(given, where)
    places = Places.at(loaded.where, split)
    first = loaded.config.evaluate.max_examples if split == "eval" else None
    source = Source(split, data, first, places=places, tokenizer=tokenizer)
    examples = list(islice(source.placed(), STREAMED_ROWS if data.streaming else None))
    if data.streaming and len(examples) == STREAMED_ROWS:
        findings.unseen.append(UNREAD.format(split))
    if data.streaming and split == "train":
        findings.unseen.append("data.streaming: held-out prompts that also stand in data.train")
    findings.left_out[f"data.{split}"] = source.left_out
    findings.warnings += answer_warnings(split, examples, loaded, where)
    if split == "train":
        findings.warnings += optional_warnings(examples, data, places)
        findings.warnings += rendering_warnings(examples, tokenizer, where)
        findings.warnings += border_warnings(examples, tokenizer, where)
    for entry in entries_of(given) if split == "train" else ():
        if (entry.format or data.format) == "auto" and source.forms.get(entry.path) == "text":
            said = text_alone(source.unused[entry.path])
            findings.notes += [f"note: {where}: {entry.path}: {said}"] if said else []
    if model is not None:
        chats = [placed.example for placed in examples if placed.example.is_chat]
        if any(example.template is None for example in chats):
            by_field = f"{loaded.where('data.chat')}: data.chat" if data.chat else places.source
            _needs_chat_template(model, loaded, by_field if data.messages is None else places.messages)
        _check_room(examples, model, tokenizer, split, loaded, findings)
    return fingerprint(given, where)


def leak_warnings(loaded: LoadedConfig) -> list[str]:
    """Return a line for each held-out split of which prompts also stand in the training data; only files are compared.

    Raises:
        DataError: a file cannot be read.
    """
    found = leaks_of(loaded.config.data)
    return [line for split, leaks in found.items() if (line := leaks_line(split, leaks))]


def _light_tokenizer(model: Path, loaded: LoadedConfig) -> Any:
    """Return the tokenizer, or None where it cannot be read without torch."""
    try:
        return light_tokenizer(model, loaded.config.data.chat_template)
    except ModelError as error:
        raise ModelError(f"{loaded.where('model.path')}: {error}") from error


def _check_room(
    examples: Sequence[Placed], model: Path, tokenizer: Any, split: str, loaded: LoadedConfig, findings: Findings
) -> None:
    """Measure the examples, where the tokenizer can be read without torch.

    Raises:
        DataError: not one keeps a completion token after cutting, or the chat template refuses one.
    """
    data = loaded.config.data
    where = f"{loaded.where('data.max_length')}: data.max_length"
    context = context_length(json_object(model / "config.json", where))
    limit = min(data.max_length, context or data.max_length)
    if tokenizer is None:
        findings.unseen.append("tokens: the tokenizer has no tokenizer.json")
        return
    lengths = measure([e.example for e in examples], tokenizer, data, limit, [e.place for e in examples])
    if data.streaming:  # the table is of all rows, and is made when they are tokenised
        return
    table = findings.data[split] = length_table(lengths, limit)
    if table.lost == table.rows:
        more = "" if limit == data.max_length else f", and the model's context of {limit},"
        least = min(length.tokens - length.supervised for length in lengths)
        raise DataError(
            f"{where}: {data.max_length}{more} leaves no completion token of any of the {len(examples)} examples of "
            f"data.{split}: the shortest prompt has {least} tokens; allowed is more; raise data.max_length or "
            "shorten data.prompt"
        )
    findings.warnings += filter(None, [table.warning(split, context)])


def _needs_chat_template(model: Path, loaded: LoadedConfig, where: str) -> None:
    if loaded.config.data.chat_template is None and not has_chat_template(model):
        raise ModelError(f"{where}: the tokenizer in {str(model)!r} {NO_TEMPLATE}")
