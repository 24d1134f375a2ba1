"""`rankray export`: a trial's model as a directory that others load, and as a repository on the hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankray.cli.checkpoints import fetched, place_of
from rankray.cli.common import attached, check_directory, say
from rankray.cli.options import Store, Study
from rankray.errors import shown
from rankray.paths import temporary_directory

if TYPE_CHECKING:
    from rankray.store import StudyStore


def export(
    study: Study,
    words: Annotated[
        list[str],
        typer.Argument(metavar="[N] DIR", help="A trial (the confirmed one, else the best) and a new directory."),
    ],
    store: Store = "",
    merge: Annotated[bool, typer.Option("--merge", help="Add LoRA adapters to the base model's weights.")] = False,
    push_to_hub: Annotated[
        str, typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Upload it as a model repository too.")
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; it is private.")] = False,
    code: Annotated[
        bool, typer.Option("--code", help="Allow model.trust_remote_code, which the store asks for.")
    ] = False,
) -> None:
    """Write the model of a trial: weights, tokenizer, a model card, and the configuration that trains it again."""
    given, directory = _arguments(words)
    _check_repository(push_to_hub, public)
    number = exported(attached(store, study), directory, given, merge=merge, name=push_to_hub, code=code)
    say(f"exported trial {number} of {study} to {directory}")
    say(f"load it with: AutoModelForCausalLM.from_pretrained({str(directory)!r})")
    if push_to_hub:
        from rankray.model.hub import push

        say(f"pushed to {push(directory, push_to_hub, private=not public)}")


def exported(
    held: StudyStore, directory: Path, number: int | None, *, merge: bool = False, name: str = "", code: bool = False
) -> int:
    """Write the model of a trial to a new or empty directory, and return the trial's number.

    Args:
        held: the study.
        directory: absolute; it appears when it is complete.
        number: None takes the confirmed trial, else the best.
        merge: add LoRA adapters to the base model's weights.
        name: of the model, on its card; empty takes the directory's.
        code: allow `model.trust_remote_code`, which the store asks for.

    Raises:
        StoreError: the trial has no checkpoint that can be exported, or it asks for code.
        UserError: the directory is in use.
    """
    from rankray.store import views

    _refuse_used(directory)
    _refuse_code(held.config.model.trust_remote_code and not code)
    trial = views.trial(held, _number(held, number))
    checkpoint = place_of(held, trial, "export")
    check_directory(directory.parent, "export: DIR in")
    with temporary_directory(f".{directory.name}-exported-", directory.parent) as scratch:
        made = scratch / "model"
        _write(held, trial, fetched(checkpoint, scratch), made, merge=merge, name=name or directory.name)
        if directory.exists():
            directory.rmdir()
        os.replace(made, directory)
    return int(trial["number"])


def _arguments(words: list[str]) -> tuple[int | None, Path]:
    """Return the trial that was given, if one was, and the directory to make.

    Raises:
        UserError: they are neither DIR nor N DIR.
    """
    from rankray.errors import UserError

    if len(words) > 2 or (len(words) == 2 and not words[0].isdecimal()):
        raise UserError(
            f"export: got {' '.join(words)!r} after the study; allowed: DIR, or a trial's number and DIR; give one "
            "of them"
        )
    return (int(words[0]) if len(words) == 2 else None), Path(words[-1]).absolute()


def _refuse_used(directory: Path) -> None:
    from rankray.errors import UserError

    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"export: {directory} is there and not empty; allowed: a new or an empty directory; give one")


def _check_repository(name: str, public: bool) -> None:
    """Refuse a name that no repository can have, before a model is written, and `--public` without one.

    Raises:
        UserError: the name is none, or there is none.
    """
    from rankray.errors import UserError

    if not name:
        if public:
            raise UserError(
                "export: --public without --push-to-hub changes nothing; allowed: beside it; add --push-to-hub "
                "OWNER/NAME, or leave it out"
            )
        return
    from rankray.model.hub import name_problem

    if problem := name_problem(name):
        raise UserError(f"export: --push-to-hub {shown(name)}: {problem}; allowed: owner/name; correct it")


def _number(held: StudyStore, given: int | None) -> int:
    from rankray.errors import StoreError
    from rankray.store import views

    if given is not None:
        return given
    found = views.recommended(held)
    if found is None:
        raise StoreError(
            f"export: study {held.name} has no complete trial yet; allowed: a trial with a checkpoint; wait, or give "
            "its number"
        )
    return int(found["number"])


def _refuse_code(asked: bool) -> None:
    if asked:
        from rankray.errors import StoreError

        raise StoreError(
            "export: model.trust_remote_code is true in the store: code that comes with the model would run; allowed: "
            "to pass it on knowingly; read that code, then add --code"
        )


def _write(
    held: StudyStore, trial: dict[str, Any], checkpoint: Path, directory: Path, *, merge: bool, name: str
) -> None:
    from rankray.cli.lineage import base_has_changed
    from rankray.config.lenient import params_of
    from rankray.errors import StoreError
    from rankray.model.export import export_model, is_adapter
    from rankray.report.explain import best_yaml
    from rankray.report.model_card import model_card
    from rankray.store.overview import overview

    config = params_of(held.config, trial["params"])
    if merge and base_has_changed(held, config, "export"):
        raise StoreError(
            f"export: --merge: the base model {config.model.path!r} has changed since study {held.name} was made, and "
            "merged with it the adapters give another model; allowed: the model it had; bring it back, or leave "
            "--merge out"
        )
    try:
        rounded = export_model(checkpoint, directory, config, merge=merge)
        card = model_card(overview(held), trial, adapter=is_adapter(directory), name=name, rounded=rounded)
        (directory / "README.md").write_text(card, encoding="utf-8")
        (directory / "rankray.yaml").write_text(best_yaml(held.config, trial["params"]), encoding="utf-8")
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
