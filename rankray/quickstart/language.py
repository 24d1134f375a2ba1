"""The procedural language of the quickstart world: word problems with worked answers, clean and noisy.

A `Problem` is numbers only: a start, then two changes. `clean_row` words it in the form that the model is pretrained
on, `noisy_row` in the form of the fine-tuning and held-out sets: synonyms, other questions and fillers. `corrupt` then
does to the answers of the fine-tuning set what careless annotators do: it replaces some of their tokens.

    clean      before lunch , anna has 7 hats . anna wins 5 . later , anna eats 3 hats . how many hats does anna have ?
               7 + 5 = 12 . 12 - 3 = 9 . #### 9
    noisy      anna owns um 7 hats . anna gets well 5 . so anna drops 3 . what number of hats does anna you know have ?
               7 + 5 = 12 . 12 - 3 = 9 . #### 9
    corrupted  7 + 5 = 4 . 12 - ben = 9 . #### 9

Everything follows from seeds: the same call gives the same rows on every machine. Standard library only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

NAMES = ("anna", "ben", "carla", "david", "emma", "felix", "gina", "hugo")
ITEMS = ("apples", "books", "coins", "dolls", "eggs", "flags", "hats", "keys")
LARGEST = 30
"""The largest number in a problem, its equations or its right answer."""
STARTS = range(2, 16)
AMOUNTS = range(2, 10)

CLEAN_VERBS = {"+": ("buys", "finds", "wins"), "-": ("loses", "eats", "breaks")}
NOISY_VERBS = {"+": ("buys", "finds", "gets", "earns"), "-": ("loses", "eats", "drops", "sells")}
CLEAN_QUESTION = "how many {item} does {name} have ?"
NOISY_QUESTIONS = (CLEAN_QUESTION, "how many {item} does {name} now keep ?", "what number of {item} does {name} have ?")
NOISY_HAS = ("has", "owns")
OPENINGS = ("on monday", "at the market", "in the park", "before lunch", "later", "after school with a friend")
OPENING_RATE = 0.35
"""Chance that a clean sentence opens with a time or place."""
ITEM_RATE = 0.3
"""Chance that a clean change names the items again."""
FILLERS = ("um", "well", "so", "you know", "honestly", "by the way", "then", "today")
FILLER_RATE = 0.08
"""Chance of a filler before a word of a noisy question."""

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
NUMBERS = tuple(str(number) for number in range(LARGEST + 1))

Row = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """A start and two changes, each a sign and an amount."""

    start: int
    changes: tuple[tuple[str, int], tuple[str, int]]

    @property
    def equations(self) -> list[str]:
        """The equations, one per change."""
        lines, now = [], self.start
        for (sign, amount), result in zip(self.changes, self.results, strict=True):
            lines.append(f"{now} {sign} {amount} = {result} .")
            now = result
        return lines

    @property
    def results(self) -> list[int]:
        """The number after each change."""
        found = [self.start]
        for sign, amount in self.changes:
            found.append(found[-1] + amount if sign == "+" else found[-1] - amount)
        return found[1:]

    @property
    def answer(self) -> str:
        """The right answer, with its equations."""
        return " ".join([*self.equations, f"#### {self.results[-1]}"])


def all_problems() -> list[Problem]:
    """Return every problem of the world, in a fixed order."""
    changes = [(sign, amount) for sign in "+-" for amount in AMOUNTS]
    found = [Problem(start, (one, two)) for start in STARTS for one in changes for two in changes]
    return [problem for problem in found if all(0 <= result <= LARGEST for result in problem.results)]


def vocabulary() -> list[str]:
    """Return every token of the language in a fixed order: special tokens, numbers, words."""
    texts = [*NAMES, *ITEMS, *NOISY_HAS, *OPENINGS, *FILLERS, *NOISY_QUESTIONS, ". , + - = ####"]
    texts += [verb for verbs in (CLEAN_VERBS, NOISY_VERBS) for group in verbs.values() for verb in group]
    words = {word for text in texts for word in text.split() if not word.startswith("{")}
    return [PAD, EOS, UNKNOWN, *NUMBERS, *sorted(words)]


def clean_row(problem: Problem, rng: random.Random) -> Row:
    """Word a problem in the clean form."""
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    sentences = [f"{name} has {problem.start} {item} ."]
    for sign, amount in problem.changes:
        again = f" {item}" if rng.random() < ITEM_RATE else ""
        sentences.append(f"{name} {rng.choice(CLEAN_VERBS[sign])} {amount}{again} .")
    sentences.append(CLEAN_QUESTION.format(name=name, item=item))
    opened = [f"{rng.choice(OPENINGS)} , {text}" if rng.random() < OPENING_RATE else text for text in sentences]
    return {"question": " ".join(opened), "answer": problem.answer}


def noisy_row(problem: Problem, rng: random.Random) -> Row:
    """Word a problem in the form of the fine-tuning and held-out sets, with the right answer."""
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    sentences = [f"{name} {rng.choice(NOISY_HAS)} {problem.start} {item} ."]
    sentences += [f"{name} {rng.choice(NOISY_VERBS[sign])} {amount} ." for sign, amount in problem.changes]
    sentences.append(rng.choice(NOISY_QUESTIONS).format(name=name, item=item))
    words = " ".join(sentences).split()
    filled = [f"{rng.choice(FILLERS)} {word}" if rng.random() < FILLER_RATE else word for word in words]
    return {"question": " ".join(filled), "answer": problem.answer}


def corrupt(answer: str, rate: float, rng: random.Random) -> str:
    """Replace each token with chance `rate`, at least one: a number by another number, a word by another word."""
    tokens, words = answer.split(), [word for word in vocabulary()[3:] if word not in NUMBERS]
    hit = [place for place in range(len(tokens)) if rng.random() < rate] or [rng.randrange(len(tokens))]
    for place in hit:
        pool = NUMBERS if tokens[place] in NUMBERS else words
        tokens[place] = rng.choice([other for other in pool if other != tokens[place]])
    return " ".join(tokens)


def noisy_rows(problems: list[Problem], seed: int, share: float = 0.0, rate: float = 0.0) -> list[Row]:
    """Return one noisy row per problem; with chance `share` its answer is corrupted, which `corrupted` says."""
    rng, rows = random.Random(seed), []
    for problem in problems:
        row = noisy_row(problem, rng) | {"corrupted": rng.random() < share}
        if row["corrupted"]:
            row["answer"] = corrupt(row["answer"], rate, rng)
        rows.append(row)
    return rows
