"""What a newcomer asks first: `rankray preview`, `rankray init` and `rankray import`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from rankray.cli.common import console, load, say
from rankray.cli.options import NONE, File, Json, Sets, Verbose

if TYPE_CHECKING:
    from rankray.finetune.preview import Preview

OPENS, CLOSES = "«", "»"
"""Around what is trained on, where there is no colour."""


def preview(
    file: File,
    rows: Annotated[int, typer.Option(min=1, help="Examples shown.")] = 3,
    split: Annotated[str, typer.Option(help="train or eval.")] = "train",
    sets: Sets = NONE,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show the first examples as the model will see them: text with what is trained on marked, tokens, lengths."""
    from rankray import logs
    from rankray.errors import ConfigError, nearest

    logs.configure(verbose)
    loaded = load(file, sets)
    splits = [name for name in ("train", "eval", "test") if getattr(loaded.config.data, name, None) is not None]
    if split not in splits:
        raise ConfigError(f"--split: got {split!r}{nearest(split, splits)}; allowed: {', '.join(splits)}; choose one")
    from rankray.finetune.preview import preview as preview_split

    found = preview_split(loaded, split, rows)
    if as_json:
        print(json.dumps(found.as_json()))
        return
    _print(found)


def _print(found: Preview) -> None:
    from rich.text import Text

    from rankray.data.lengths import table_lines

    screen = console()
    coloured = screen.color_system is not None
    for source, form in found.formats.items():
        say(f"data.{found.split}: {source}: format {form}")
    say(f"EOS token: {found.eos or 'none'}")
    if found.template:
        say(f"chat template: {' '.join(found.template.split())[:200]}")
    for row in found.rows:
        shown = row.as_json()
        cut = f", {shown['cut_tokens']} cut" if shown["cut_tokens"] else ""
        stop = "ends with a stop token" if row.ends_with_stop_token else "does not end with a stop token"
        say(f"\n{row.place}: {shown['tokens']} tokens, {shown['supervised']} trained on{cut}; {stop}")
        if coloured:
            screen.print(Text.assemble(*((text, "bold green" if trained else "dim") for text, trained in row.pieces)))
        else:
            say("".join(f"{OPENS}{text}{CLOSES}" if trained else text for text, trained in row.pieces))
        say(f"ids: {_ids(row.ids, row.labels)}")
    say("")
    for line in table_lines({f"data.{found.split}": found.table}):
        say(line)


def _ids(ids: list[int], labels: list[int]) -> str:
    """Return token ids with marks around those that are trained on."""
    words = []
    trained = [label == token for token, label in zip(ids, labels, strict=True)]
    for index, token in enumerate(ids):
        opens = trained[index] and (index == 0 or not trained[index - 1])
        closes = trained[index] and (index + 1 == len(ids) or not trained[index + 1])
        words.append(f"{OPENS if opens else ''}{token}{CLOSES if closes else ''}")
    return " ".join(words)
