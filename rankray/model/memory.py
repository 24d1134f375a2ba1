"""How much memory a trial takes at its peak, estimated before it starts; pure arithmetic, no torch.

What autograd saves was read from the saved tensors of each kind of layer (a test compares the two). Per token and
layer, with H hidden, I inner, A queries, b bytes of a number in the products, 4 bytes in norms:

    RMSNorm    input in float32, normalised values (only if its weight is trained)
    attention  queries, keys, values (repeated for grouped heads), the output: 4 A b; its mask, where rows are padded
    MLP        gate, activation, up: 3 I b
    products   each matrix's input, shared by those that read the same one; in 16 bits under autocast, and in float32
               for adapters on 16-bit weights, each has a copy of its own

The peak is the largest of four moments, each beside weights and optimizer: the end of forward, with all of that; the
end of backward, with all gradients; the optimizer's step (Adafactor makes three tensors of the size of a weight); an
evaluation. Activations leave as gradients come, so they do not add.

It is memory in use. What an allocator holds beside it, and the libraries' own code, are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rankray.config.evaluation import is_sampled
from rankray.config.schema import Config
from rankray.model.shapes import ModelShape

FLOAT = 4
BYTES_PER_WEIGHT = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
"""Of a quantized weight, with the scales: in 4 bits one byte per 64 weights, and 4 bytes per 256 of those."""
STATES = {
    "adamw_torch": 2.0,
    "adamw_torch_fused": 2.0,
    "adamw_bnb_8bit": 0.5,
    "adamw_8bit": 0.5,
    "paged_adamw_8bit": 0.5,
    "lion_8bit": 0.25,
    "lion_32bit": 1.0,
    "adagrad": 1.0,
    "rmsprop": 1.0,
    "adafactor": 0.01,
    "sgd": 0.0,
}
"""Optimizer -> what it keeps for each trained weight, in weights; 2 for any other."""
CPU_CHUNK_TOKENS, GPU_CHUNK_TOKENS = 256, 2048
"""Tokens whose logits the loss holds at a time."""


@dataclass(frozen=True)
class Batch:
    """What one worker reads at a time.

    Attributes:
        rows: examples of a micro batch.
        tokens: of the longest example, to which the others are padded.
        supervised: share of the tokens that are trained on.
        is_padded: whether examples of a micro batch differ in length.
        parts: micro batches of a step.
        prompt: tokens of the longest held-out prompt.
        held_out: tokens of the longest held-out example.
    """

    rows: int
    tokens: int
    supervised: float = 1.0
    is_padded: bool = True
    parts: int = 1
    prompt: int = 0
    held_out: int = 0


@dataclass(frozen=True)
class Memory:
    """An estimate, in bytes.

    Attributes:
        peak: the most that is in use at once, by one worker.
        parts: what it consists of at that moment, and what else is there at others: weights, optimizer, gradients,
            activations, loss, evaluation, reference.
        lasting: weights and optimizer, which no smaller batch makes smaller.
        moment: when the peak is: `training` or `evaluation`.
        unsure: why it may be far off.
    """

    peak: int
    parts: dict[str, int] = field(default_factory=dict)
    lasting: int = 0
    moment: Literal["training", "evaluation"] = "training"
    unsure: tuple[str, ...] = ()


def estimate(config: Config, shape: ModelShape, batch: Batch, *, workers: int = 1, on_gpu: bool = False) -> Memory:
    """Return what one worker of a trial takes at its peak.

    Args:
        config: the trial's.
        shape: of its model.
        batch: what a worker reads at a time.
        workers: workers that share the trial.
        on_gpu: whether a GPU trains it; else a CPU, which maps the base weights of adapters and of a reference from
            their file, shared by all processes.
    """
    return _Estimate(config, shape, batch, workers, on_gpu).memory()


class _Estimate:
    """One call of `estimate`; every figure is in bytes of one worker."""

    def __init__(self, config: Config, shape: ModelShape, batch: Batch, workers: int, on_gpu: bool) -> None:
        self._config, self._shape, self._batch, self._on_gpu = config, shape, batch, on_gpu
        named = shape.dtype if config.model.dtype == "auto" else config.model.dtype
        sft, lora = config.train.sft, config.model.lora
        is_half = named in ("bfloat16", "float16")
        masters = lora is None and (named == "float16" or (is_half and config.model.dtype == "auto"))
        self._autocast = masters or (bool(sft.get("bf16") or sft.get("fp16")) and not is_half)
        self._held = FLOAT if masters or not is_half else 2
        self._compute = 2 if is_half or self._autocast else FLOAT
        self._shards = workers if config.train.parallelism == "fsdp" and workers > 1 else 1
        self._copies = 2 if workers > 1 and self._shards == 1 else 1  # DDP sends gradients from buffers of its own
        self._trained = shape.weights if lora is None else self._adapters(lora.rank)
        self._tokens = batch.rows * batch.tokens

    def memory(self) -> Memory:
        shape, lora = self._shape, self._config.model.lora
        weights = self._weights()
        optimizer = round(self._trained * (self._held if lora is None else FLOAT) * self._states() / self._shards)
        gradients = round(self._trained * (self._held if lora is None else FLOAT) * self._copies / self._shards)
        reference = self._reference()
        activations, loss = self._activations(), self._loss()
        evaluation = self._evaluation()
        lasting = weights + optimizer + reference
        gathered = 2 * shape.block * self._held if self._shards > 1 else 0
        accumulated = gradients if self._batch.parts > 1 else 0
        cast = 2 * shape.linear if self._autocast else 0
        last = shape.head * FLOAT if lora is None and shape.is_tied else 0
        moments = {
            "forward": accumulated + activations + loss + cast + gathered,
            "backward": gradients + last + gathered,
            "step": gradients + (3 * FLOAT * shape.head if self._optimizer() == "adafactor" else 0),
        }
        training = max(moments.values())
        parts = {
            "weights": weights,
            "optimizer": optimizer,
            "gradients": gradients,
            "activations": activations + cast + gathered,
            "loss": loss,
            "evaluation": evaluation,
        }
        if reference:
            parts["reference"] = reference
        return Memory(
            peak=lasting + max(training, evaluation),
            parts=parts,
            lasting=lasting,
            moment="training" if training >= evaluation else "evaluation",
            unsure=shape.unsure + self._unsure(),
        )

    def _weights(self) -> int:
        shape, model = self._shape, self._config.model
        if model.lora is None:
            return round(shape.weights * self._held / self._shards)
        base = float(shape.weights * self._held)
        if model.quantization is not None:
            base = shape.linear * BYTES_PER_WEIGHT[model.quantization] + (shape.weights - shape.linear) * self._held
        elif not self._on_gpu:
            base = 0.0  # mapped from the file
        return round((base + self._trained * FLOAT) / self._shards)

    def _adapters(self, rank: int) -> int:
        return sum(rank * (one + other) for name, one, other in self._shape.matrices if self._is_adapted(name))

    def _is_adapted(self, name: str) -> bool:
        lora = self._config.model.lora
        if lora is None:
            return False
        targets = lora.target_modules
        if targets == "all-linear":
            return True
        module = name.removesuffix(".weight")
        named = [targets] if isinstance(targets, str) else targets
        return any(module == each or module.endswith(f".{each}") for each in named)

    def _states(self) -> float:
        return STATES.get(self._optimizer(), 2.0)

    def _optimizer(self) -> str:
        return str(self._config.train.sft.get("optim", "adamw_torch_fused"))

    def _reference(self) -> int:
        needs_copy = self._config.loss.kl_weight > 0 and self._config.model.lora is None and self._on_gpu
        return self._shape.weights * self._held if needs_copy else 0

    def _layer(self) -> float:
        """Return what one layer saves for backward, for each token."""
        shape, lora = self._shape, self._config.model.lora
        hidden, inner, queries = shape.hidden, shape.inner, shape.queries
        half, wide = self._compute == 2, self._held == FLOAT
        b = self._compute
        trained = lora is None
        each_norm = float(hidden * b) if shape.has_plain_norm else float(hidden * FLOAT)
        if shape.has_plain_norm and self._autocast:
            each_norm = hidden * FLOAT
        if not shape.has_plain_norm and trained:
            each_norm += hidden * (FLOAT if wide or shape.norms_in_float else b)
        total = each_norm * shape.norms + FLOAT * shape.norms
        if shape.norms_heads:
            kept = FLOAT + ((FLOAT if wide else b) if trained else 0)
            total += kept * (queries + shape.keys)
        total += (6 if shape.is_fused[0] else 4) * queries * b + FLOAT * shape.heads
        total += self._batch.tokens * b if self._batch.is_padded else 0
        if shape.is_eager or self._config.model.attn_implementation == "eager":
            total += shape.heads * self._batch.tokens * (b + FLOAT)
        elif shape.drops_attention and not self._on_gpu:
            total += shape.heads * self._batch.tokens * (2 * b + 1)
        total += (shape.saved_by_activation + (2 if shape.is_gated else 0)) * inner * b
        reads = (1 if shape.is_fused[0] else 3), (1 if shape.is_fused[1] or not shape.is_gated else 2)
        own_copies = (half and not trained) or self._autocast
        dropped = not trained and lora is not None and lora.dropout > 0
        size = FLOAT if not trained else b
        if dropped:
            total += (FLOAT + 1) * (sum(reads) * hidden + queries + inner)
        elif own_copies:
            total += size * (sum(reads) * hidden + inner) + (0 if trained else size * queries)
        else:
            total += size * (2 * hidden + inner)
        if lora is not None:
            total += FLOAT * lora.rank * (sum(reads) + 2)
        return total + (2 * hidden if shape.has_dropout else 0)

    def _activations(self) -> int:
        """Return what forward keeps for backward, and what the first layer's backward needs beside it."""
        shape, b = self._shape, self._compute
        layer = self._layer()
        passing = (2 * shape.inner + 3 * shape.hidden) * b
        ends = shape.hidden * (2 * FLOAT + b)
        sft = self._config.train.sft
        if sft.get("activation_checkpointing", sft.get("gradient_checkpointing")):  # the new name, and the old one
            each = shape.layers * shape.hidden * self._held + layer
        else:
            each = shape.layers * layer
        return round(self._tokens * (each + ends + passing))

    def _loss(self) -> int:
        """Return the buffers of a chunk of logits, the gradient of the head, hidden states of supervised tokens."""
        shape = self._shape
        supervised = round(self._tokens * self._batch.supervised)
        chunk = min(supervised, GPU_CHUNK_TOKENS if self._on_gpu else CPU_CHUNK_TOKENS)
        per_logit = FLOAT + (2 if self._compute == 2 else 0) + (2 * FLOAT if self._config.loss.kl_weight > 0 else 0)
        rows = supervised * shape.hidden * (self._compute + FLOAT)
        head = 0
        if self._config.model.lora is None:
            scaled = 2 if self._compute == 2 and not self._autocast else FLOAT
            head = shape.head * (FLOAT + (scaled if self._on_gpu or self._compute == 2 else 0))
        if self._autocast:
            head += shape.head * 2
        return chunk * shape.vocabulary * per_logit + rows + head

    def _evaluation(self) -> int:
        """Return what a batch of held-out examples takes: hidden states, a chunk of logits, the cache of answers."""
        shape, section, b = self._shape, self._config.evaluate, self._compute
        working = (3 * shape.inner + 4 * shape.hidden) * b + FLOAT * shape.hidden
        read = section.batch_size * max(self._batch.held_out, self._batch.prompt) * working
        chunk = (GPU_CHUNK_TOKENS if self._on_gpu else CPU_CHUNK_TOKENS) * shape.vocabulary * (FLOAT + b % FLOAT)
        if section.engine is not None or not any(n == "accuracy" or is_sampled(n) for n in section.metrics):
            return round(read) + chunk
        length = self._batch.prompt + section.max_new_tokens
        held = 2 if self._compute == 2 and not self._autocast else self._held
        cache = section.batch_size * length * shape.layers * 2 * shape.keys * held
        logits = section.batch_size * shape.vocabulary * 3 * FLOAT
        answers = cache + max(logits, section.batch_size * self._batch.prompt * working)
        return round(max(read + chunk, answers))

    def _unsure(self) -> tuple[str, ...]:
        found = []
        if self._optimizer() not in STATES:
            found.append(f"the optimizer {self._optimizer()}")
        if self._config.model.lora is not None and self._config.model.lora.dora:
            found.append("DoRA")
        if self._config.train.sft.get("packing") or self._config.train.sft.get("padding_free"):
            found.append("rows without padding")
        return tuple(found)
