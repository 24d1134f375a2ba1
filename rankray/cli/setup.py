"""What a newcomer asks first: `rankray preview`, `rankray init` and `rankray import`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankray.cli.common import check_output, console, load, print_json, say
from rankray.cli.options import NONE, File, Json, Sets, Verbose
from rankray.cli.output import put

if TYPE_CHECKING:
    from rankray.finetune.preview import Preview

OPENS, CLOSES = "«", "»"
"""Around what is trained on, where there is no colour."""
TEMPLATE = r"Template over columns, where they are not recognised; \n is a new line."


def preview(
    file: File,
    rows: Annotated[int, typer.Option(min=1, help="Examples shown.")] = 3,
    split: Annotated[str, typer.Option(help="train, eval, or test where there is data.test.")] = "train",
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
        print_json(found.as_json())
        return
    _print(found)


def init(
    model: Annotated[str, typer.Option(help="Hub id or directory of the model. Asked for if not given.")] = "",
    data: Annotated[
        list[str],
        typer.Option(
            help="Training data: file, directory, pattern or hub-id:config:split; repeatable. Else asked for."
        ),
    ] = NONE,
    held_out: Annotated[
        list[str],
        typer.Option("--eval", help="Held-out data; repeatable. Without it some of the training data are set aside."),
    ] = NONE,
    metric: Annotated[str, typer.Option(help="nll, or accuracy of generated answers. Asked for if not given.")] = "",
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("search.yaml"),
    prompt: Annotated[str | None, typer.Option(help=TEMPLATE)] = None,
    completion: Annotated[str | None, typer.Option(help=TEMPLATE)] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train adapters instead of all weights.")] = False,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs per trial; else one where there is one.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Finished trials of the search.")] = 32,
    cluster: Annotated[
        str, typer.Option(help="Write a cluster file (and nothing else, unless --data is given): aws, gcp, azure, ...")
    ] = "",
) -> None:
    """Make a first configuration from four answers, or from flags; `check` accepts it for the data it was shown."""
    from rankray.errors import ConfigError

    if cluster:
        from rankray.setup.shipped import write_cluster

        say(f"wrote {write_cluster(cluster, output.parent)}; docs/clusters.md says what to change in it")
        if not data:
            return
    missing = [name for name, value in (("--model", model), ("--data", data)) if not value]
    asks = sys.stdin.isatty()
    if missing and not asks:
        raise ConfigError(
            f"init: {' and '.join(missing)} missing, and there is no terminal to ask at; allowed are the flags of "
            "`rankray init --help`; give them"
        )
    model = model or _answer("1. Which model? (hub id or directory)")
    data = data or _answer("2. Which data to train on? (files, patterns or hub-id:config:split)").split()
    if missing and not held_out:
        held_out = _answer("3. Which data to measure on? (empty: set some aside)", default="").split()
    if missing and not metric:
        metric = _answer("4. What counts: nll, or accuracy of generated answers?", default="nll")
    from rankray.setup.starter import Answers, start

    check_output(None if output.exists() else output, "init: --output")
    answers = Answers(
        model=model,
        train=data,
        eval=held_out,
        metric=metric or "nll",
        prompt=_typed(prompt),
        completion=_typed(completion),
        lora=lora,
        gpus=gpus,
        trials=trials,
    )
    start(answers, output, say)
    file = shlex.quote(str(output))
    say(f"look at the data: rankray preview {file}\nsearch: rankray search {file}")


def _answer(question: str, default: str | None = None) -> str:
    """Ask at the terminal; Ctrl-C and the end of the input leave, and nothing was written."""
    try:
        return str(typer.prompt(question, default=default, show_default=bool(default)))
    except typer.Abort:
        say("\nstopped; nothing was written", to_stderr=True)
        raise typer.Exit(130) from None


def import_file(
    file: Annotated[Path, typer.Argument(help="YAML of a TRL script, LLaMA-Factory or Axolotl.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; else it is printed.")
    ] = None,
    held_out: Annotated[str, typer.Option("--eval", help="Held-out data, where the file names none.")] = "",
) -> None:
    """Turn another tool's configuration into one of rankray's, with a note for each thing that has no counterpart."""
    from rankray.errors import ConfigError
    from rankray.report.write import write
    from rankray.setup.foreign import convert, text_of

    if output is not None and output.exists():
        raise ConfigError(f"import: {str(output)!r} exists; allowed is a new file; remove it, or give another")
    check_output(output, "import: --output")
    config, notes, tool = convert(file, held_out)
    text = text_of(config, notes, tool, file)
    for note in notes:
        say(f"note: {note}", to_stderr=True)
    if output is None:
        put(text.encode())
        return
    write(text.encode(), output, "import: --output")
    say(f"{tool}: wrote {output}; look: rankray check {shlex.quote(str(output))}")


def _times(weight: float) -> str:
    """Return how a piece's weight is written after it; nothing for 1."""
    return "" if weight == 1.0 else f"×{weight:g}"


def _coloured(pieces: list[tuple[str, float]]) -> Iterator[tuple[str, str]]:
    for text, weight in pieces:
        yield text, "bold green" if weight else "dim"
        if weight and _times(weight):
            yield _times(weight), "yellow"


def _typed(template: str | None) -> str | None:
    """Return a template as it was meant: a shell leaves the backslash and the n of a new line as they are."""
    return None if template is None else template.replace("\\n", "\n")


def _print(found: Preview) -> None:
    from rich.text import Text

    from rankray.data.lengths import table_lines
    from rankray.errors import listed

    screen = console()
    coloured = screen.color_system is not None
    for source, form in found.formats.items():
        unused = found.unused.get(source)
        say(
            f"data.{found.split}: {source}: format {form}" + (f"; columns not used: {listed(unused)}" if unused else "")
        )
    say(f"EOS token: {found.eos or 'none'}")
    if found.template:
        say(f"chat template: {' '.join(found.template.split())[:200]}")
    for row in found.rows:
        shown = row.as_json()
        cut = f", {shown['cut_tokens']} cut" if shown["cut_tokens"] else ""
        stop = "ends with a stop token" if row.ends_with_stop_token else "does not end with a stop token"
        say(f"\n{row.place}: {shown['tokens']} tokens, {shown['supervised']} trained on{cut}; {stop}")
        if coloured:
            screen.print(Text.assemble(*_coloured(row.pieces)))
        else:
            say("".join(f"{OPENS}{text}{CLOSES}{_times(w)}" if w else text for text, w in row.pieces))
        say(f"ids: {_ids(row.ids, row.labels)}")
    say("")
    for line in table_lines({f"data.{found.split}": found.table}):
        say(line)
    if found.left_out.count:
        say(found.left_out.line(f"data.{found.split}"))


def _ids(ids: list[int], labels: list[int]) -> str:
    """Return token ids with marks around those that are trained on."""
    words = []
    trained = [label == token for token, label in zip(ids, labels, strict=True)]
    for index, token in enumerate(ids):
        opens = trained[index] and (index == 0 or not trained[index - 1])
        closes = trained[index] and (index + 1 == len(ids) or not trained[index + 1])
        words.append(f"{OPENS if opens else ''}{token}{CLOSES if closes else ''}")
    return " ".join(words)
