"""The arguments and options that several verbs share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(help="The YAML configuration.", show_default=False)]
Study = Annotated[str, typer.Argument(help="The study's name.", show_default=False)]
Sets = Annotated[list[str], typer.Option("--set", metavar="PATH=VALUE", help="Override a field; repeatable.")]
Store = Annotated[str, typer.Option("--store", metavar="URL", help="Store URL; replaces the file's and RANKRAY_STORE.")]
Name = Annotated[str, typer.Option("--name", help="Study name; replaces the file's.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the debug log, and what Ray and the libraries print.")]
NONE: list[str] = []
