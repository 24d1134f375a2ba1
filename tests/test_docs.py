"""The documentation's pages: those made from the code have everything, and the site builds without a warning."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_field_and_every_command(reference):
    from rankray.config import all_fields

    page = reference.configuration()
    for path, field in all_fields().items():
        assert f"\n### `{path}`\n" in page
        assert " ".join(reference.escaped(field.description).split()) in " ".join(page.split())
    assert "`float, above 0; default 1.0`" in page
    verbs = reference.verbs()
    for words in ("## `rankray search`", "## `rankray store copy`", "| `--set` |", "| `[N] DIR` |"):
        assert words in verbs


def test_every_command_that_a_page_names_exists(reference):
    there = set(re.findall(r"^## `rankray ([a-z]+)", reference.verbs(), re.MULTILINE))
    for page in (ROOT / "docs").glob("*.md"):
        named = set(re.findall(r"`rankray ([a-z]+)", page.read_text(encoding="utf-8")))
        assert named <= there | {"store"}, page.name


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (pip install 'rankray[docs]')")
    pytest.importorskip("material", reason="mkdocs-material is not installed (pip install 'rankray[docs]')")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "configuration" / "index.html").is_file()
