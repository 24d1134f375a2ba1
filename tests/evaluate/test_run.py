import itertools
import json
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


def test_token_metrics_and_their_errors_are_those_of_the_full_logits_in_float64(world, tmp_path):
    file = tmp_path / "sums.jsonl"
    rows = [{"question": f"{a} plus {a} is?", "answer": " plus ".join(str(a) * (1 + a % 4))} for a in range(10)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"evaluate__metrics": ["nll", "token_accuracy", "bits_per_byte"], "evaluate__batch_size": 3}
    model, tokenizer, data, config = world(**changes, data__eval=str(file))
    found = evaluate(model, tokenizer, data, config)
    truth = AutoModelForCausalLM.from_pretrained(config.model.path).double().eval()
    nll, first, count = [], [], []
    for example in data.tokens:
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            logits = truth(input_ids=ids).logits[0, example.start - 1 : -1]
        target = ids[0, example.start :]
        nll.append(torch.nn.functional.cross_entropy(logits, target, reduction="sum").item())
        first.append(int((logits.argmax(-1) == target).sum()))
        count.append(len(target))
    bits, size = [each / math.log(2) for each in nll], [len(row["completion"].encode()) for row in data.rows]
    parts = {"nll": (nll, count), "token_accuracy": (first, count), "bits_per_byte": (bits, size)}
    for name, (above, below) in parts.items():
        value = sum(above) / sum(below)
        residuals = np.array(above) - value * np.array(below)
        assert found[f"eval/{name}"] == pytest.approx(value, rel=1e-6)
        error = np.std(residuals, ddof=1) / np.sqrt(len(residuals)) / np.mean(below)
        assert found[f"eval/{name}_stderr"] == pytest.approx(error, rel=1e-4)
        assert found[f"eval/{name}_n"] == 10
    assert len(set(count)) > 1, "examples of different lengths, or a mean of means would pass"
    assert len(found) == 9


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


def test_sampled_metrics_are_those_of_answers_drawn_one_by_one(world):
    """The same random numbers, without batches, cache or shared prompts: inverse CDF over the full distribution."""
    changes = {"evaluate__metrics": ["pass@2", "avg@2"], "evaluate__answer": r"(\d)"}
    changes |= {"evaluate__samples": 8, "evaluate__seed": 3, "evaluate__batch_size": 7, "evaluate__max_new_tokens": 10}
    model, tokenizer, data, config = world(**changes)
    found = evaluate(model, tokenizer, data, config)
    rows, right = [], []
    for index, example in enumerate(data.tokens):
        answers = []
        for draw in range(8):
            uniform = np.random.default_rng((3, index, draw)).random(10)
            ids = list(example.input_ids[: example.start])
            for step in range(10):
                with torch.no_grad():
                    shares = model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(0).cumsum(0)
                token = int((shares <= uniform[step] * shares[-1]).sum())
                if token == tokenizer.eos_token_id:
                    break
                ids.append(token)
            text = tokenizer.decode(ids[example.start :], skip_special_tokens=True)
            digits = [letter for letter in text if letter.isdigit()]
            wanted = [letter for letter in data.rows[index]["completion"] if letter.isdigit()]
            answers.append(bool(digits) and digits[-1] == wanted[-1])
        right.append(answers)
        pairs = list(itertools.combinations(answers, 2))
        rows.append(sum(any(pair) for pair in pairs) / len(pairs))
    assert 0 < sum(map(sum, right)) < 80
    assert found["eval/pass@2"] == pytest.approx(sum(rows) / len(rows), abs=1e-12)
    means = [sum(answers[:2]) / 2 for answers in right]
    assert found["eval/avg@2"] == pytest.approx(sum(means) / len(means), abs=1e-12)
    assert found["eval/avg@2_stderr"] == pytest.approx(np.std(means, ddof=1) / len(means) ** 0.5, abs=1e-12)
    assert found["eval/pass@2_stderr"] == pytest.approx(np.std(rows, ddof=1) / len(rows) ** 0.5, abs=1e-12)
    assert found["eval/pass@2_n"] == found["eval/avg@2_n"] == 10


def test_bits_per_byte_do_not_depend_on_the_tokenizer(world):
    model, tokenizer, data, config = world(evaluate__metrics=["bits_per_byte"])
    found = evaluate(model, tokenizer, data, config)
    tokens = sum(len(example.input_ids) - example.start for example in data.tokens)
    byte_count = sum(len(row["completion"].encode()) for row in data.rows)
    assert found["eval/bits_per_byte"] == pytest.approx(found["eval/nll"] * tokens / math.log(2) / byte_count, rel=1e-6)


