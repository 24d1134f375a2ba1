"""Whether a trial fits into the memory it gets: compared, said, and refused where it cannot; imports no torch.

The estimate is `model/memory.py`'s. A trial is refused where its weights and optimizer alone do not fit, or where the
estimate is more than SURE times what there is; where it is a little more, or the estimate is unsure, that is a warning.
Of what the space may choose, the smallest has to fit; where the largest does not, that is a warning, too.

Where `train.micro_batch_size` is left out and the whole batch cannot fit, the largest part of it that does is taken.
The gradients are those of the whole batch, and the field is none that makes a study another one.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rankray.config import Config, LoadedConfig, apply_params
from rankray.config.distribution import Distribution
from rankray.config.space import distributions
from rankray.data.lengths import LengthTable
from rankray.errors import ConfigError
from rankray.finetune.base_model import gigabytes
from rankray.finetune.preflight import Findings
from rankray.model.files import model_on_disk
from rankray.model.memory import Batch, Memory, estimate
from rankray.model.shapes import ModelShape, local_shape

logger = logging.getLogger(__name__)

SURE = 1.2
"""How far an estimate may be above what is measured, see `benchmarks/memory.py`."""
PROCESS_BYTES = 400_000_000
"""What a process has imported: libraries of training on a machine, the context of CUDA on a GPU."""
GPU_HELD, CPU_HELD = 1.1, 1.5
"""What an allocator holds of what changes from step to step, against what is in use. The C library's on a CPU was
measured to hold 1.3 to 2.3 times that."""
DECIDES = ("model.", "data.max_length", "train.batch_size", "train.micro_batch_size", "train.sft.", "loss.kl_weight")
"""What a space may choose that decides on memory."""
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Room:
    """Memory that one worker may use, in bytes, and what it is; `size` is None where nobody knows."""

    size: int | None
    what: str = ""


def check_memory(loaded: LoadedConfig, findings: Findings, *, trains_here: bool, alone: bool = False) -> None:
    """Estimate what a trial takes, note it, and refuse what cannot fit.

    Args:
        loaded: the configuration.
        findings: with the lengths of the data; `memory`, notes, warnings and what was not looked at are added.
        trains_here: whether trials run on this machine, so that its memory is theirs.
        alone: whether one process trains, as in `rankray train`, whatever `resources.workers` says.

    Raises:
        ConfigError: no setting of the space can fit.
    """
    check = _Check(loaded, findings.data, trains_here, alone)
    found = check.largest
    if found is None:
        findings.unseen.append("memory of a trial: the model's shape is not known on this machine")
        return
    config, memory = found
    room = check.room
    findings.memory = {
        "unsure": list(memory.unsure),
        "estimate_bytes": memory.peak,
        "parts": memory.parts,
        "moment": memory.moment,
        "available_bytes": room.size,
        "micro_batch_size": None,
    }
    findings.notes.append(_line(memory, room, check.batch_of(config)))
    if room.size is None or check.need(memory) <= room.size:
        return
    taken = check.split()
    if taken is not None:
        rows, smaller = taken
        whole = check.batch_of(config).rows
        findings.memory |= {"estimate_bytes": smaller.peak, "parts": smaller.parts, "micro_batch_size": rows}
        findings.notes.append(
            f"train.micro_batch_size: {whole} examples at a time would not fit, so {rows} are taken, about "
            f"{gigabytes(smaller.peak)}; the gradients are those of the whole batch"
        )
        return
    least = check.smallest
    assert least is not None
    if check.cannot_fit(least[1]):
        raise ConfigError(check.refusal(*least))
    what = "the largest that the space may choose" if check.moves else "a trial"
    unsure = f" (the estimate is unsure: {', '.join(memory.unsure)})" if memory.unsure else ""
    findings.warnings.append(
        f"{loaded.where('train.micro_batch_size')}: memory: {what} takes about {gigabytes(memory.peak)}{unsure}, and "
        f"{check.beside(memory)}, more than {room.what}; {check.advice(config)}"
    )


def split_to_fit(loaded: LoadedConfig, findings: Findings) -> LoadedConfig:
    """Return the configuration with the micro batch that `check_memory` took, where it took one."""
    rows = findings.memory.get("micro_batch_size")
    if not rows:
        return loaded
    train = loaded.config.train.model_copy(update={"micro_batch_size": rows})
    return replace(loaded, config=loaded.config.model_copy(update={"train": train}))


class _Check:
    """One call of `check_memory`."""

    def __init__(self, loaded: LoadedConfig, tables: Mapping[str, LengthTable], trains_here: bool, alone: bool) -> None:
        self._loaded, self._tables = loaded, tables
        self._workers = (1, 1) if alone else loaded.config.resources.worker_range
        self.room = room_of(loaded.config, trains_here)
        self.moves = [path for path in distributions(loaded.config) if path.startswith(DECIDES)]
        self.smallest, self.largest = self._extremes()

    def _extremes(self) -> tuple[tuple[Config, Memory] | None, tuple[Config, Memory] | None]:
        """Return the settings that take least and most, each field of the space moved by itself."""
        found: list[tuple[Config, Memory] | None] = []
        space = distributions(self._loaded.config)
        for choose in (min, max):
            point: dict[str, Any] = {}
            for path in self.moves:
                tried = [
                    (memory.peak, index, value)
                    for index, value in enumerate(_ends(space[path]))
                    if (memory := self._memory_at({**point, path: value})) is not None
                ]
                if tried:
                    point[path] = choose(tried)[2]
            config = self._at(point)
            memory = None if config is None else self._memory(config)
            found.append(None if config is None or memory is None else (config, memory))
        return found[0], found[1]

    def _at(self, point: Mapping[str, Any]) -> Config | None:
        if not point:
            return self._loaded.config
        try:
            return apply_params(self._loaded.config, point)
        except ConfigError as error:
            logger.debug("%s is no setting of its own: %s", point, error)
            return None

    def _memory_at(self, point: Mapping[str, Any]) -> Memory | None:
        config = self._at(point)
        return None if config is None else self._memory(config)

    def _memory(self, config: Config, rows: int | None = None) -> Memory | None:
        directory = model_on_disk(config.model.path, config.model.revision)
        shape = None if directory is None else shape_at(str(directory))
        if shape is None:
            return None
        batch = self.batch_of(config)
        if rows is not None:
            batch = replace(batch, rows=rows, parts=batch.rows * batch.parts // rows)
        on_gpu = bool(config.resources.gpus_per_worker)
        found = estimate(config, shape, batch, workers=self._workers[0], on_gpu=on_gpu)
        if self._tables.keys() & {"train"}:
            return found
        return replace(found, unsure=(*found.unsure, "rows as long as data.max_length, as theirs is not known"))

    def batch_of(self, config: Config) -> Batch:
        """Return what a worker reads at a time, as far as the data are known; rows of `max_length` where not."""
        share = max(1, config.train.batch_size // self._workers[0])
        rows = min(config.train.micro_batch_size or share, share)
        train, held_out = self._tables.get("train"), self._tables.get("eval")
        tokens, supervised, is_padded = config.data.max_length, 1.0, True
        if train is not None and "data.max_length" not in self.moves and not config.train.sft.get("packing"):
            tokens = min(train.longest, train.limit)
            supervised = min(1.0, train.supervised_tokens / max(1, train.rows * min(train.median, tokens)))
            is_padded = train.median < train.longest and rows > 1
        longest = config.data.max_length if held_out is None else min(held_out.longest, held_out.limit)
        answer = 0 if held_out is None else held_out.supervised_tokens // max(1, held_out.rows)
        return Batch(rows, tokens, supervised, is_padded, share // rows, max(1, longest - answer), longest)

    def need(self, memory: Memory) -> int:
        """Return the estimate with what the process itself takes, and its allocator."""
        held = GPU_HELD if self._loaded.config.resources.gpus_per_worker else CPU_HELD
        return memory.lasting + round((memory.peak - memory.lasting) * held) + PROCESS_BYTES

    def beside(self, memory: Memory) -> str:
        """Return what `need` adds to the estimate, in words."""
        return f"{gigabytes(self.need(memory) - memory.peak)} for the process itself and what its allocator holds"

    def cannot_fit(self, memory: Memory) -> bool:
        """Whether even an estimate that is too high by a fifth would not make it fit."""
        if self.room.size is None:
            return False
        if memory.lasting + PROCESS_BYTES > self.room.size:
            return True
        return not memory.unsure and memory.peak / SURE + PROCESS_BYTES > self.room.size

    def split(self) -> tuple[int, Memory] | None:
        """Return the largest part of a batch that fits, and what it takes; None where none does, or one is given."""
        config, fixed = self._loaded.config, {"train.batch_size", "train.micro_batch_size"}
        if config.train.micro_batch_size is not None or fixed & set(self.moves) or self.largest is None:
            return None
        if self.largest[1].unsure:
            return None
        counts = [n for n in range(self._workers[0], self._workers[1] + 1) if config.train.batch_size % n == 0]
        share = math.gcd(*(config.train.batch_size // n for n in counts)) if counts else 1
        for rows in _divisors(share)[-2::-1]:
            memory = self._memory(self.largest[0], rows)
            if memory is not None and self.need(memory) <= (self.room.size or 0):
                return rows, memory
        return None

    def refusal(self, config: Config, memory: Memory) -> str:
        """Return the error for a setting that cannot fit."""
        where = self._loaded.where("train.micro_batch_size")
        batch = self.batch_of(config)
        return (
            f"{where}: memory: {_taken_by(batch)} about {_parts(memory)}, and {self.beside(memory)}; "
            f"allowed is what fits into {self.room.what}; {self.advice(config)}"
        )

    def advice(self, config: Config) -> str:
        """Return what to change, of what would make it fit."""
        sft = {**config.train.sft, "gradient_checkpointing": True}
        checkpointed = config.model_copy(update={"train": config.train.model_copy(update={"sft": sft})})
        adapters = apply_params(config.model_copy(update={"space": {}}), {"model.lora": {}})
        ways = [way for way in [self._smaller_batches(config)] if way]
        if self._fits(self._memory(checkpointed)):
            ways.append("set train.sft: {gradient_checkpointing: true}")
        if config.model.lora is None and self._fits(self._memory(adapters)):
            ways.append("train adapters with model.lora: {}")
        ways = [*(ways or ["take a smaller model"]), "say with resources.memory_gb what there is"]
        return f"{', '.join(ways[:-1])}, or {ways[-1]}"

    def _smaller_batches(self, config: Config) -> str:
        """Return the largest batches that fit, as few of the two changed as need be; an empty string where none do."""
        rows, held_out = self.batch_of(config).rows, config.evaluate.batch_size
        pairs = [(n, held_out >> k) for n in _divisors(rows) for k in range(held_out.bit_length())]
        pairs.sort(key=lambda pair: ((pair[0] != rows) + (pair[1] != held_out), -pair[0], -pair[1]))
        for micro, answers in pairs:
            evaluate = config.evaluate.model_copy(update={"batch_size": answers})
            if self._fits(self._memory(config.model_copy(update={"evaluate": evaluate}), micro)):
                changed = {"train.micro_batch_size": (micro, rows), "evaluate.batch_size": (answers, held_out)}
                return "set " + " and ".join(f"{path}: {new}" for path, (new, old) in changed.items() if new != old)
        return ""

    def _fits(self, memory: Memory | None) -> bool:
        return memory is not None and self.need(memory) <= (self.room.size or 0)


def _divisors(number: int) -> list[int]:
    """Return all divisors in order."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


