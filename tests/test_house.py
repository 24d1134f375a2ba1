"""The rules of the house (CONTRIBUTING.md) as failing tests. They hold for every file: no list of exceptions."""

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
GROUND = {"contracts", "environment", "errors", "logs", "paths", "config", "loss", "quickstart.language"}
"""What everybody may import. Among themselves: `config` and `loss` import `errors` alone."""
ROOMS = {  # room or top-level file -> what it may import beside itself; a room's `__init__` belongs to it
    "__init__": {"errors", "config", "loss", "api", "finetune", "search", "rehearse", "studies"},
    "api": {"cli", "config", "contracts", "errors", "store", "search", "rehearse", "studies"},
    "studies": {"cli", "config", "contracts", "errors", "store", "search", "report"},
    "__main__": {"cli"},
    "contracts": set(),
    "errors": set(),
    "logs": set(),
    "paths": set(),
    "environment": {"errors"},
    "config": {"errors", "paths", "loss.knobs"},
    "loss": {"errors"},
    "analysis": set(),
    "checkpoints": {"contracts", "environment", "errors", "paths"},
    "data": {"config", "errors", "paths", "loss"},
    "model": {"config", "errors", "paths", "loss", "data"},
    "evaluate": {"config", "errors", "paths", "loss", "data", "model"},
    "finetune": {"config", "contracts", "errors", "paths", "checkpoints", "loss", "data", "model", "evaluate"},
    "store": {"config", "contracts", "environment", "errors", "paths", "checkpoints", "__init__"},
    "cluster": {"config", "contracts", "errors", "paths", "checkpoints", "store", "__init__"},
    "search": {
        "config", "contracts", "environment", "errors", "checkpoints", "store", "cluster", "finetune", "logs",
        "analysis",
    },
    "report": {"config", "contracts", "errors", "paths", "analysis"},
    "rehearse": {"config", "contracts", "errors", "store"},
    "quickstart": {"paths"},
    "setup": {"config", "errors", "data", "finetune", "model"},
    "cli": {
        "__init__", "logs", "paths", "config", "contracts", "errors", "checkpoints", "store", "cluster", "search",
        "finetune", "evaluate", "model", "report", "rehearse", "quickstart", "analysis", "data", "setup",
    },
}  # fmt: skip
OWNERS = {  # libraries that only these rooms may import
    "ray": {"search", "cluster"},
    "optuna": {"store"},
    "optuna_dashboard": {"store"},
    "sqlalchemy": {"store"},
    "trl": {"finetune"},
    "accelerate": {"finetune", "model"},
    "peft": {"finetune", "model"},
    "transformers": {"finetune", "evaluate", "model", "data", "quickstart"},
    "datasets": {"finetune", "data"},
    "torch": {"loss", "finetune", "evaluate", "model", "quickstart"},
    "typer": {"cli"},
    "rich": {"report", "cli"},
    "yaml": {"config", "report", "cluster", "setup"},
}
DOORS = {"ray": "cluster/ray_private.py", "optuna": "store/optuna_private.py"}
"""The one file that may use a library's private names."""
HEAVY = {"torch", "ray", "transformers", "optuna", "datasets", "trl"}


def name_of(module: Path) -> str:
    """Return a file's dotted name below `rankray`, such as `store.urls`; `store` for its `__init__`."""
    parts = list(module.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room(name: str) -> str:
    return name.split(".")[0]


NAMES = {name_of(module) for module in MODULES}


def tree_of(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def imports(module: Path) -> set[str]:
    """Return every module a file imports, anywhere in it, outside `if TYPE_CHECKING`."""
    tree = tree_of(module)
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
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            ours = {each for each in submodules if each.removeprefix("rankray.") in NAMES}
            found |= ours | ({node.module} if ours != submodules or not node.module.startswith("rankray") else set())
    return found


def own_imports(module: Path) -> set[str]:
    """Return the names below `rankray` that a file imports; `__init__` stands for the package itself."""
    found = {name for name in imports(module) if name.split(".")[0] == "rankray"}
    return {name.removeprefix("rankray").removeprefix(".") or "__init__" for name in found}


each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))


