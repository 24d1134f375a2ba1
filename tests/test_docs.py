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


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    named = set(re.findall(r": ([\w-]+\.md)$", nav, re.MULTILINE))
    assert named == {page.name for page in (ROOT / "docs").glob("*.md")} | {"configuration.md", "verbs.md"}


def test_pictures_are_there_and_small():
    pictures = [ROOT / "docs" / "bounds.svg", *(ROOT / "docs" / "pictures").iterdir()]
    assert all(picture.stat().st_size < 300_000 for picture in pictures)
    shown = {
        picture
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for picture in re.findall(r"!\[[^]]*\]\((?:docs/)?([\w/.-]+)\)", page.read_text(encoding="utf-8"))
    }
    assert {f"pictures/{each.name}" for each in (ROOT / "docs" / "pictures").iterdir()} <= shown


def test_the_pictures_of_the_formulas_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("formulas", ROOT / "benchmarks" / "formulas.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["formulas"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    for name, make in module.DRAWINGS.items():
        kept = (ROOT / "docs" / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
        assert numbers(module.svg(make())) == pytest.approx(numbers(kept), abs=0.2), "python benchmarks/formulas.py"


def numbers(text):
    return [float(each) for each in re.findall(r"-?\d+\.?\d*", text)]
