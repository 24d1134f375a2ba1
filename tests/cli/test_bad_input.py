"""Whole: bad input: one screen that says where, what and what to do; exit code 2; nothing started.

All cases run through the real command line, one after another in one fresh process, which says after each what it had
loaded by then: neither ray nor torch.
"""

import json
import subprocess
import sys

import pytest

PROBE = """
import contextlib, importlib.util, io, json, os, sys
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "wandb" else there(name, package)
from rankray.cli.app import main
found = []
for directory, words in json.load(sys.stdin):
    os.chdir(directory)
    sys.argv = ["rankray", *words]
    code, said = 0, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    loaded = [name for name in ("ray", "torch") if name in sys.modules]
    found.append({"code": code, "said": said.getvalue(), "loaded": loaded})
print(json.dumps(found))
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
def files(tmp_path_factory):
    """A directory with a good file, its data and a model without layers."""
    import numpy
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    root = tmp_path_factory.mktemp("files")
    model = root / "model"
    model.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "unk_token": "<unk>"}))
    config = {"model_type": "llama", "vocab_size": 4, "num_hidden_layers": 0, "tie_word_embeddings": True}
    (model / "config.json").write_text(json.dumps(config | {"hidden_size": 32, "max_position_embeddings": 64}))
    weights = {"model.embed_tokens.weight": numpy.zeros((4, 32)), "model.norm.weight": numpy.ones(32)}
    save_file(weights, str(model / "model.safetensors"), metadata={"format": "pt"})
    for name, rows in {
        "train": [{"question": "a b", "answer": "b"}] * 4,
        "empty": [],
        "long": [{"question": "a " * 20, "answer": "b"}] * 4,
    }.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def write(files, directory, change=("", "")):
    """Write the good file with one change; return it."""
    text = FILE.replace(*change, 1) if change[0] else FILE
    assert not change[0] or change[0] in FILE
    text = text.replace("MODEL", str(files / "model")).replace("TRAIN", str(files / "train.jsonl"))
    file = directory / "search.yaml"
    file.write_text(text.replace("EVAL", str(files / "train.jsonl")).replace("WORLD", str(files)))
    return file


def run_all(commands):
    """Run commands, given as (directory, arguments), in one fresh process; return what became of each."""
    given = json.dumps([(str(directory), [str(word) for word in words]) for directory, words in commands])
    done = subprocess.run([sys.executable, "-c", PROBE], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
    "a storage that is a file": (
        ("study: {trials: 2}", "storage: /dev/null"),
        13,
        ["/dev/null is no directory; allowed"],
    ),
    "a storage below a file": (
        ("study: {trials: 2}", "storage: WORLD/train.jsonl/runs"),
        13,
        ["train.jsonl/runs: ", "train.jsonl is no directory; allowed: a directory that you may write"],
    ),
    "a storage that takes no files": (("study: {trials: 2}", "storage: /proc/runs"), 13, ["storage: /proc/runs: "]),
    "more CPUs than this machine has": (
        ("study: {trials: 2}", "resources: {cpus_per_worker: 4096}"),
        13,
        ["resources.cpus_per_worker: a trial asks for 4096 CPUs", "RAY_ADDRESS"],
    ),
    "a number in quotes": (
        ("batch_size: 2}", 'batch_size: 2, sft: {max_grad_norm: "0.5"}}'),
        9,
        ["train.sft.max_grad_norm: got '0.5'; allowed: a number; write it without quotes"],
    ),
    "a tracker that is not installed": (
        ("study: {trials: 2}", "logging: [wandb]"),
        13,
        ["logging: wandb needs the package wandb, which is not installed; pip install"],
    ),
    "uneven workers": (("study: {trials: 2}", "resources: {workers: 3}"), 13, ["train.batch_size", "3 workers"]),
}


CHECKED = (
    "unknown key", "missing column", "every completion cut away", "a number in quotes",
    "a tracker that is not installed", "a storage below a file", "a storage that takes no files",
)  # fmt: skip


@pytest.fixture(scope="module")
def results(files, tmp_path_factory):
    """What became of each case, by verb and name, with the file."""
    commands = {}
    for verb, cases in (("search", CASES), ("check", CHECKED)):
        for case in cases:
            directory = tmp_path_factory.mktemp("case")
            commands[verb, case] = (directory, [verb, write(files, directory, CASES[case][0])])
    directory = tmp_path_factory.mktemp("case")
    commands["check", "a good file"] = (directory, ["check", write(files, directory)])
    commands["search", "a missing file"] = (directory, ["search", "serch.yaml"])
    commands["status", "no store"] = (directory, ["status", "x", "--store", f"sqlite:///{directory}/none.db"])
    found = run_all(commands.values())
    return {
        key: result | {"file": words[-1], "directory": directory}
        for (key, (directory, words)), result in zip(commands.items(), found, strict=True)
    }


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_reported_before_anything_starts(results, case):
    _, line, words = CASES[case]
    result = results["search", case]
    assert result["code"] == 2, result
    assert f"error: {result['file']}:{line}: " in result["said"]
    assert result["loaded"] == []
    assert len(result["said"].splitlines()) <= 20
    for word in words:
        assert word in result["said"]


@pytest.mark.parametrize("case", CHECKED)
def test_check_finds_the_same(results, case):
    result = results["check", case]
    assert result["code"] == 2
    assert f"error: {result['file']}:{CASES[case][1]}: " in result["said"]
    assert result["loaded"] == []


def test_a_good_file_checks(results):
    assert results["check", "a good file"]["code"] == 0, results["check", "a good file"]


def test_a_missing_configuration(results):
    assert results["search", "a missing file"]["code"] == 2
    assert "did you mean 'search.yaml'" in results["search", "a missing file"]["said"]


def test_an_unknown_study_is_named_with_those_there_are(results):
    result = results["status", "no store"]
    assert result["code"] == 2
    assert "none.db" in result["said"]
    assert not (result["directory"] / "none.db").exists()


def test_another_configuration_or_other_data_under_the_same_name(files, tmp_path):
    """The differing fields are listed, with both values, and what to do."""
    from rankray.config import load_config
    from rankray.finetune.preflight import preflight
    from rankray.store import open_study

    (tmp_path / "changed").mkdir()
    file, changed = write(files, tmp_path), write(files, tmp_path / "changed", ("[0.25, 8.0]", "[0.25, 4.0]"))
    stores = [f"sqlite:///{tmp_path / name}.db" for name in ("same", "other")]
    loaded = load_config(file)
    open_study(stores[0], loaded.config, provenance=preflight(loaded).fingerprints)
    open_study(stores[1], loaded.config, provenance=preflight(loaded).fingerprints | {"data": {"train": "sha256:0"}})
    configuration, data = run_all(
        [
            (tmp_path, ["search", changed, "--store", stores[0], "--set", "train.learning_rate=1e-3"]),
            (tmp_path, ["search", file, "--store", stores[1]]),
        ]
    )
    assert configuration["code"] == data["code"] == 2
    for word in ("train.learning_rate", "loss.temperature", "--name"):
        assert word in configuration["said"]
    assert "data" in data["said"]
    assert configuration["loaded"] == data["loaded"] == []


def test_a_process_ends_with_the_code_and_the_words(tmp_path):
    """Once as it is typed."""
    words = [sys.executable, "-m", "rankray", "search", "serch.yaml"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