@each_module
def test_no_file_is_over_400_lines(module):
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_median_file_is_small():
    lengths = sorted(len(module.read_text(encoding="utf-8").splitlines()) for module in MODULES)
    assert lengths[len(lengths) // 2] <= 140


@each_module
def test_imports_point_down_only(module):
    mine = room(name_of(module))
    assert mine in ROOMS, f"{mine} is no room of the house: give it a place in ROOMS and in CONTRIBUTING.md"
    allowed = ROOMS[mine] | {mine}
    wrong = {name for name in own_imports(module) if name not in allowed and room(name) not in allowed}
    assert not wrong, f"{mine} may import {sorted(allowed)}"


def test_contributing_has_every_room_on_its_map():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = ROOMS.keys() - {"__init__", "__main__"}
    assert [name for name in sorted(rooms) if f"`{name}/`" not in text and f"`{name}.py`" not in text] == []


def test_the_rooms_have_an_order():
    """Rooms that import each other in a circle could not be read one after the other."""
    waiting = {name: {room(other) for other in allowed} - {name} for name, allowed in ROOMS.items()}
    waiting["__init__"] = set()  # lazy names only: importing the package imports nothing
    while waiting:
        ready = {name for name, below in waiting.items() if not below & waiting.keys()}
        assert ready, f"a circle among {sorted(waiting)}"
        waiting = {name: below for name, below in waiting.items() if name not in ready}


def test_no_two_files_import_each_other():
    """Imports at the top of files have no circle."""
    graph = {}
    for module in MODULES:
        top = ast.Module([node for node in tree_of(module).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        wanted = {ast.unparse(node) for node in top.body}
        graph[name_of(module)] = {
            name for name in own_imports(module) if name in NAMES and any(name in line for line in wanted)
        } - {name_of(module), "__init__"}
    while graph:
        ready = {name for name, below in graph.items() if not below & graph.keys()}
        assert ready, f"a circle among {sorted(graph)}"
        graph = {name: below for name, below in graph.items() if name not in ready}


@each_module
def test_each_library_has_its_owner(module):
    for library in {name.split(".")[0] for name in imports(module)} & OWNERS.keys():
        assert room(name_of(module)) in OWNERS[library], f"{library} is imported by {sorted(OWNERS[library])} alone"


def private_names(module: Path) -> set[str]:
    """Return the private names of ray and optuna that a file imports or touches."""
    found, imported = set(), imports(module)
    standard = {name for name in imported if name in sys.stdlib_module_names}
    for name in imported:
        library, *parts = name.split(".")
        if library in DOORS and (any(part.startswith("_") for part in parts) or "generated" in parts):
            found.add(name)
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr) and not _is_own(node.value, standard):
            found.add(ast.unparse(node))
    return found


def _is_own(owner: ast.expr, standard: set[str]) -> bool:
    """Whether an attribute with an underscore is a class's own, or documented, such as `os._exit`."""
    return isinstance(owner, ast.Name) and owner.id in {"self", "cls", *standard}


@each_module
def test_private_names_stand_behind_two_doors(module):
    """`self._x` is a class's own; of anything else no underscored name is touched, but in the doors and TRL's seams."""
    if str(module.relative_to(PACKAGE)) in {*DOORS.values(), "finetune/trainer.py"}:
        return
    assert private_names(module) == set()


@each_module
def test_nothing_is_patched_while_users_run(module):
    assert not {name for name in imports(module) if name.startswith(("unittest", "mock"))}


@each_module
def test_what_is_swallowed_leaves_a_line_in_the_log(module):
    """A handler of every exception logs, raises, or hands the exception on."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ExceptHandler) and _catches_everything(node.type):
            text = "\n".join(ast.unparse(each) for each in node.body)
            handed_on = node.name and re.search(rf"\b{node.name}\b", text)
            assert "logger." in text or "raise" in text or handed_on, f"line {node.lineno} swallows without a word"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "suppress":
            assert not any(_catches_everything(each) for each in node.args), f"line {node.lineno}: suppress(Exception)"


def _catches_everything(kind: ast.expr | None) -> bool:
    return kind is None or ast.unparse(kind) in ("Exception", "BaseException")


def test_temporary_directories_are_deleted_for_the_killed():
    """`paths.temporary_directory` deletes what a killed process left; the other two places sweep their own."""
    making = {
        name_of(module)
        for module in MODULES
        if re.search(r"tempfile\.(mkdtemp|TemporaryDirectory)", module.read_text(encoding="utf-8"))
    }
    assert making == {"paths", "cluster.scratch", "search.experiment"}, "use rankray.paths.temporary_directory"


QUAINT = r"mend|mends|mended|mending|weighs|gone on with|go on with|goes on with|on paper|struck off|spoken|the word of"


@pytest.mark.parametrize(
    "file",
    [*MODULES, *ROOT.glob("docs/*.md"), *ROOT.glob("*.md"), *ROOT.glob("search_spaces/*.yaml")],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_plain_english(file):
    """The glossary in CONTRIBUTING.md says which word is used for what; it may name the old words."""
    lines = file.read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("| ")] if file.name == "CONTRIBUTING.md" else lines
    assert [line for line in lines if re.search(rf"\b({QUAINT})\b", line, re.IGNORECASE)] == []


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the names of heavy libraries it loaded."""
    probe = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1])) & HEAVY


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import rankray, rankray.cli.app", set()),
        ("import rankray.config, rankray.report.explain, rankray.report.tables, rankray.report.rehearsals", set()),
        ("import rankray.rehearse.summary, rankray.rehearse.table, rankray.rehearse.surrogates", set()),
        ("import rankray.finetune.passed, rankray.loss, rankray.finetune, rankray.search, rankray.store", set()),
        ("from rankray.store import attach, open_study, views", {"optuna"}),
        ("import rankray.search.confirm, rankray.report.confirmation, rankray.analysis.verdict", {"optuna"}),
        ("from rankray.loss import weighted_nll", {"torch"}),
        ("import rankray.search.actor", {"ray"}),
    ],
)
def test_light_things_stay_light(code, allowed):
    assert loaded_by(code) <= allowed


