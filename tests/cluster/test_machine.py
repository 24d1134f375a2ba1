"""A trial that this machine could never start is refused before a Ray is."""

import json
import re

import pytest
import yaml

from rankray.cluster import machine
from rankray.cluster.machine import check_machine
from rankray.config import load_config
from rankray.errors import ConfigError


@pytest.fixture
def check(tmp_path, monkeypatch):
    def go(cpus=4, gpus=0, starts=True, **resources):
        monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": cpus, "GPU": gpus}))
        tree = {
            "name": "s",
            "model": {"path": "a/b"},
            "data": {"train": "a/b:c:train", "eval": "a/b:c:test"},
            "resources": resources,
        }
        file = tmp_path / "search.yaml"
        file.write_text(yaml.safe_dump(tree, sort_keys=False))
        return check_machine(load_config(file), starts)

    return go


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"cpus_per_worker": 5}, r"resources.cpus_per_worker: a trial asks for 5 CPUs, and this machine has 4"),
        ({"cpus_per_worker": 2, "workers": 3}, r"3 workers of 2 CPUs each, .* lower .* or resources.workers, or name"),
        ({"cpus_per_worker": 2, "workers": [3, 4]}, r"3 workers of 2 CPUs each"),
        ({"gpus_per_worker": 3, "gpus": 2}, r"resources.gpus_per_worker: a trial asks for 3 GPUs, .* has 2"),
        ({"gpus_per_worker": 0.6, "workers": 4, "gpus": 2}, r"4 workers of 0.6 GPUs each"),
    ],
)
def test_more_than_there_is(check, resources, said):
    with pytest.raises(ConfigError, match=rf"search.yaml:\d+: .*{said}.* RAY_ADDRESS"):
        check(**resources)
    [warning] = check(**resources, starts=False)
    assert re.search(rf"search.yaml:\d+: .*{said}.* RAY_ADDRESS", warning), "it may be meant for a cluster"


def test_what_fits(check):
    assert check(cpus_per_worker=4) == []
    assert check(cpus_per_worker=2, workers=[2, 8]) == []
    assert check(cpus_per_worker=0.5, workers=8) == []
    assert check(gpus_per_worker=0.5, gpus=1, workers=2) == []


def test_gpus_that_are_not_here_are_a_warning_for_a_cluster_may_have_them(check):
    [warning] = check(gpus_per_worker=1)
    assert "no GPU that could be found" in warning
    assert check(gpus_per_worker=1, gpus=None) == []


def test_this_machine_is_counted_as_ray_counts_it(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_OVERRIDE_RESOURCES", raising=False)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(machine, "QUOTAS", (str(quota),))
    for text, count in (("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("", 8)):
        quota.write_text(text)
        assert machine.cpus() == count
    quota.unlink()
    assert machine.cpus() == 8


def test_gpus_are_those_that_the_process_may_use(monkeypatch, tmp_path):
    said = tmp_path / "nvidia-smi"
    said.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: a)'\necho 'GPU 1: H100 (UUID: b)'\n")
    said.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(machine, "OTHER_ACCELERATORS", ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.gpus() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.gpus() == 0
    said.write_text("#!/bin/sh\nexit 9\n")
    assert machine.gpus() == 0
