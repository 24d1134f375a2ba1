"""Bad input: one screen that says where, what and what to do; exit code 2; nothing started.

Each case runs the real command line in a fresh process, which then says what it had loaded: neither ray nor torch.
"""

import json
import subprocess
import sys

import pytest

PROBE = """
import sys
from rankray.cli.app import main
sys.argv = ["rankray", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    loaded = [name for name in ("ray", "torch") if name in sys.modules]
    print("LOADED", loaded, file=sys.stderr)
    sys.exit(end.code)
"""
FILE = """\
name: demo
model: {path: MODEL}
data:
  train: TRAIN
  eval: EVAL
  prompt: "{question} "
  completion: "{answer}"
  max_length: 8
train: {max_steps: 2, batch_size: 2}
evaluate: {every_steps: 1, max_examples: 2}
space:
  loss.temperature: {float: [0.25, 8.0], log: true}
study: {trials: 2}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A directory with a good file, its data and a model that looks loadable."""
    import numpy
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    root = tmp_path_factory.mktemp("world")
    model = root / "model"
    model.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "unk_token": "<unk>"}))
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 64}))
    save_file({"x": numpy.zeros(1)}, str(model / "model.safetensors"))
    for name, rows in {
        "train": [{"question": "a b", "answer": "b"}] * 4,
        "empty": [],
        "long": [{"question": "a " * 20, "answer": "b"}] * 4,
    }.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def run(world, tmp_path):
    """Run `rankray search` on the good file with one change; return exit code, standard error and file."""

    def run(change=("", ""), *words, verb="search"):
        text = FILE.replace(*change, 1) if change[0] else FILE
        assert not change[0] or change[0] in FILE
        text = text.replace("MODEL", str(world / "model")).replace("TRAIN", str(world / "train.jsonl"))
        file = tmp_path / "search.yaml"
        file.write_text(text.replace("EVAL", str(world / "train.jsonl")).replace("WORLD", str(world)))
        done = subprocess.run(
            [sys.executable, "-c", PROBE, verb, str(file), *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
        )
        return done.returncode, done.stderr, file

    return run


CASES = {
    "unknown key": (("study: {trials: 2}", "study: {trails: 2}"), 13, ["study.trails", "did you mean 'trials'"]),
    "misspelt space path": (("loss.temperature", "loss.temprature"), 12, ["'loss.temperature'"]),
    "low above high": (("[0.25, 8.0]", "[8.0, 0.25]"), 12, ["low 8.0 is not below high 0.25"]),
    "missing file": (("TRAIN", "WORLD/trian.jsonl"), 4, ["trian.jsonl", "did you mean 'train.jsonl'"]),
    "missing column": (("{question} ", "{qestion} "), 6, ["qestion", "did you mean 'question'", "answer"]),
    "empty dataset": (("TRAIN", "WORLD/empty.jsonl"), 4, ["empty.jsonl"]),
    "every completion cut away": (("TRAIN", "WORLD/long.jsonl"), 8, ["data.max_length"]),
    "a weighted metric": (("{trials: 2}", "{trials: 2, metric: train/loss}"), 13, ["train/loss", "eval/nll"]),
    "an unknown store": (("study: {trials: 2}", "store: redis://localhost/0"), 13, ["redis", "sqlite:///"]),
    "a model that is none": (("MODEL", "WORLD/nothing"), 2, ["model.path"]),
    "fsdp on CPUs": (
        ("batch_size: 2}\n", "batch_size: 2, parallelism: fsdp}\nresources: {workers: 2}\n"),
        9,
        ["train.parallelism", "gpus_per_worker"],
    ),
    "uneven workers": (("study: {trials: 2}", "resources: {workers: 3}"), 13, ["train.batch_size", "3 workers"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_before_anything_starts(run, case):
    change, line, words = CASES[case]
    code, said, file = run(change)
    assert code == 2, said
    assert f"error: {file}:{line}: " in said
    assert said.rstrip().endswith("LOADED []"), said
    assert len(said.splitlines()) <= 20
    for word in words:
        assert word in said


@pytest.mark.parametrize("case", ["unknown key", "missing column", "every completion cut away"])
def test_check_finds_the_same(run, case):
    change, line, _ = CASES[case]
    code, said, file = run(change, verb="check")
    assert code == 2
    assert f"error: {file}:{line}: " in said
    assert said.rstrip().endswith("LOADED []")


def test_a_good_file_checks(run):
    code, said, _ = run(verb="check")
    assert code == 0, said


def test_a_missing_configuration(run, tmp_path):
    run(verb="check")
    done = subprocess.run(
        [sys.executable, "-m", "rankray", "search", "serch.yaml"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "did you mean 'search.yaml'" in done.stderr


def test_a_study_of_the_same_name_with_another_configuration(run, world, tmp_path):
    """The differing fields are listed, with both values, and what to do."""
    from rankray.config import load_config
    from rankray.finetune.preflight import preflight
    from rankray.store import open_study

    store = f"sqlite:///{tmp_path / 'store.db'}"
    _, _, file = run(verb="check")
    loaded = load_config(file)
    open_study(store, loaded.config, provenance=preflight(loaded))
    code, said, _ = run(("[0.25, 8.0]", "[0.25, 4.0]"), "--store", store, "--set", "train.learning_rate=1e-3")
    assert code == 2
    assert "train.learning_rate" in said
    assert "loss.temperature" in said
    assert "--name" in said
    assert said.rstrip().endswith("LOADED []"), said


def test_other_data_under_the_same_name_is_another_study(run, world, tmp_path):
    from rankray.config import load_config
    from rankray.finetune.preflight import preflight
    from rankray.store import open_study

    store = f"sqlite:///{tmp_path / 'store.db'}"
    _, _, file = run(verb="check")
    loaded = load_config(file)
    open_study(store, loaded.config, provenance=preflight(loaded) | {"data": {"train": "sha256:0"}})
    code, said, _ = run(("", ""), "--store", store)
    assert code == 2
    assert "data" in said


def test_an_unknown_study_is_named_with_those_there_are(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rankray", "status", "x", "--store", f"sqlite:///{tmp_path}/none.db"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "none.db" in done.stderr
    assert not (tmp_path / "none.db").exists()
