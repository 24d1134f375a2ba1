"""What `check` says of memory: refused, warned of, or split, by the room that there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from rankray.config import load_config
from rankray.errors import ConfigError
from rankray.finetune import memory_check
from rankray.finetune.base_model import gigabytes
from rankray.finetune.memory_check import (
    CPU_HELD,
    PROCESS_BYTES,
    check_memory,
    gpu_bytes,
    machine_bytes,
    room_of,
    shape_at,
    split_to_fit,
)
from rankray.finetune.preflight import Findings, preflight
from rankray.store.identity import check_same, snapshot

SPACE = {"train.batch_size": {"choice": [2, 8]}}


@pytest.fixture
def check(tmp_path, tree):
    """Return a function that checks a configuration with so much room beyond the process's own."""

    data = tmp_path / "long.jsonl"
    data.write_text("".join(f'{{"question": "{"7 + 2 " * 7}", "answer": "is {number}"}}\n' for number in range(24)))

    def go(room: float | None, *, here: bool = True, space=None, tables: bool = True, **changes):
        made = tree(**{"train__batch_size": 8, "data__train": str(data), "evaluate__batch_size": 1} | changes) | (
            {"space": space} if space else {}
        )
        if room is not None:
            made["resources"]["memory_gb"] = (PROCESS_BYTES + room) / 1e9
        file = tmp_path / "search.yaml"
        file.write_text(yaml.safe_dump(made, sort_keys=False))
        loaded = load_config(file)
        findings = preflight(loaded) if tables else Findings()
        check_memory(loaded, findings, trains_here=here)
        return split_to_fit(loaded, findings), findings

    return go


@pytest.fixture
def peak(check) -> int:
    """What the whole batch takes, with what the allocator holds."""
    found = check(1e12)[1].memory
    lasting = found["parts"]["weights"] + found["parts"]["optimizer"]
    return lasting + round(CPU_HELD * (found["estimate_bytes"] - lasting))


def test_what_fits_is_noted_and_left_as_it_is(check, peak):
    loaded, found = check(peak)
    assert loaded.config.train.micro_batch_size is None
    assert found.warnings == []
    assert re.search(
        r"memory: 8 examples of \d+ tokens at a time take about .* a worker \(.*weights.*\)", found.notes[0]
    )
    assert {"weights", "optimizer", "gradients", "activations", "loss", "evaluation"} <= found.memory["parts"].keys()
    assert found.memory["available_bytes"] == pytest.approx(PROCESS_BYTES + peak, abs=1)


def test_a_batch_that_cannot_fit_is_split_where_its_parts_are_left_to_us(check, peak):
    loaded, found = check(peak * 0.7)
    rows = loaded.config.train.micro_batch_size
    assert rows in (1, 2, 4)
    assert found.memory["micro_batch_size"] == rows
    assert "8 examples at a time would not fit" in found.notes[1]
    assert found.memory["estimate_bytes"] <= peak * 0.7
    identity = {"config": snapshot(check(1e12)[0].config), "provenance": {}}
    check_same("s", identity, {"config": snapshot(loaded.config), "provenance": {}})  # the same study


def test_a_given_part_that_cannot_fit_is_refused_with_what_would(check, peak):
    with pytest.raises(ConfigError) as caught:
        check(peak * 0.5, train__micro_batch_size=8)
    text = str(caught.value)
    assert re.match(r".*search\.yaml:\d+: memory: 8 examples", text)
    assert re.search(r"set train\.micro_batch_size: [124]\b", text)
    assert text.endswith("or say with resources.memory_gb what there is")
    assert text.count(";") >= 2, "what was given; what is allowed; what to do"


def test_what_is_a_little_too_large_is_a_warning(check, peak):
    loaded, found = check(peak * 0.95, train__micro_batch_size=8)
    assert loaded.config.train.micro_batch_size == 8
    assert re.search(r"search\.yaml:\d+: memory: a trial takes about", found.warnings[-1])
    assert re.search(r" MB, and 0\.4\d* GB for the process itself and .*, more than the 0\.4\d* GB", found.warnings[-1])


def test_weights_that_cannot_fit_are_refused_whatever_the_batch(check):
    with pytest.raises(ConfigError, match=r"; take a smaller model, or say with resources\.memory_gb"):
        check(1e5)


def test_advice_is_what_fits_both_batches_where_need_be(check, peak):
    with pytest.raises(ConfigError, match=r"; set evaluate\.batch_size: \d+, "):
        check(peak * 0.8, train__micro_batch_size=1, evaluate__batch_size=1024)
    with pytest.raises(ConfigError, match=r"; set train\.micro_batch_size: \d and evaluate\.batch_size: \d+, "):
        check(peak * 0.5, train__micro_batch_size=8, evaluate__batch_size=1024)


