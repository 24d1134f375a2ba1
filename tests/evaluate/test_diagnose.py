import json

import pytest
import torch

from rankray.config import Config
from rankray.evaluate.diagnose import diagnose
from rankray.evaluate.noise import add_noise
from rankray.loss import WEIGHTS, token_stats, token_weights
from rankray.model.resident import fresh_model, split_of, tokenizer_of
from rankray.report.diagnosis import diagnosis_view, noise_rows, page


@pytest.fixture
def made(tree):
    return Config.model_validate(tree(data__max_length=40) | {"loss": {"base": "one"}})


def test_every_objective_is_diagnosed_as_from_full_logits(made):
    found = diagnose(made, noise_rate=0.1, seed=2)
    assert found["objectives"].keys() == WEIGHTS.keys()
    model, tokenizer = fresh_model(made).eval(), tokenizer_of(made)
    clean = [each for each in split_of("train", made, tokenizer).tokens if each.supervised]
    noisy, is_noise = add_noise(clean, tokenizer, 0.1, "random", 2)
    logits, targets = [], []
    for example in noisy:
        with torch.no_grad():
            row = model(input_ids=torch.tensor([example.input_ids])).logits[0, example.start - 1 : -1]
        logits.append(row)
        targets += example.input_ids[example.start :]
    stats = token_stats(torch.cat(logits), torch.tensor(targets))
    weight = token_weights(stats, knobs=made.loss)
    flags = torch.tensor([flag for row in is_noise for flag in row])
    top = weight.topk(max(1, round(len(weight) / 10))).indices
    assert found["tokens"] == len(weight)
    assert found["noise_rate"] == pytest.approx(float(flags.double().mean()))
    measured = found["objectives"]["rri"]
    assert measured["precision_top10"] == pytest.approx(float(flags[top].double().mean()), abs=1e-6)
    assert measured["recall_top10"] == pytest.approx(float(flags[top].sum() / flags.sum()), abs=1e-6)
    assert found["objectives"]["sft"]["precision_top10"] == pytest.approx(found["chance"]["precision_top10"])
    assert found["forms"]["bound"] == pytest.approx(measured), "base one: the weight is S"


def test_the_bounds_lie_below_what_they_bound_and_distributions_are_of_the_data(made):
    found = diagnose(made, noise_rate=0.1)
    points = found["scatter"]
    for expected, bound in zip(points["expected_rank"], points["bound (max_prob)"], strict=True):
        assert bound <= expected * (1 + 1e-5)
    quantiles = found["distributions"]["p"]
    assert 0 < quantiles["p05"] <= quantiles["p50"] <= quantiles["p95"] < 1
    assert found["distributions"].keys() >= {"entropy_bits", "rank", "expected_rank", "scale (bound)", "scale (exact)"}


def test_what_is_shown_is_plain_json_a_table_and_a_page_of_its_own(made):
    found = diagnose(made, noise_rate=0.1, contamination=True)
    assert json.loads(json.dumps(found)) == found
    assert found["contamination"]["prompts"] == 10
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as shown:
        console.print(diagnosis_view(found))
    text = shown.get()
    assert all(name in text for name in (*WEIGHTS, "chance", "S (exact)", "trusts most"))
    written = page(found, "a <study>")
    assert "a &lt;study&gt;" in written
    rows = noise_rows(found)
    assert [row[0] for row in rows] == ["objective", *WEIGHTS, "S (bound)", "S (exact)", "chance"]
    for row in rows[1:]:
        assert f"<tr><td>{row[0]}<td>{row[1]}" in written or (
            len(row) == 2 and f"<tr><td>{row[0]}<td colspan" in written
        )
    found["objectives"]["sft"] = {"why": "no <reason>"}
    assert ["sft", "no <reason>"] in noise_rows(found)
    assert "no &lt;reason&gt;" in page(found, "x")
    assert "src=" not in written.split("<script>")[0]


def test_without_noise_there_is_nothing_to_find(made):
    found = diagnose(made, noise_rate=0.0)
    assert found["chance"] is None
    assert found["objectives"]["rri"]["precision_top10"] is None


def test_contamination_finds_prompts_that_the_model_knows(tree, train, tmp_path):
    """A model trained on whole prompts completes them; the untrained one does not."""
    rows = [{"question": text, "answer": "1"} for text in ("the sums of this world are known", "1 plus 2 is? 1 plus 2")]
    file = tmp_path / "known.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    learned = tree(data__train=str(file), data__eval=str(file), data__prompt="", data__completion="{question}")
    learned["train"] |= {"max_steps": 60, "batch_size": 2, "learning_rate": 1e-2}
    learned["evaluate"]["every_steps"] = 60
    learned["loss"] = {"objective": "sft"}
    checkpoint = train(learned)[0].checkpoint
    asked = tree(data__train=str(file), data__eval=str(file), data__prompt="{question}")
    before = diagnose(Config.model_validate(asked), noise_rate=0.0, contamination=True)
    asked["model"]["path"] = checkpoint
    after = diagnose(Config.model_validate(asked), noise_rate=0.0, contamination=True)
    assert before["contamination"]["share"] == 0.0
    assert after["contamination"]["share"] == 1.0
