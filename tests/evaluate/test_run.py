import math
import random
import sys
import types

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from rankray.config import Config
from rankray.data.tokenize import load_split
from rankray.errors import ConfigError
from rankray.evaluate.generate import generate_texts
from rankray.evaluate.run import evaluate
from rankray.model.resident import tokenizer_of


@pytest.fixture
def world(tree):
    """Return a function that gives (model, tokenizer, eval split, config)."""

    def make(**changes):
        config = Config.model_validate(tree(**changes))
        tokenizer = tokenizer_of(config)
        model = AutoModelForCausalLM.from_pretrained(config.model.path).eval()
        data = load_split("eval", config.data, tokenizer, config.data.max_length, config.evaluate.max_examples)
        return model, tokenizer, data, config

    return make


def test_nll_is_that_of_the_full_logits_in_float64(world):
    model, tokenizer, data, config = world(evaluate__metrics=["nll", "token_accuracy"], evaluate__batch_size=3)
    found = evaluate(model, tokenizer, data, config)
    truth = AutoModelForCausalLM.from_pretrained(config.model.path).double().eval()
    nll, right, count = 0.0, 0, 0
    for example in data.tokens:
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            logits = truth(input_ids=ids).logits[0, example.start - 1 : -1]
        target = ids[0, example.start :]
        nll += torch.nn.functional.cross_entropy(logits, target, reduction="sum").item()
        right += int((logits.argmax(-1) == target).sum())
        count += len(target)
    assert found["eval/nll"] == pytest.approx(nll / count, rel=1e-6)
    assert found["eval/token_accuracy"] == right / count
    assert found.keys() == {"eval/nll", "eval/token_accuracy"}


def test_the_batch_size_does_not_matter(world):
    values = [evaluate(*world(evaluate__batch_size=size))["eval/nll"] for size in (1, 4, 100)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_a_model_that_memorised_answers_right(tree, train, data_file):
    made = tree(
        train__max_steps=150,
        train__batch_size=24,
        train__learning_rate=1e-2,
        evaluate__every_steps=150,
        evaluate__metrics=["accuracy", "token_accuracy", "pass@2"],
        evaluate__max_examples=None,
        evaluate__max_new_tokens=4,
        evaluate__batch_size=5,
    )
    made["loss"] = {"objective": "sft"}
    metrics = train(made)[0].metrics
    assert metrics["eval/token_accuracy"] == 1.0
    assert metrics["eval/accuracy"] == 1.0
    assert metrics["eval/pass@2"] == 1.0


def test_pass_at_k_grows_with_k_and_is_repeatable(world):
    changes = {"evaluate__metrics": ["pass@1", "pass@4"], "evaluate__answer": r"(\d)", "evaluate__max_new_tokens": 12}
    first, again = (evaluate(*world(**changes)) for _ in range(2))
    assert first == again
    assert first["eval/pass@1"] <= first["eval/pass@4"]
    assert 0 < first["eval/pass@4"] < 1


def test_evaluation_does_not_affect_training(world):
    model, tokenizer, data, config = world(evaluate__metrics=["nll", "accuracy", "pass@2"], evaluate__max_new_tokens=4)
    model.train()
    model.model.norm.eval()
    torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), model.generation_config
    evaluate(model, tokenizer, data, config)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert model.generation_config is states[3]
    assert model.training
    assert not model.model.norm.training


def test_greedy_is_greedy_whatever_the_models_own_settings(world):
    model, tokenizer, data, _ = world()
    prompts = [example.input_ids[: example.start] for example in data.tokens]
    plain = generate_texts(model, tokenizer, prompts, batch_size=4, max_new_tokens=8)
    model.generation_config = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=9.0, top_k=3)
    assert generate_texts(model, tokenizer, prompts, batch_size=4, max_new_tokens=8) == plain
    alone = [generate_texts(model, tokenizer, [prompt], batch_size=1, max_new_tokens=8)[0] for prompt in prompts]
    assert alone == plain
    ids = list(prompts[0])
    for _ in range(8):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.decode(ids[len(prompts[0]) :]).split("<eos>")[0].replace("<pad>", "")
    assert plain[0] == expected


def test_answers_end_with_the_models_context(world):
    model, tokenizer, _, _ = world()
    full, nearly = [5] * 64, [5] * 62
    texts = generate_texts(model, tokenizer, [full, nearly, []], batch_size=1, max_new_tokens=30)
    assert texts[0] == ""
    assert texts[1] == generate_texts(model, tokenizer, [nearly], batch_size=1, max_new_tokens=2)[0]


def test_a_prompt_that_fills_everything_counts_as_wrong(world, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"question": "' + "7" * 90 + '", "answer": "1"}\n{"question": "1", "answer": "1"}\n')
    changes = {"evaluate__metrics": ["nll", "accuracy"], "evaluate__answer": r"(.?)", "data__eval": str(file)}
    model, tokenizer, data, config = world(**changes)
    assert data.dropped == 1
    assert evaluate(model, tokenizer, data, config)["eval/accuracy"] in (0.0, 0.5)


def test_a_model_without_a_finite_nll_gives_nan(world):
    model, tokenizer, data, config = world(evaluate__metrics=["nll", "accuracy", "pass@3"])
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    found = evaluate(model, tokenizer, data, config)
    assert found.keys() == {"eval/nll", "eval/accuracy", "eval/pass@3"}
    assert all(math.isnan(value) for value in found.values())


@pytest.fixture
def functions(monkeypatch):
    module = types.ModuleType("my_evaluations")
    module.good = lambda model, tokenizer, rows: {"rows": len(rows), "first": float(rows[0]["completion"])}
    module.bad = lambda model, tokenizer, rows: "fine"
    monkeypatch.setitem(sys.modules, "my_evaluations", module)


def test_functions_of_ones_own(world, functions):
    found = evaluate(*world(evaluate__functions=["my_evaluations:good"]))
    assert found["eval/rows"] == 10.0
    assert found["eval/first"] == 0.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_evaluations:goood", r"has no function 'goood' \(did you mean 'good'\?\)"),
        ("my_evaluations:bad", r"my_evaluations:bad returned 'fine'; allowed is a dict"),
        ("no_such_module:f", "module 'no_such_module' cannot be imported"),
    ],
)
def test_functions_that_do_not_work_are_named(world, functions, name, said):
    with pytest.raises(ConfigError, match=f"^evaluate.functions: .*{said}"):
        evaluate(*world(evaluate__functions=[name]))
