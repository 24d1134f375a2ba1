"""Errors name the page that explains them, and every page and heading they name exists."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from rankray import errors
from rankray.config import all_fields
from rankray.report.help import KINDS, SUBJECTS, TROUBLES, anchor, explained_by

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def headings(page):
    return {anchor(line.lstrip("# ")) for line in page.splitlines() if re.match("#+ ", line)}


def test_every_page_and_heading_exists():
    there = {page.name: headings(page.read_text(encoding="utf-8")) for page in DOCS.glob("*.md")}
    for named in [*SUBJECTS.values(), *KINDS.values()]:
        page, _, heading = named.partition("#")
        assert not heading or heading in there[page], named
        assert page in there
    told = there["troubleshooting.md"] - {anchor('When it says "error"')}
    assert set(TROUBLES.values()) == told, "each error of the page is known, and each known one is on the page"


def test_every_field_is_on_the_page_that_is_made_from_the_schema():
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {anchor(path) for path in all_fields()} <= headings(module.configuration())


def test_the_anchors_are_those_of_the_site():
    toc = pytest.importorskip("markdown.extensions.toc", reason="mkdocs is not installed (pip install 'rankray[docs]')")
    for text in ["The merged model's logits differ", "`train.learning_rate`", 'When it says "error"', "A  b - c"]:
        assert anchor(text) == toc.slugify(text, "-")


def test_each_error_of_the_page_is_still_raised():
    """Its fragment stands in the source, between the values of one message."""
    said = set()
    for module in (ROOT / "rankray").rglob("*.py"):
        if module.name != "help.py":
            tree = ast.parse(module.read_text(encoding="utf-8"))
            said |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    texts = [text for text in said if isinstance(text, str)]
    assert [fragment for fragment in TROUBLES if not any(fragment in text for text in texts)] == []


@pytest.mark.parametrize(
    ("error", "page"),
    [
        (errors.ConfigError("f.yaml:3: train.learning_rte: unknown key"), "docs/troubleshooting.md#unknown-key"),
        (errors.ConfigError("f.yaml:3: train.learning_rate: got 'x'; allowed"), "rankray explain train.learning_rate"),
        (errors.ConfigError("--set study.trials=x: study.trials: got 'x'"), "rankray explain study.trials"),
        (errors.ModelError("f.yaml:2: model.path: no directory 'm'"), "rankray explain model.path"),
        (errors.CheckpointDamaged("runs/step-1", "cut"), "docs/troubleshooting.md#a-checkpoint-is-damaged"),
        (errors.UserError("confirm: s: a search still runs, on h"), "docs/confirm.md"),
        (errors.DataError("rows.jsonl:3: not JSON"), "docs/data.md"),
        (errors.StoreUnavailable("no answer"), "docs/store.md"),
        (errors.ConfigError("no such thing"), ""),
    ],
)
def test_an_error_leads_to_its_page(error, page):
    assert explained_by(error) == page