def test_the_smallest_of_the_space_has_to_fit_and_the_largest_is_a_warning(check, peak):
    _, found = check(peak * 0.5, space=SPACE)
    assert "the largest that the space may choose takes about" in found.warnings[-1]
    with pytest.raises(ConfigError, match="memory: 2 examples"):
        check(peak * 0.1, space=SPACE)


def test_an_estimate_that_is_unsure_refuses_nothing_but_weights(check, peak):
    _, found = check(peak * 0.6, tables=False, train__micro_batch_size=8)
    assert "the estimate is unsure: rows as long as data.max_length" in found.warnings[-1]
    assert found.memory["micro_batch_size"] is None
    with pytest.raises(ConfigError):
        check(1e5, tables=False)


def test_elsewhere_nobody_knows_the_room(check):
    _, found = check(None, here=False)
    assert found.memory["available_bytes"] is None
    assert " of the " not in found.notes[0]
    assert check(None)[1].memory["available_bytes"] == machine_bytes()


def test_a_model_of_the_hub_is_not_looked_at(check):
    _, found = check(None, model__path="someone/something")
    assert found.memory == {}
    assert any(line.startswith("memory of a trial") for line in found.unseen)


def test_several_workers_share_the_machine_and_the_batch(check):
    one, four = check(None)[1].memory, check(None, resources__workers=4)[1].memory
    assert four["available_bytes"] == one["available_bytes"] // 4
    assert four["parts"]["activations"] < one["parts"]["activations"]


def test_a_gpu_s_room_is_the_card_s_or_its_part(check, monkeypatch):
    monkeypatch.setattr(memory_check, "gpu_bytes", lambda: 80_000_000_000)
    whole = check(None, resources__gpus_per_worker=1)[1].memory
    assert whole["available_bytes"] == 80_000_000_000
    assert check(None, resources__gpus_per_worker=0.5)[1].memory["available_bytes"] == 40_000_000_000
    monkeypatch.setattr(memory_check, "gpu_bytes", lambda: None)
    assert check(None, resources__gpus_per_worker=1)[1].memory["available_bytes"] is None


def test_a_card_is_asked_for_through_its_own_tool(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '81559\\n40960\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    gpu_bytes.cache_clear()
    assert gpu_bytes() == 40960 << 20
    gpu_bytes.cache_clear()
    tool.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert gpu_bytes() is None
    gpu_bytes.cache_clear()


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    file: Path = tmp_path / "memory.max"
    file.write_text("1000000\n")
    monkeypatch.setattr(memory_check, "CGROUP_LIMITS", (str(file),))
    assert machine_bytes() == 1_000_000
    file.write_text("max\n")
    assert machine_bytes() > 1_000_000


def test_room_is_what_the_configuration_says_first(tree):
    from rankray.config import config_from

    assert room_of(config_from(tree(resources__memory_gb=3)), trains_here=False).size == 3_000_000_000


def test_a_model_of_the_hub_is_estimated_where_it_is_in_the_cache(check, tree, tmp_path, monkeypatch):
    """As in a directory, its data not read; the hub is not asked, and a part of a model is none."""
    import shutil

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    local = check(1e12, tables=False)[1].memory
    assert check(1e12, model__path="org/small")[1].unseen == [
        "memory of a trial: the model's shape is not known on this machine"
    ]
    place = tmp_path / "hub" / "models--org--small"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("c" * 40)
    shutil.copytree(tree()["model"]["path"], place / "snapshots" / ("c" * 40))
    for revision in (None, "main", "c" * 40):
        assert check(1e12, model__path="org/small", model__revision=revision)[1].memory == local
    assert not check(1e12, model__path="org/small", model__revision="other")[1].memory
    index = place / "snapshots" / ("c" * 40) / "model.safetensors.index.json"
    (index.parent / "model.safetensors").rename(index.parent / "a.safetensors")
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}))
    shape_at.cache_clear()
    assert not check(1e12, model__path="org/small")[1].memory


@pytest.mark.parametrize(
    ("size", "said"),
    [(7e11, "700 GB"), (1.2e10, "12 GB"), (9.96e9, "10 GB"), (1.25e9, "1.2 GB"), (2.4e7, "24 MB"), (4.5e5, "0.45 MB")],
)
def test_sizes_are_read_without_exponents(size, said):
    assert gigabytes(int(size)) == said


def test_the_largest_batch_is_split_at_once(check):
    """Its parts are looked for among its divisors, not among all smaller numbers."""
    split, findings = check(1e9, train__batch_size=2**31 - 2)
    assert (2**31 - 2) % split.config.train.micro_batch_size == 0
    assert any("would not fit, so" in line for line in findings.notes)
