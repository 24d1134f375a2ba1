import pytest

from rankray.data.mixture import merged, mixed

GROUPS = [[f"a{i}" for i in range(7)], [f"b{i}" for i in range(20)], ["c0"]]


@pytest.mark.parametrize("weights", [[None] * 3, [1.0, 1.0, 0.1], [3.0, 1.0, 0.5]])
def test_without_holding_the_groups_the_mixture_is_the_same(weights):
    assert list(merged([lambda g=g: iter(g) for g in GROUPS], weights)) == mixed(GROUPS, weights)


def test_without_weights_everything_is_there_and_alternates():
    found = mixed(GROUPS, [None] * 3)
    assert sorted(found) == sorted(item for group in GROUPS for item in group)
    assert found[:4] == ["b0", "a0", "b1", "b2"]


def test_what_is_drawn_stays_what_it_was():
    """Another draw would be other training data for studies that are resumed."""
    assert mixed(GROUPS, [3.0, 1.0, 0.5]) == ["a0", "a1", "b9", "a2", "c0", "a3", "a5", "b12", "a6"]
    assert mixed([[1, 2, 3]], [5.0]) == [1, 2, 3]


def test_an_entry_with_a_small_share_has_one_example_at_least():
    assert mixed([[0, 1], list(range(100, 140))], [30.0, 1.0]) == [0, 102, 1]
