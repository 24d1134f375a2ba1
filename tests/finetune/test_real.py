"""Whole: a real pretrained model on real problems."""

import pytest
from fixtures.training import Killed, Recorder

pytestmark = pytest.mark.slow


@pytest.fixture
def real(tree, assets):
    def make(**changes):
        return tree(
            model__path=str(assets / "models" / "stories260K"),
            data__train=str(assets / "data" / "gsm8k" / "train.jsonl"),
            data__eval=str(assets / "data" / "gsm8k" / "test.jsonl"),
            data__max_length=160,
            train__max_steps=8,
            train__learning_rate=1e-3,
            evaluate__every_steps=4,
            evaluate__max_examples=16,
            **changes,
        )

    return make


def test_it_learns_from_where_it_was_pretrained(real, train):
    made = real()
    made["loss"] = {"objective": "sft"}
    metrics = train(made)[1].by_step
    assert 3.5 < metrics[8]["eval/nll"] < metrics[4]["eval/nll"] < 6.5
    assert metrics[8]["train/nll"] < metrics[4]["train/nll"]


def test_a_kill_changes_nothing(real, train):
    made = real(train__micro_batch_size=4, evaluate__metrics=["nll", "accuracy"], evaluate__max_new_tokens=8)
    made["loss"] = {"form": "exact", "base": "one"}
    whole = train(made, directory="whole")[0]
    killed = Recorder(die_at=8)
    with pytest.raises(Killed):
        train(made, killed, directory="killed")
    resumed = train(made, directory="killed", checkpoint=killed.reports[0].checkpoint)[0]
    assert resumed.metrics == whole.metrics
