import json

import pytest
import torch

from rankray.config import Config
from rankray.config.evaluation import AlsoSection
from rankray.errors import DataError
from rankray.evaluate.also import read_choices
from rankray.evaluate.run import evaluate
from rankray.model.resident import fresh_model, split_of, tokenizer_of

ROWS = [
    {"q": "2 plus 1 is?", "choices": {"text": ["3", "one plus one", "7 plus"], "label": ["A", "B", "C"]}, "key": "A"},
    {"q": "1 plus 1 is?", "choices": {"text": ["2", "3", "four is"], "label": ["A", "B", "C"]}, "key": "B"},
    {"q": "4 plus 0 is?", "choices": {"text": ["is", "4", "0 plus 4"], "label": ["A", "B", "C"]}, "key": "B"},
]


def measured(tree, tmp_path, also):
    config = Config.model_validate(tree(evaluate__also=also, evaluate__max_new_tokens=3))
    tokenizer, model = tokenizer_of(config), fresh_model(config).eval()
    return evaluate(model, tokenizer, split_of("eval", config, tokenizer), config), model, tokenizer


@pytest.fixture
def choices(tmp_path):
    file = tmp_path / "arc.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def test_choices_are_scored_by_their_likelihood(tree, tmp_path, choices):
    section = {"data": str(choices), "prompt": "{q} ", "choices": "choices", "label": "key"}
    section["metrics"] = ["accuracy", "accuracy_norm"]
    found, model, tokenizer = measured(tree, tmp_path, {"arc": section})
    right = norm = 0
    for row in ROWS:
        scores = []
        for choice in row["choices"]["text"]:
            before, ids = (tokenizer(text)["input_ids"] for text in (f"{row['q']} ", f"{row['q']} {choice}"))
            start = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
            with torch.no_grad():
                logs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            scores.append(sum(float(logs[place - 1, ids[place]]) for place in range(start, len(ids))))
        wanted = row["choices"]["label"].index(row["key"])
        right += scores.index(max(scores)) == wanted
        per_byte = [score / len(text.encode()) for score, text in zip(scores, row["choices"]["text"], strict=True)]
        norm += per_byte.index(max(per_byte)) == wanted
    assert found["eval/arc/accuracy"] == pytest.approx(right / 3)
    assert found["eval/arc/accuracy_norm"] == pytest.approx(norm / 3)
    assert found["eval/arc/accuracy_n"] == 3
    share = right / 3
    assert found["eval/arc/accuracy_stderr"] == pytest.approx((share * (1 - share) / 2) ** 0.5)


def test_a_set_of_answers_has_its_own_metrics(tree, tmp_path, data_file):
    also = {"sums": {"data": str(data_file), "prompt": "{question}\n", "completion": "{answer}"}}
    also["sums"]["metrics"] = ["nll", "accuracy", "bits_per_byte", "token_accuracy"]
    also["sums"]["max_examples"] = 10
    found, _, _ = measured(tree, tmp_path, also)
    for end in ("", "_stderr", "_n"):
        assert found[f"eval/sums/nll{end}"] == pytest.approx(found[f"eval/nll{end}"], rel=1e-6)
    for name in also["sums"]["metrics"]:
        assert found[f"eval/sums/{name}_n"] == 10
        assert found[f"eval/sums/{name}_stderr"] >= 0


@pytest.mark.parametrize("label", [1, "1", "B", "blue"])
def test_the_right_choice_may_be_given_in_several_ways(label):
    section = AlsoSection(data="x.jsonl", choices="c", label="l")
    assert read_choices({"c": ["red", "blue"], "l": label}, section, "w") == (["red", "blue"], 1)


@pytest.mark.parametrize("row", [{"c": "red", "l": 0}, {"c": ["red"], "l": 0}, {"c": ["red", "blue"], "l": "green"}])
def test_rows_that_do_not_fit_are_named(row):
    with pytest.raises(DataError, match=r"^evaluate\.also\.arc: column '[cl]' holds .*; allowed is .*; name"):
        read_choices(row, AlsoSection(data="x.jsonl", choices="c", label="l"), "evaluate.also.arc")


def test_a_study_may_select_on_a_further_set(tree, choices):
    section = {"data": str(choices), "choices": "choices", "label": "key"}
    made = tree(evaluate__also={"arc": section}, study__metric="eval/arc/accuracy")
    assert Config.model_validate(made).direction == "maximize"
    with pytest.raises(ValueError, match=r"eval/arc/nll' is not measured"):
        Config.model_validate(tree(evaluate__also={"arc": section}, study__metric="eval/arc/nll"))
    with pytest.raises(ValueError, match="unknown metric 'nll'; allowed here: accuracy, accuracy_norm"):
        Config.model_validate(tree(evaluate__also={"arc": {**section, "metrics": ["nll"]}}))
