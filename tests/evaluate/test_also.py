import json
import shutil

import pytest
import torch

from rankray.config import Config
from rankray.evaluate.run import evaluate
from rankray.evaluate.sets import as_config
from rankray.model.resident import fresh_model, split_of, tokenizer_of

ROWS = [
    {"q": "2 plus 1 is?", "choices": {"text": ["3", "one plus one", "7 plus"], "label": ["A", "B", "C"]}, "key": "A"},
    {"q": "1 plus 1 is?", "choices": {"text": ["2", "3", "four is"], "label": ["A", "B", "C"]}, "key": "B"},
    {"q": "4 plus 0 is?", "choices": {"text": ["is", "4", "0 plus 4"], "label": ["A", "B", "C"]}, "key": "B"},
]


CHATML = (
    "{% for m in messages %}{{ '<bos>' if loop.first }}{{ m.role + ':' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


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


def test_a_column_called_prompt_is_filled_in_once(tree, tmp_path):
    named, other = tmp_path / "named.jsonl", tmp_path / "other.jsonl"
    named.write_text("".join(json.dumps({**row, "prompt": row["q"]}) + "\n" for row in ROWS))
    other.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    sets = {
        name: {"data": str(file), "prompt": prompt, "choices": "choices", "label": "key", "metrics": ["accuracy_norm"]}
        for name, file, prompt in (("a", named, "is {prompt} "), ("b", other, "is {q} "))
    }
    texts = [row["prompt"] for name in "ab" for row in split_rows(tree, sets, name)]
    assert texts == [f"is {row['q']} " for row in ROWS] * 2


def test_choices_may_stand_in_a_column_called_completion(tree, tmp_path):
    file = tmp_path / "named.jsonl"
    file.write_text("".join(json.dumps({"q": row["q"], "completion": row["choices"], "key": 0}) + "\n" for row in ROWS))
    also = {"a": {"data": str(file), "prompt": "is {q} ", "choices": "completion", "label": "key"}}
    assert measured(tree, tmp_path, {"a": {**also["a"], "metrics": ["accuracy"]}})[0]["eval/a/accuracy_n"] == len(ROWS)


def split_rows(tree, sets, name):
    config = Config.model_validate(tree(evaluate__also=sets))
    return split_of("eval", as_config(config.evaluate.also[name], config), tokenizer_of(config)).rows


@pytest.fixture
def chat_model(model_dir, tmp_path):
    """The model with a chat template."""
    place = tmp_path / "chat"
    shutil.copytree(model_dir, place)
    (place / "chat_template.jinja").write_text(CHATML)
    return place


def test_the_models_chat_template_renders_prompts_and_choices(tree, tmp_path, choices, chat_model):
    section = {"data": str(choices), "prompt": "{q}", "choices": "choices", "label": "key", "chat": True}
    answers = tmp_path / "answers.jsonl"
    turns = [{"role": "user", "content": "1 plus"}, {"role": "assistant", "content": "4"}]
    answers.write_text(json.dumps({"q": "1 plus", "a": "4", "talk": turns}) + "\n")
    plain = {"data": str(answers), "metrics": ["nll"]}
    also = {
        "arc": section,
        "chat": {**plain, "prompt": "{q}", "completion": "{a}", "chat": True},
        "turns": {**plain, "messages": "talk"},
        "text": {**plain, "prompt": "user:{q}\nassistant:", "completion": "{a}"},
    }
    made = tree(evaluate__also=also, evaluate__max_new_tokens=3, model__path=str(chat_model))
    config = Config.model_validate(made)
    tokenizer, model = tokenizer_of(config), fresh_model(config).eval()
    found = evaluate(model, tokenizer, split_of("eval", config, tokenizer), config)
    right = 0
    for row in ROWS:
        scores = []
        for choice in row["choices"]["text"]:
            texts = (f"<bos>user:{row['q']}\nassistant:", f"<bos>user:{row['q']}\nassistant:{choice}")
            before, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
            start = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
            with torch.no_grad():
                logs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            scores.append(sum(float(logs[place - 1, ids[place]]) for place in range(start, len(ids))))
        right += scores.index(max(scores)) == row["choices"]["label"].index(row["key"])
    assert found["eval/arc/accuracy"] == pytest.approx(right / 3)
    assert found["eval/chat/nll"] == found["eval/turns/nll"] != found["eval/text/nll"]


def test_a_study_may_select_on_a_further_set(tree, choices):
    section = {"data": str(choices), "choices": "choices", "label": "key"}
    made = tree(evaluate__also={"arc": section}, study__metric="eval/arc/accuracy")
    assert Config.model_validate(made).direction == "maximize"
    with pytest.raises(ValueError, match=r"eval/arc/nll' is not measured"):
        Config.model_validate(tree(evaluate__also={"arc": section}, study__metric="eval/arc/nll"))
    with pytest.raises(ValueError, match="unknown metric 'nll'; allowed here: accuracy, accuracy_norm"):
        Config.model_validate(tree(evaluate__also={"arc": {**section, "metrics": ["nll"]}}))
