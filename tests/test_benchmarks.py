"""What the benchmarks use of rankray is there: they are run by hand, and nothing else would notice that one broke."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_every_name_that_is_imported_is_there(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rankray":
            module = importlib.import_module(node.module)
            for each in node.names:
                if not hasattr(module, each.name):
                    importlib.import_module(f"{node.module}.{each.name}")


def test_the_hooks_of_overhead_note_every_report(tree, tmp_path):
    """They stand in for functions of a trial, and have to take what these take."""
    file, notes = tmp_path / "search.yaml", tmp_path / "notes"
    given = tree(train__max_steps=2, evaluate__every_steps=1)
    given["evaluate"]["functions"] = ["overhead_hooks:note"]
    file.write_text(yaml.safe_dump(given))
    paths = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "rankray", "train", str(file)],
        env={**os.environ, "PYTHONPATH": paths, "RANKRAY_NOTES": str(notes)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    noted = [json.loads(line) for line in notes.read_text().splitlines()]
    assert [each["step"] for each in noted][-2:] == [1, 2]
    assert noted[-1]["training_seconds"] > 0
    assert noted[-1]["evaluation_seconds"] > 0
