"""What is in the wheel, read from pyproject.toml and the tree; `.ci/wheel` installs one and runs it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rankray.config import load_config
from rankray.finetune.preflight import preflight
from rankray.setup.shipped import recipes

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPES = sorted((ROOT / "search_spaces" / "recipes").glob("*.yaml"))


def plain(name):
    """A package's name as an index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_file_beside_the_package_is_shipped():
    mapped = PROJECT["tool"]["setuptools"]["package-dir"]
    for package, directory in mapped.items():
        patterns = PROJECT["tool"]["setuptools"]["package-data"][package]
        shipped = {file for pattern in patterns for file in (ROOT / directory).glob(pattern)}
        there = {file for file in (ROOT / directory).rglob("*") if file.is_file() and "__pycache__" not in file.parts}
        assert there == {file for file in shipped if file.is_file()}, directory


def test_majors_of_what_changes_often_have_a_ceiling():
    for name, major in (("ray", 3), ("trl", 2), ("transformers", 6), ("optuna", 6)):
        [line] = [text for text in PROJECT["project"]["dependencies"] if re.match(rf"{name}\b", text)]
        assert line.endswith(f",<{major}"), line


def test_constraints_meet_the_floors():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {plain(name): version for name, version in (line.split("==") for line in lines if "==" in line)}
    for line in PROJECT["project"]["dependencies"]:
        name, floor = re.match(r"([\w.-]+)(?:\[.*?\])?>=([\d.]+)", line).groups()
        version = pinned.get(plain(name), floor)
        assert [int(part) for part in version.split(".")[:2]] >= [int(part) for part in floor.split(".")[:2]], line


def test_urls_name_no_host_that_is_not_the_projects():
    assert all(url.startswith("https://arxiv.org/") for url in PROJECT["project"]["urls"].values())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_recipes_open_with_their_question_and_pass_the_checks(recipe, monkeypatch):
    """Offline: data and model are on the hub, and are not asked for."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    head = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    assert "?" in head[0]
    assert any(line.startswith("# Needs: ") for line in head)
    preflight(load_config(recipe))


def test_recipes_are_found():
    assert sorted(recipes().glob("*.yaml")) == RECIPES
    assert len(RECIPES) >= 6


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_shells(shell):
    # Typer looks for the shell among the parent processes, unless it is told not to: then the option takes its name.
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    words = [sys.executable, "-m", "rankray", "--show-completion", shell]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert "complet" in done.stdout.lower()