def test_rungs_leave_out_what_they_say(world):
    changes = {"evaluate__metrics": ["accuracy", "avg@2"], "evaluate__max_new_tokens": 2}
    model, tokenizer, data, config = world(**changes, evaluate__rungs={"answers": 4, "sampled": False})
    early, late = (evaluate(model, tokenizer, data, config, last=last) for last in (False, True))
    assert early["eval/accuracy_n"] == 4
    assert late["eval/accuracy_n"] == 10
    assert "eval/avg@2" in late.keys() - early.keys()
    assert early["eval/nll"] == late["eval/nll"]
    none = world(**changes, evaluate__rungs={"answers": 0, "sampled": False})
    assert evaluate(*none, last=False).keys() == {"eval/nll", "eval/nll_stderr", "eval/nll_n"}


def test_answers_judged_by_algebra_and_by_an_own_function(world, monkeypatch, tmp_path):
    pytest.importorskip("math_verify", reason="the algebra of answers needs the extra rankray[math]")
    file = tmp_path / "x.jsonl"
    file.write_text('{"question": "1", "answer": "\\\\boxed{1/2}"}\n' * 3)
    own = types.ModuleType("own_answers")
    own.yes = lambda text, reference: True
    monkeypatch.setitem(sys.modules, "own_answers", own)
    changes = {"evaluate__metrics": ["accuracy"], "data__eval": str(file), "evaluate__max_new_tokens": 2}
    assert evaluate(*world(**changes, evaluate__answer="own_answers:yes"))["eval/accuracy"] == 1.0
    found = evaluate(*world(**changes, evaluate__answer="math"))
    assert (found["eval/accuracy"], found["eval/answer_timeouts"]) == (0.0, 0.0)


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
    names = {"eval/nll", "eval/accuracy", "eval/pass@3"}
    counts = {"eval/nll_n": 10.0, "eval/accuracy_n": 0.0, "eval/pass@3_n": 0.0}
    assert found.keys() == names | counts.keys() | {f"{name}_stderr" for name in names}
    assert all(math.isnan(value) for name, value in found.items() if name not in counts)
    assert {name: found[name] for name in counts} == counts


@pytest.mark.parametrize(
    "study",
    [
        {"metric": "eval/rows", "direction": "maximize", "prune_on": "eval/first"},
        {"metrics": ["eval/rows", "eval/accuracy"], "direction": "maximize", "prune_on": "eval/rows"},
    ],
)
def test_what_the_study_compares_is_nan_where_the_nll_is_not_finite(world, functions, study):
    """Missing, an own metric would neither fail nor prune a trial that has diverged."""
    changes = {"evaluate__functions": ["my_evaluations:good"], "evaluate__metrics": ["nll", "accuracy"]}
    model, tokenizer, data, config = world(**changes, **{f"study__{key}": value for key, value in study.items()})
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    found = evaluate(model, tokenizer, data, config, last=False)
    wanted = {config.study.metric, config.study.prune_on, "eval/nll", "eval/accuracy"}
    assert all(math.isnan(found[name]) for name in wanted)
    assert "eval/rows_n" not in found, "nothing is said of examples that an own function counts itself"


def test_what_rungs_leave_out_is_nan_where_the_nll_is_not_finite_and_the_study_compares_it(world):
    changes = {"evaluate__metrics": ["nll", "avg@2"], "evaluate__rungs": {"sampled": False}}
    model, tokenizer, data, config = world(**changes, study__metric="eval/avg@2", study__prune_on="eval/avg@2")
    assert "eval/avg@2" not in evaluate(model, tokenizer, data, config, last=False)
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    assert math.isnan(evaluate(model, tokenizer, data, config, last=False)["eval/avg@2"])


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


def test_programs_and_functions_have_the_columns_of_the_data(world, tmp_path, monkeypatch):
    """HumanEval's columns: `prompt` is the head of the program, whatever data.prompt makes of it."""
    row = {"prompt": "def double(x):\n", "canonical_solution": "    return 2 * x", "test": "assert double(2) == 4"}
    rows = [row, {**row, "test": "assert double(2) == 5"}]
    file = tmp_path / "programs.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    module, seen = types.ModuleType("my_programs"), []
    module.write = lambda model, tokenizer, prompts, options: [[row["canonical_solution"]] for _ in prompts]
    module.look = lambda model, tokenizer, rows: seen.extend(rows) or {}
    monkeypatch.setitem(sys.modules, "my_programs", module)
    found = evaluate(
        *world(
            data__eval=str(file), data__prompt="Complete: {prompt}", data__completion="{canonical_solution}\n",
            evaluate__metrics=["accuracy"], evaluate__answer="code", evaluate__program="{prompt}{answer}\n{test}",
            evaluate__allow_code_execution=True, evaluate__engine="my_programs:write",
            evaluate__functions=["my_programs:look"],
        )
    )  # fmt: skip
    assert found["eval/accuracy"] == 0.5
    assert seen == [{**each, "completion": "    return 2 * x\n"} for each in rows]
