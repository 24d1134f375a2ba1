"""The rules of the house as failing tests."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rankray"
MODULES = sorted(PACKAGE.rglob("*.py"))
LAYERS = {  # who may import whom, beside themselves, contracts and errors
    "config": set(),
    "loss": set(),
    "store": {"config", "storage"},
    "finetune": {"loss", "config"},
    "search": {"finetune", "store", "config", "storage"},
    "report": {"config", "store"},
}
OWNERS = {  # libraries that only these parts may import
    "ray": {"search"},
    "optuna": {"store"},
    "transformers": {"finetune", "world.py", "quickstart.py"},
    "trl": {"finetune"},
    "torch": {"loss", "finetune", "world.py", "quickstart.py"},
    "typer": {"cli.py", "store_cli.py", "cluster_cli.py"},
}


def part(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0]


def imports(module: Path) -> set[str]:
    """Return every module a file imports, anywhere in it, outside `if TYPE_CHECKING`."""
    tree = ast.parse(module.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_no_file_is_over_400_lines(module):
    assert len(module.read_text().splitlines()) <= 400


def test_the_median_file_is_small():
    lengths = sorted(len(module.read_text().splitlines()) for module in MODULES if module.stat().st_size)
    assert lengths[len(lengths) // 2] <= 170


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_imports_point_one_way(module):
    mine = part(module)
    if mine not in LAYERS:
        return
    theirs = {name.split(".")[1] for name in imports(module) if name.startswith("rankray.")}
    assert theirs - {mine, "contracts", "errors", "__version__"} <= LAYERS[mine]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_each_library_has_its_owner(module):
    for library in {name.split(".")[0] for name in imports(module)} & OWNERS.keys():
        assert part(module) in OWNERS[library], f"{library} is not imported in {part(module)}"


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the names of heavy libraries it loaded."""
    probe = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1])) & {"torch", "ray", "transformers", "optuna", "datasets", "trl"}


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import rankray, rankray.cli", set()),
        ("import rankray.config, rankray.report.explain, rankray.report.tables", set()),
        ("import rankray.finetune.preflight, rankray.loss, rankray.finetune, rankray.search, rankray.store", set()),
        ("from rankray.store import attach, open_study, views", {"optuna"}),
        ("from rankray.loss import weighted_nll", {"torch"}),
    ],
)
def test_light_things_stay_light(code, allowed):
    assert loaded_by(code) <= allowed


def test_every_public_name_resolves():
    import rankray

    assert all(getattr(rankray, name) is not None for name in rankray.__all__)
    assert rankray.__all__ == sorted(rankray.__all__)


def test_every_configuration_field_is_documented():
    from rankray.config.schema import Config
    from rankray.report.explain import _walk

    bare = [path for path, field in _walk(Config, "") if not field.description]
    assert bare == []


def test_every_module_says_what_it_is():
    assert [m for m in MODULES if m.stat().st_size and not ast.get_docstring(ast.parse(m.read_text()))] == []


def test_tests_mirror_the_package():
    names = {module.stem for module in MODULES}
    mirrored = {p.stem.removeprefix("test_") for p in (ROOT / "tests").glob("*/test_*.py")}
    known_whole = {"kills", "accounting", "resume", "trace", "bad_input", "traps", "real", "workers"}
    known_whole |= {"conformance", "outage", "secrets"}
    assert mirrored - names - known_whole == set()


def test_every_package_is_shipped():
    """The wheel lists its packages by name, because search_spaces/ lies beside the package."""
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {".".join(m.parent.relative_to(ROOT).parts) for m in MODULES if m.name == "__init__.py"}
    assert listed == there | {"rankray.search_spaces"}


def test_no_path_of_one_machine_in_the_tree():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    pattern = re.compile(r"/(?:home|Users)/\w+/|/roo[t]/\.")
    assert [name for name in tracked if pattern.search((ROOT / name).read_text(errors="ignore"))] == []


def test_search_spaces_open_with_their_question():
    for file in (ROOT / "search_spaces").glob("*.yaml"):
        head = file.read_text().splitlines()
        assert head[0].startswith("#"), file.name
        assert "?" in "".join(line for line in head if line.startswith("#")), file.name
