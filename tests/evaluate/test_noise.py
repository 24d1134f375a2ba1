import itertools

import pytest
import torch

from rankray.config import Config
from rankray.data.tokenize import load_split
from rankray.errors import ConfigError
from rankray.evaluate.noise import KINDS, add_noise, chance, in_the_top, trust
from rankray.model.resident import tokenizer_of


@pytest.fixture
def examples(tree):
    config = Config.model_validate(tree())
    tokenizer = tokenizer_of(config)
    return load_split("train", config.data, tokenizer, 48).tokens, tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_as_much_as_stated_and_only_where_it_is_said_to_be(examples, kind):
    clean, tokenizer = examples
    long = [type(each)(each.input_ids, 1) for each in clean]
    noisy, is_noise = add_noise(long, tokenizer, 0.1, kind, 3)
    flags = [flag for row in is_noise for flag in row]
    assert sum(flags) == round(0.1 * len(flags))
    special = set(tokenizer.all_special_ids)
    for before, after, row in zip(long, noisy, is_noise, strict=True):
        changed = [a != b for a, b in zip(before.input_ids, after.input_ids, strict=True)]
        assert changed == [False, *row]
        assert not special & {a for a, flag in zip(before.input_ids[1:], row, strict=True) if flag}
    assert add_noise(long, tokenizer, 0.1, kind, 3)[1] == is_noise
    assert add_noise(long, tokenizer, 0.1, kind, 4)[1] != is_noise


def test_an_unknown_kind_is_refused(examples):
    with pytest.raises(ConfigError, match="--noise: got 'typos'; allowed: random, swap, digit"):
        add_noise(*examples, 0.1, "typos", 0)


def test_the_measures_count_what_they_say():
    weight = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5] * 2)
    weight[10] = 10.0
    noise = torch.zeros(20, dtype=torch.bool)
    noise[[10, 15, 3]] = True
    sequence = torch.tensor([0] * 10 + [1] * 10)
    found = trust(weight, noise, sequence)
    assert found["precision_top10"] == 1 / 2, "of the top two, 10.0 is noise and 9.0 is not"
    assert found["recall_top10"] == pytest.approx(1 / 3)
    assert found["sequence_hit_rate"] == 1 / 2
    assert found["weight_on_noise"] == pytest.approx(float(weight[noise].sum() / weight.sum()))


def test_ties_share_the_places_as_any_order_of_them_would():
    weight = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0] + [0.0] * 10)
    expected = [0.0] * 20
    orders = list(itertools.permutations(range(1, 5)))
    for order in orders:
        for place in (0, order[0]):
            expected[place] += 1 / len(orders)
    assert in_the_top(weight).tolist() == pytest.approx(expected)


def test_a_sequence_is_hit_as_often_as_any_order_of_equal_weights_would():
    """Two of four tokens of equal weight are noise of one sequence: a place is theirs in half of the orders."""
    weight = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0] + [0.0] * 15)
    noise = torch.tensor([False, True, True, False, True] + [False] * 14 + [True])
    sequence = torch.tensor([0, 0, 0, 0, 1] + [1] * 15)
    orders = list(itertools.permutations(range(1, 5)))
    hits = [(order[0] in (1, 2)) / 2 + (order[0] == 4) / 2 for order in orders]
    assert trust(weight, noise, sequence)["sequence_hit_rate"] == pytest.approx(sum(hits) / len(orders))
    three = torch.tensor([True] * 3 + [False] * 17)
    equal = torch.tensor([1.0] * 4 + [0.0] * 16)
    assert trust(equal, three, torch.zeros(20))["sequence_hit_rate"] == 1.0, "two of four places, and three are noise"


def test_chance_is_the_rate_of_noise_and_a_tenth():
    noise = torch.arange(200) % 50 == 0
    found = chance(noise, torch.arange(200) // 10)
    assert found["precision_top10"] == pytest.approx(4 / 200)
    assert found["recall_top10"] == pytest.approx(0.1)
    assert found["sequence_hit_rate"] == pytest.approx(0.1)
