"""The quickstart world: deterministic data, right answers, the declared noise, a cached build, a search that loads."""

import hashlib
import json
import math
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rankray.config import load_config
from rankray.config.space import baseline_points, distributions, space_problems
from rankray.quickstart import build as quickstart
from rankray.quickstart.build import build_world, split_problems, write_data
from rankray.quickstart.language import LARGEST, UNKNOWN, all_problems, clean_row, corrupt, vocabulary

ROOT = Path(__file__).resolve().parents[2]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
EQUATION = r"(\d+) ([+-]) (\d+) = (\d+) \."


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A world with a hardly trained model, in a directory with a space in its name."""
    lines: list[str] = []
    file = build_world(tmp_path_factory.mktemp("quick") / "a world", progress=lines.append, pretrain_steps=3)
    return file, lines


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    write_data(directory)
    return {
        split: [json.loads(line) for line in (directory / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "eval")
    }


def is_right(answer: str) -> bool:
    """Whether a worked answer has the clean form, and every equation and the end agree."""
    if not re.fullmatch(rf"{EQUATION} {EQUATION} #### \d+", answer):
        return False
    now, steps = None, re.findall(EQUATION, answer)
    for left, sign, right, result in steps:
        if now is not None and int(left) != now:
            return False
        now = int(left) + int(right) * (1 if sign == "+" else -1)
        if now != int(result):
            return False
    return answer.endswith(f"#### {now}")


def numbers_of(question: str) -> tuple[int, ...]:
    return tuple(int(word) for word in question.split() if word.isdigit())


def test_data_are_the_same_bytes_every_time(tmp_path):
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_data(tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        assert [file.name for file in files] == ["eval.jsonl", "train.jsonl"]
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files])
    assert digests[0] == digests[1] == [EVAL_DIGEST, TRAIN_DIGEST]


EVAL_DIGEST, TRAIN_DIGEST = "7e65269adb4dac72", "351f283a0c5b93a2"
"""Increase `quickstart.VERSION` when these change, so that older worlds are built again."""


def test_held_out_answers_are_right_and_follow_from_their_questions(rows):
    assert len(rows["eval"]) == quickstart.EVAL_EXAMPLES
    for row in rows["eval"]:
        assert is_right(row["answer"]), row
        assert not row["corrupted"]
        operands = [int(n) for left, _, right, _ in re.findall(EQUATION, row["answer"]) for n in (left, right)]
        assert numbers_of(row["question"]) == (operands[0], operands[1], operands[3])


def test_corrupted_examples_are_wrong_and_the_others_right(rows):
    assert all(row["corrupted"] != is_right(row["answer"]) for row in rows["train"])


def test_the_declared_share_is_corrupted(rows):
    count, share = len(rows["train"]), quickstart.CORRUPTED_SHARE
    corrupted = sum(row["corrupted"] for row in rows["train"])
    assert count == quickstart.TRAIN_EXAMPLES
    assert abs(corrupted - share * count) <= 4 * math.sqrt(count * share * (1 - share))


def test_the_declared_rate_of_tokens_is_corrupted(rows):
    _, train, _ = split_problems()
    changed, total = 0, 0
    for row, problem in zip(rows["train"], train, strict=True):
        if row["corrupted"]:
            pairs = list(zip(row["answer"].split(), problem.answer.split(), strict=True))
            changed, total = changed + sum(a != b for a, b in pairs), total + len(pairs)
    # at least one token is changed, so the rate lies a little above the declared one
    least = (1 - quickstart.CORRUPTED_RATE) ** 14 / 14
    spread = 4 * math.sqrt(quickstart.CORRUPTED_RATE * (1 - quickstart.CORRUPTED_RATE) / total)
    assert abs(changed / total - quickstart.CORRUPTED_RATE - least) <= spread


def test_no_held_out_problem_is_trained_on():
    known, train, held_out = split_problems()
    assert not set(held_out) & set(known)
    assert set(train) <= set(known)
    assert len(set(known)) + len(set(held_out)) == len(all_problems())


def test_fine_tuning_uses_words_that_pretraining_never_shows(rows):
    rng = random.Random(0)
    clean = {word for problem in all_problems() for word in clean_row(problem, rng)["question"].split()}
    noisy = {word for row in rows["train"] for word in row["question"].split()}
    assert {"um", "honestly", "owns", "earns", "sells", "number"} <= noisy - clean


def test_the_vocabulary_has_every_word_once(rows):
    words = vocabulary()
    assert len(words) == len(set(words)) <= 300
    assert str(LARGEST) in words
    text = " ".join(f"{row['question']} {row['answer']}" for split in rows.values() for row in split)
    assert set(text.split()) <= set(words)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_corrupt_changes_a_token_at_least_and_keeps_their_number(rate):
    answer = "7 + 5 = 12 . 12 - 3 = 9 . #### 9"
    for seed in range(20):
        found = corrupt(answer, rate, random.Random(seed)).split()
        changed = sum(a != b for a, b in zip(found, answer.split(), strict=True))
        assert changed >= 1
        assert changed == {0.0: 1, 0.5: changed, 1.0: 14}[rate]


def test_the_build_reports_its_progress(built):
    _, lines = built
    assert "making a small world" in lines[0]
    assert any("pretraining: step 3 of 3" in line for line in lines)


def test_a_second_build_is_cached(built):
    file, _ = built
    before = {path: path.stat().st_mtime_ns for path in file.parent.rglob("*")}
    lines: list[str] = []
    assert build_world(file.parent, progress=lines.append, pretrain_steps=3) == file
    assert lines == []
    assert {path: path.stat().st_mtime_ns for path in file.parent.rglob("*")} == before


def test_the_same_world_has_the_same_weights(built, tmp_path):
    file, _ = built
    again = build_world(tmp_path, pretrain_steps=3)
    weights = "world/model/model.safetensors"
    assert (again.parent / weights).read_bytes() == (file.parent / weights).read_bytes()


def test_an_interrupted_build_is_not_mistaken_for_a_finished_one(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(quickstart, "_save_model", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_world(tmp_path, pretrain_steps=1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "world").mkdir()  # as a copy that was killed half-way might leave it
    (tmp_path / "world" / "train.jsonl").write_text("{")
    lines: list[str] = []
    build_world(tmp_path, progress=lines.append, pretrain_steps=1)
    assert lines
    assert len((tmp_path / "world" / "train.jsonl").read_text().splitlines()) == quickstart.TRAIN_EXAMPLES


def test_the_next_build_deletes_what_a_killed_one_left(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from rankray.quickstart import build; "
        "build._save_model = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        f"build.build_world(Path({str(tmp_path)!r}), pretrain_steps=1)"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len([each for each in tmp_path.iterdir() if each.name.startswith(".world-")]) == 1
    build_world(tmp_path, pretrain_steps=1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["quickstart.yaml", "world"]


@pytest.mark.parametrize("damage", ["missing file", "cut file", "another recipe", "no list"])
def test_a_damaged_or_different_world_is_built_again(damage, tmp_path):
    world = build_world(tmp_path, pretrain_steps=1).parent / "world"
    steps = 1
    if damage == "missing file":
        (world / "model" / "model.safetensors").unlink()
    elif damage == "cut file":
        (world / "eval.jsonl").write_text("")
    elif damage == "another recipe":
        steps = 2
    else:
        (world / "world.json").write_text("[]")
    lines: list[str] = []
    build_world(tmp_path, progress=lines.append, pretrain_steps=steps)
    assert lines
    assert (world / "model" / "model.safetensors").is_file()
    assert len((world / "eval.jsonl").read_text().splitlines()) == quickstart.EVAL_EXAMPLES


def test_the_model_and_its_tokenizer_load(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = built[0].parent / "world" / "model"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert tokenizer.pad_token_id is not None
    assert tokenizer.eos_token_id == model.config.eos_token_id != tokenizer.pad_token_id
    assert len(tokenizer) == model.config.vocab_size == len(vocabulary())
    line = "anna has 7 hats . how many ?\n7 + 5 = 12 . #### 12"
    ids = tokenizer(line)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == " ".join(line.split())
    assert tokenizer("zebra")["input_ids"] == [tokenizer.convert_tokens_to_ids(UNKNOWN)]
    assert sum(p.numel() for p in model.parameters()) < 500_000


def test_the_search_loads_from_anywhere(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(built[0]).config
    assert config.name == "quickstart"
    assert config.study.trials >= 16
    assert config.study.pruner != "none"
    assert config.train.max_steps // config.evaluate.every_steps >= 3, "room to prune"
    assert set(config.space) == {
        "loss.objective",
        "loss.temperature",
        "loss.entropy_weight",
        "train.learning_rate",
    }
    for path in (config.model.path, config.data.train, config.data.eval):
        assert Path(path).is_absolute()
        assert Path(path).exists()
    assert config.store == f"sqlite:///{built[0].parent / 'rankray.db'}"
    assert config.evaluate.max_examples == quickstart.EVAL_EXAMPLES
    text = built[0].read_text()
    assert f"{quickstart.TRAIN_EXAMPLES} examples; {quickstart.CORRUPTED_SHARE:.0%}" in text.replace(" %", "%")
    first = [origin for origin, _ in baseline_points(config)]
    assert first == ["baseline:sft", "baseline:paper", *["known:rates"] * 4]


def test_a_changed_search_file_is_overwritten(built):
    file, _ = built
    text = file.read_text()
    file.write_text("name: mine\n")
    assert build_world(file.parent, pretrain_steps=3).read_text() == text
    assert not [path for path in file.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("file", SPACES, ids=lambda file: file.name)
def test_every_space_is_valid(file, built, tmp_path):
    text = built[0].read_text().replace("search_spaces/quickstart.yaml", str(file))
    (tmp_path / "search.yaml").write_text(text)
    config = load_config(tmp_path / "search.yaml").config
    assert space_problems(config) == []
    assert distributions(config).keys() == config.space.keys()
    assert "Cost:" in file.read_text()
    assert "Expect:" in file.read_text()


def test_there_are_three_spaces():
    assert [file.stem for file in SPACES] == ["objectives", "quickstart", "ranktuner"]


def test_importing_is_light():
    heavy = "{'torch', 'transformers', 'tokenizers', 'ray'}"
    code = f"import sys, rankray.quickstart.build; print(*{heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
