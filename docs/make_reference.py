"""The two pages of the documentation that are made from the code while the site is built: configuration and commands.

A hook of mkdocs (`hooks:` in mkdocs.yml). Nothing of it is kept in the repository, so nothing can be out of date.
"""

from __future__ import annotations

from typing import Any

import typer

from rankray.cli.app import app
from rankray.config import all_fields
from rankray.report.explain import explain_lines


def configuration() -> str:
    """Return the page of every field: what is allowed, its default, what it means."""
    parts = [
        "# Configuration\n",
        "Every field of a YAML file, as `rankray explain FIELD` shows it. A field's dotted path is its name in the "
        "file and with `--set`, in `space:`, in the store and in logs.\n",
    ]
    section = None
    for path in all_fields():
        first = path.split(".")[0] if "." in path else ""
        if first != section:
            section = first
            parts.append(f"## {f'`{first}:`' if first else 'The file itself'}\n")
        head, text = explain_lines(path)[:2]
        allowed = head.removeprefix(f"{path}: ")
        parts.append(f"### `{path}`\n\n`{allowed}`\n\n{escaped(text.strip())}\n")
    return "\n".join(parts)


def verbs() -> str:
    """Return the page of every command with its arguments and options."""
    root: Any = typer.main.get_command(app)
    parts = ["# Commands\n", "Exit codes: 0 done; 1 the search ran and failed; 2 bad input; 130 interrupted.\n"]
    for name, command in root.commands.items():
        parts += _verb(f"rankray {name}", command)
    return "\n".join(parts)


def _verb(name: str, command: Any) -> list[str]:
    if hasattr(command, "commands"):
        return [part for each, inner in command.commands.items() for part in _verb(f"{name} {each}", inner)]
    shown = [f"## `{name}`\n", f"{escaped(' '.join((command.help or '').split()))}\n"]
    rows = [
        (" ".join(each.opts) if each.opts[0].startswith("-") else (each.metavar or each.name.upper()), each.help or "")
        for each in command.params
    ]
    table = "\n".join(f"| `{given}` | {escaped(' '.join(text.split()))} |" for given, text in rows)
    return [*shown, f"| argument | meaning |\n|---|---|\n{table}\n"] if rows else shown


def escaped(text: str) -> str:
    """Return a docstring as Markdown: outside of code, angle brackets and bars are text."""
    parts = text.split("`")
    for index in range(0, len(parts), 2):
        parts[index] = parts[index].replace("<", "&lt;").replace("|", "&#124;")
    return "`".join(parts)


PAGES = {"configuration.md": configuration, "verbs.md": verbs}


def on_files(files: Any, config: Any) -> Any:
    """Add the made pages to the site: what mkdocs calls when it has collected its files."""
    from mkdocs.structure.files import File

    for name, make in PAGES.items():
        files.append(File.generated(config, name, content=make()))
    return files
