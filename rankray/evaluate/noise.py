"""The noise diagnostic: tokens replaced at a stated rate, and how many of them an objective would learn from most.

What is measured of a weighting, with K = a tenth of all N supervised tokens, those of the largest weights:

    precision_top10     share of the K tokens that are noise
    recall_top10        share of the noise that is among the K tokens
    sequence_hit_rate   share of the sequences with noise of which some noise is among the K tokens

Tokens of equal weight share the places that are left for them, each with the same chance; so an objective that weights
all alike has the values of chance. Less is better: a noisy token among the largest weights is one to be unlearned.

Source: arXiv:2602.01745, Table 1.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rankray.data.encode import Tokens
from rankray.errors import ConfigError
from rankray.loss.tokens import IGNORED

KINDS = ("random", "swap", "digit")
TOP_SHARE = 0.1


def add_noise(
    examples: Sequence[Tokens], tokenizer: Any, rate: float, kind: str, seed: int
) -> tuple[list[Tokens], list[list[bool]]]:
    """Return the examples with some supervised tokens replaced, and which of their supervised tokens are.

    Special tokens, and the first token of a sequence, are never replaced. A prediction after a replaced token sees it,
    as it would in noisy data.

    Args:
        examples: supervised ones.
        tokenizer: the model's.
        rate: share of all supervised tokens to replace.
        kind: `random`, any other token of the vocabulary; `swap`, another one of the same completion; `digit`, another
            digit for a token that ends in one.
        seed: which tokens, and by what.

    Raises:
        ConfigError: no such kind, or no token that it could replace.
    """
    if kind not in KINDS:
        raise ConfigError(f"diagnose --noise: got {kind!r}; allowed: {', '.join(KINDS)}; choose one")
    draw, special = random.Random(seed), set(tokenizer.all_special_ids)
    places = [
        (row, place)
        for row, example in enumerate(examples)
        for place in predicted(example)
        if example.input_ids[place] not in special
    ]
    supervised = sum(len(predicted(example)) for example in examples)
    changed = [list(example.input_ids) for example in examples]
    replaced: list[set[int]] = [set() for _ in examples]
    wanted, done = max(1, round(rate * supervised)) if rate else 0, 0
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    digits = _digits(tokenizer) if kind == "digit" else {}
    draw.shuffle(places)
    for row, place in places:
        if done == wanted:
            break
        example = examples[row]
        token = example.input_ids[place]
        if kind == "random":
            others: Sequence[int] = ordinary
        elif kind == "swap":
            here = [example.input_ids[each] for each in predicted(example)]
            others = [each for each in here if each not in special]
        else:
            others = digits.get(token, [])
        found = [other for other in (draw.choice(others) for _ in range(8)) if other != token] if others else []
        if found:
            changed[row][place] = found[0]
            replaced[row].add(place)
            done += 1
    if wanted and not done:
        raise ConfigError(
            f"diagnose --noise: no token of the data can be replaced by {kind}; allowed: {', '.join(KINDS)}; choose "
            "another"
        )
    noisy = [replace(example, input_ids=ids) for ids, example in zip(changed, examples, strict=True)]
    return noisy, [[place in replaced[row] for place in predicted(example)] for row, example in enumerate(examples)]


def predicted(example: Tokens) -> list[int]:
    """Return the places of the supervised tokens, in order."""
    return [place for place, label in enumerate(example.labels) if place and label != IGNORED]


def _digits(tokenizer: Any) -> dict[int, list[int]]:
    """Return for each token that ends in a digit the tokens that end in another one, and are the same before it."""
    by_stem: dict[str, list[int]] = {}
    stem_of: dict[int, str] = {}
    for text, token in tokenizer.get_vocab().items():
        if text and text[-1].isascii() and text[-1].isdigit():
            by_stem.setdefault(text[:-1], []).append(token)
            stem_of[token] = text[:-1]
    return {token: by_stem[stem] for token, stem in stem_of.items() if len(by_stem[stem]) > 1}


def in_the_top(weight_N: Tensor, share: float = TOP_SHARE) -> Tensor:
    """Return for each token the chance that it is among the `share` of the largest weights, float64.

    1 above the last weight among them, 0 below, and for tokens of just that weight the places left over their number.
    """
    count = max(1, round(share * len(weight_N)))
    weight_N = weight_N.double()
    last = weight_N.topk(count).values[-1]
    above_N, equal_N = weight_N > last, weight_N == last
    left = (count - int(above_N.sum())) / int(equal_N.sum())
    return above_N.double() + equal_N.double() * left


def trust(weight_N: Tensor, is_noise_N: Tensor, sequence_N: Tensor) -> dict[str, float]:
    """Return the three measures, and `weight_on_noise`, the share of the whole weight that noise has.

    Args:
        weight_N: of every supervised token.
        is_noise_N: whether it was replaced, bool.
        sequence_N: which sequence it belongs to.
    """
    chosen_N, noise_N = in_the_top(weight_N), is_noise_N.double()
    is_tied_N = (chosen_N > 0) & (chosen_N < 1)
    tied, places = int(is_tied_N.sum()), round(float(chosen_N[is_tied_N].sum()))
    hits = []
    for sequence in torch.unique(sequence_N[is_noise_N]).tolist():
        here_N = is_noise_N & (sequence_N == sequence)
        if bool((chosen_N[here_N] == 1).any()):
            hits.append(1.0)
            continue
        # that all of its tied ones go without: the places are drawn among all tied ones, without replacement
        without = ((tied - places - drawn) / (tied - drawn) for drawn in range(int(is_tied_N[here_N].sum())))
        hits.append(1.0 - math.prod(without))
    weight = weight_N.double()
    return {
        "precision_top10": float((chosen_N * noise_N).sum() / chosen_N.sum()),
        "recall_top10": float((chosen_N * noise_N).sum() / noise_N.sum()),
        "sequence_hit_rate": math.fsum(hits) / len(hits),
        "weight_on_noise": float((weight * noise_N).sum() / weight.sum()) if float(weight.sum()) else math.nan,
    }


def chance(is_noise_N: Tensor, sequence_N: Tensor) -> dict[str, float]:
    """Return what a weighting reaches that knows nothing: all tokens alike."""
    return trust(torch.ones(len(is_noise_N), dtype=torch.float64), is_noise_N, sequence_N)