def test_every_public_name_resolves():
    import rankray

    assert all(getattr(rankray, name) is not None for name in rankray.__all__)
    assert rankray.__all__ == sorted(rankray.__all__)


def test_every_configuration_field_is_documented():
    from rankray.config import all_fields

    bare = [path for path, field in all_fields().items() if not field.description]
    assert bare == []


def test_every_module_says_what_it_is():
    assert [module for module in MODULES if not ast.get_docstring(tree_of(module))] == []


def test_tests_mirror_the_package():
    """`tests/<room>/test_<file>.py` tests `rankray/<room>/<file>.py`; what tests a room as a whole says so."""
    for test in (ROOT / "tests").glob("*/test_*.py"):
        mirrored = PACKAGE / test.parent.name / f"{test.stem.removeprefix('test_')}.py"
        first_line = (ast.get_docstring(tree_of(test)) or "").splitlines()[:1]
        assert mirrored.is_file() or first_line[0].startswith("Whole: "), test


def test_every_package_is_shipped():
    """The wheel lists its packages by name, because search_spaces/ and cluster/ lie beside the package."""
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {".".join(module.parent.relative_to(ROOT).parts) for module in MODULES if module.name == "__init__.py"}
    assert listed == there | {"rankray.search_spaces", "rankray.cluster_files"}


def test_no_path_of_one_machine_in_the_tree():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    pattern = re.compile(r"/(?:home|Users)/\w+/|/roo[t]/\.")
    there = [ROOT / name for name in tracked if (ROOT / name).is_file()]
    assert [file for file in there if pattern.search(file.read_text(errors="ignore"))] == []


def test_search_spaces_open_with_their_question():
    for file in (ROOT / "search_spaces").glob("*.yaml"):
        head = file.read_text().splitlines()
        assert head[0].startswith("#"), file.name
        assert "?" in "".join(line for line in head if line.startswith("#")), file.name
