"""The real harness, offline, on a task made here; skipped where lm-eval is not installed."""

import json

import pytest
import yaml

from rankray.config import Config
from rankray.errors import ConfigError
from rankray.evaluate import harness
from rankray.evaluate.run import evaluate
from rankray.model.resident import fresh_model, split_of, tokenizer_of

ROWS = [
    {"q": f"{a} plus {b} is?", "choices": [str(a + b), str(a * b + 1), f"{a} plus"], "key": (a + b) % 3}
    for a in range(4)
    for b in range(3)
]


def test_a_task_of_the_harness_agrees_with_choices_by_likelihood(tree, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'rankray[lm-eval]'")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    file = tmp_path / "sums.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    task = {
        "task": "sums_by_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{key}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sums.yaml").write_text(yaml.safe_dump(task))
    also = {"sums": {"data": str(file), "prompt": "{q} ", "choices": "choices", "label": "key"}}
    config = Config.model_validate(tree(evaluate__also=also))
    model, tokenizer = fresh_model(config).eval(), tokenizer_of(config)
    options = {"include": tmp_path / "tasks", "batch_size": 4, "limit": None}
    found = harness.run_tasks(model, tokenizer, ["sums_by_choice"], **options)
    ours = evaluate(model, tokenizer, split_of("eval", config, tokenizer), config)
    assert found["sums_by_choice/acc"]["value"] == pytest.approx(ours["eval/sums/accuracy"])
    assert found["sums_by_choice/acc"]["n"] == len(ROWS)
    assert found["sums_by_choice/acc"]["stderr"] == pytest.approx(ours["eval/sums/accuracy_stderr"], rel=1e-6)
    with pytest.raises(ConfigError, match="lm-eval has no task 'sums_by_chance'"):
        harness.run_tasks(model, tokenizer, ["sums_by_chance"], **options)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package lm-eval.*pip install 'rankray\[lm-eval\]'"):
        harness.require_harness()
