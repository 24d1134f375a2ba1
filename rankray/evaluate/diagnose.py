"""`rankray diagnose`: what each objective would do with a model and its data, without training.

Shapes: N supervised tokens, V vocabulary, H hidden.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rankray.config.schema import Config
from rankray.data.encode import Tokens
from rankray.errors import LossError
from rankray.evaluate.generate import generate_texts
from rankray.evaluate.metrics import run_head
from rankray.evaluate.noise import add_noise, chance, predicted, trust
from rankray.loss import WEIGHTS, Knobs, token_stats, token_weights
from rankray.loss.tokens import TokenStats
from rankray.loss.weights import expected_rank_bound, relative_scale
from rankray.model.head import HeadInputs, attach_head, plain_model
from rankray.model.resident import split_of, tokenizer_of
from rankray.model.trained import load_model

logger = logging.getLogger(__name__)

CHUNK_TOKENS = 256
POINTS = 1500
"""Points of a scatter plot at most."""
SHOWN = 6
"""Tokens shown of each kind."""
CONTEXT_TOKENS = 8
PROMPT_SHARE = 0.6
"""Share of a held-out prompt that the untrained model is shown."""


def diagnose(
    config: Config,
    *,
    noise_rate: float = 0.0082,
    noise: str = "random",
    examples: int = 200,
    seed: int = 0,
    contamination: bool = False,
) -> dict[str, Any]:
    """Return what `rankray diagnose --json` prints.

    Args:
        config: its model, its training data and its loss settings.
        noise_rate: share of supervised tokens that are replaced.
        noise: the kind, see `add_noise`.
        examples: training examples used, the first ones.
        seed: of the noise.
        contamination: also see how many held-out prompts the model completes by itself.

    Returns:
        `tokens`, `noise_rate` (as it came out), `noise`, `chance`, `objectives` (name to the three measures and
        `weight_on_noise`), `forms` (the same of the relative scale S alone, which is what the paper shows),
        `distributions` (of the clean data), `scatter`, `shown` (tokens in context, of
        objectives that do not weight all alike), and `contamination` where asked for.
    """
    model, tokenizer = load_model(config, None), tokenizer_of(config)
    attach_head(plain_model(model))
    clean = [each for each in split_of("train", config, tokenizer).tokens[:examples] if each.supervised]
    noisy, is_noise = add_noise(clean, tokenizer, noise_rate, noise, seed)
    size = config.evaluate.batch_size
    before, sequence_N = _statistics(model, tokenizer, clean, size)
    after, _ = _statistics(model, tokenizer, noisy, size)
    is_noise_N = torch.tensor([flag for row in is_noise for flag in row])
    weights = {name: weights_of(name, after, config.loss, sequence_N) for name in WEIGHTS}
    found: dict[str, Any] = {
        "tokens": len(is_noise_N),
        "noise_rate": float(is_noise_N.double().mean()),
        "noise": noise,
        "chance": chance(is_noise_N, sequence_N) if bool(is_noise_N.any()) else None,
        "objectives": {
            name: _measured(weight_N, is_noise_N, sequence_N) if isinstance(weight_N, Tensor) else {"why": weight_N}
            for name, weight_N in weights.items()
        },
        "forms": {
            form: _measured(
                relative_scale(after, config.loss.model_copy(update={"form": form})), is_noise_N, sequence_N
            )
            for form in ("bound", "exact")
        },
        "distributions": _distributions(before, config.loss),
        "scatter": _scatter(before, config.loss),
        "shown": {
            name: _in_context(weight_N, noisy, is_noise_N, tokenizer)
            for name, weight_N in weights.items()
            if isinstance(weight_N, Tensor) and bool((weight_N != weight_N[0]).any())
        },
    }
    for each in (*found["objectives"].values(), *found["forms"].values()):
        for name in ("precision_top10", "recall_top10", "sequence_hit_rate", "weight_on_noise"):
            each.setdefault(name, None)
    if contamination:
        found["contamination"] = _contamination(model, tokenizer, config)
    return found


def weights_of(objective: str, stats: TokenStats, knobs: Knobs, sequence_N: Tensor) -> Tensor | str:
    """Return an objective's weights with the file's other settings, or why it has none without training."""
    try:
        return token_weights(stats, knobs=knobs.model_copy(update={"objective": objective}), sequence_N=sequence_N)
    except LossError as error:
        logger.debug("%s is left out of the diagnosis: %s", objective, error)
        return str(error)


def _measured(weight_N: Tensor, is_noise_N: Tensor, sequence_N: Tensor) -> dict[str, float | None]:
    if not bool(is_noise_N.any()):
        return {}
    return {name: _finite(value) for name, value in trust(weight_N, is_noise_N, sequence_N).items()}


def _statistics(model: Any, tokenizer: Any, examples: Sequence[Tokens], batch_size: int) -> tuple[TokenStats, Tensor]:
    """Return the statistics of every supervised token in the order of the examples, and which example it is of."""
    parts: list[TokenStats] = []
    sequences: list[Tensor] = []
    for begin in range(0, len(examples), batch_size):
        batch = examples[begin : begin + batch_size]
        stats, sequence_N = run_head(model, tokenizer, batch, _token_stats)
        parts.append(stats)
        sequences.append(sequence_N + begin)
    return _joined(parts), torch.cat(sequences)


def _token_stats(given: HeadInputs) -> tuple[TokenStats, Tensor]:
    """Head function: statistics in chunks of tokens, never all logits."""
    head, parts = given.head, []
    for begin in range(0, len(given.label_N), CHUNK_TOKENS):
        hidden_CH = given.hidden_NH[begin : begin + CHUNK_TOKENS]
        logits_CV = torch.nn.functional.linear(hidden_CH, head.weight_VH, head.bias_V).float() * head.scale
        if head.softcap:
            logits_CV = head.softcap * torch.tanh(logits_CV / head.softcap)
        parts.append(token_stats(logits_CV, given.label_N[begin : begin + CHUNK_TOKENS], exact_ranks=True))
    return _joined(parts), given.sequence_N.cpu()


def _joined(parts: Sequence[TokenStats]) -> TokenStats:
    columns = [None if column[0] is None else torch.cat(column).cpu() for column in zip(*parts, strict=True)]
    return TokenStats(*columns)  # type: ignore[arg-type]


def _distributions(stats: TokenStats, knobs: Knobs) -> dict[str, dict[str, float | None]]:
    """Return quantiles of what a weight may look at, and of the relative scale in each form."""
    forms = {form: relative_scale(stats, knobs.model_copy(update={"form": form})) for form in ("bound", "exact")}
    values = {
        "p": stats.log_prob_N.exp(),
        "entropy_bits": stats.entropy_bits_N,
        "rank": stats.rank_N,
        "expected_rank": stats.expected_rank_N,
        **{f"scale ({form})": scale_N for form, scale_N in forms.items()},
    }
    return {name: _quantiles(value_N) for name, value_N in values.items()}


def _quantiles(value_N: Tensor) -> dict[str, float | None]:
    value_N = value_N.double()
    ordered, last = value_N.sort().values, len(value_N) - 1
    found = {f"p{share:02d}": float(ordered[round(share / 100 * last)]) for share in (5, 25, 50, 75, 95)}
    return {name: _finite(value) for name, value in {"mean": float(value_N.mean()), **found}.items()}


def _scatter(stats: TokenStats, knobs: Knobs) -> dict[str, list[float]]:
    """Return an even sample of tokens: expected rank, its two bounds, entropy, rank, probability and scale."""
    step = max(1, math.ceil(len(stats.log_prob_N) / POINTS))
    columns = {
        "expected_rank": stats.expected_rank_N,
        "bound (max_prob)": expected_rank_bound(stats, knobs.model_copy(update={"low_entropy": "max_prob"})),
        "bound (bound)": expected_rank_bound(stats, knobs.model_copy(update={"low_entropy": "bound"})),
        "entropy_bits": stats.entropy_bits_N,
        "rank": stats.rank_N,
        "p": stats.log_prob_N.exp(),
        "scale": relative_scale(stats, knobs),
    }
    return {name: [round(value, 6) for value in column[::step].tolist()] for name, column in columns.items()}


def _in_context(
    weight_N: Tensor, examples: Sequence[Tokens], is_noise_N: Tensor, tokenizer: Any
) -> dict[str, list[dict[str, Any]]]:
    """Return the tokens of the largest and of the smallest weights, each with the text before it."""
    places = [(row, place) for row, example in enumerate(examples) for place in predicted(example)]
    order = torch.argsort(weight_N.double(), descending=True, stable=True).tolist()

    def shown(index: int) -> dict[str, Any]:
        row, place = places[index]
        ids = examples[row].input_ids
        return {
            "before": str(tokenizer.decode(ids[max(0, place - CONTEXT_TOKENS) : place])),
            "token": str(tokenizer.decode(ids[place : place + 1])),
            "weight": _finite(float(weight_N[index])),
            "noise": bool(is_noise_N[index]),
        }

    return {"most": [shown(index) for index in order[:SHOWN]], "least": [shown(i) for i in order[-SHOWN:][::-1]]}


def _contamination(model: Any, tokenizer: Any, config: Config) -> dict[str, Any]:
    """Return the share of held-out prompts whose rest the model writes by itself after their first 60 %."""
    split = "test" if config.data.test is not None else "eval"
    data = split_of(split, config, tokenizer)
    prompts = [example.input_ids[: example.start] for example in data.tokens[: config.evaluate.max_examples]]
    cuts = [(ids[: round(PROMPT_SHARE * len(ids))], ids[round(PROMPT_SHARE * len(ids)) :]) for ids in prompts]
    cuts = [(shown, rest) for shown, rest in cuts if shown and rest]
    if not cuts:
        return {"split": split, "prompts": 0, "completed": 0, "share": None}
    texts = generate_texts(
        model,
        tokenizer,
        [shown for shown, _ in cuts],
        batch_size=config.evaluate.batch_size,
        max_new_tokens=max(len(rest) for _, rest in cuts),
    )
    completed = 0
    for text, (_, rest) in zip(texts, cuts, strict=True):
        wanted = " ".join(str(tokenizer.decode(rest, skip_special_tokens=True)).split())
        completed += bool(wanted) and " ".join(text.split()).startswith(wanted)
    return {"split": split, "prompts": len(cuts), "completed": completed, "share": completed / len(cuts)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