@cache
def shape_at(directory: str) -> ModelShape | None:
    """Return the shape of a model in a directory; read once."""
    return local_shape(Path(directory))


def room_of(config: Config, trains_here: bool) -> Room:
    """Return the memory that a worker may use: what the configuration says, or this machine's."""
    resources = config.resources
    if resources.memory_gb is not None:
        return Room(round(resources.memory_gb * 1e9), f"the {resources.memory_gb:g} GB of resources.memory_gb")
    if not trains_here:
        return Room(None)
    if resources.gpus_per_worker:
        card = gpu_bytes()
        share = min(1.0, resources.gpus_per_worker)
        return Room(card and round(card * share), f"the {gigabytes(round((card or 0) * share))} of this machine's GPU")
    there = machine_bytes()
    each = there // resources.worker_range[0]
    return Room(each, f"the {gigabytes(each)} of this machine" + (" for each worker" if each < there else ""))


def machine_bytes() -> int:
    """Return the memory of this machine, or of the container this process is in."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in CGROUP_LIMITS:
        try:
            sizes.append(int(Path(file).read_text(encoding="ascii")))
        except (OSError, ValueError) as error:
            logger.debug("no limit of memory in %s: %s", file, error)
    return min(sizes)


@cache
def gpu_bytes() -> int | None:
    """Return the memory of this machine's smallest NVIDIA GPU; None where there is none, or nobody says."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return min(int(line) for line in said.split()) << 20
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.debug("nvidia-smi says no size: %s", error)
        return None


def _ends(distribution: Distribution) -> Iterator[Any]:
    """Yield the choices, or both bounds."""
    for value in distribution.choices or (distribution.low, distribution.high):
        yield int(value) if distribution.kind == "int" else value


def _line(memory: Memory, room: Room, batch: Batch) -> str:
    of = f" of {room.what}" if room.size is not None else ""
    return f"memory: {_taken_by(batch)} about {_parts(memory)}{of}"


def _taken_by(batch: Batch) -> str:
    many = batch.rows > 1
    return f"{batch.rows} example{'s' * many} of {batch.tokens:,} tokens at a time take{'s' * (not many)}"


def _parts(memory: Memory) -> str:
    sizes = sorted(memory.parts.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {gigabytes(size)}" for name, size in sizes if size)
    return f"{gigabytes(memory.peak)} a worker ({shown}; not all at the same time)"
