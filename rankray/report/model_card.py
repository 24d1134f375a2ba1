"""The model card of an exported trial: what it is, how good and how sure that is, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankray.report.board import short_value
from rankray.report.figures import metrics_among, with_error
from rankray.report.markdown import plain
from rankray.report.sections import verdict

Row = Mapping[str, Any]
_ROUNDED = "They are those of the trial, whose adapters were then added to the base model's weights and rounded to {}."
DATA_FILES = (".jsonl", ".json", ".parquet", ".csv", ".arrow", ".txt", ".gz", ".zst")


def model_card(overview: Row, trial: Row, *, adapter: bool, name: str, rounded: str = "") -> str:
    """Return the card as Markdown with the metadata that the hub reads.

    Args:
        overview: the study, as `rankray.store.overview.overview` returns it.
        trial: the exported trial, as `rankray.store.views.trial` returns it.
        adapter: whether the model is adapters that need their base model.
        name: the model's name.
        rounded: the type that the weights were rounded to after the trial was evaluated, if they were.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    config = overview["config"]
    metrics = {key: value for key, value in trial["metrics"].items() if key.startswith("eval/") and value is not None}
    data = {split: _sources(config["data"][split]) for split in ("train", "eval")}
    results = [
        EvalResult(
            task_type="text-generation", dataset_type="rankray", dataset_name=_names(data["eval"]),
            metric_type=key.removeprefix("eval/"), metric_name=key, metric_value=float(value),
        )
        for key, value in metrics.items()
        if key in metrics_among(metrics)
    ]  # fmt: skip
    base = str(trial["params"].get("model.path", config["model"]["path"]))
    header = ModelCardData(
        model_name=name,
        base_model=base if _is_hub(base) else None,
        datasets=list(dict.fromkeys(s.split(":")[0] for split in data.values() for s in split if _is_hub(s))) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["rankray", "sft"],
        eval_results=results or None,
    )
    text = _body(overview, trial, metrics, base, name, adapter, rounded)
    return str(ModelCard(f"---\n{header.to_yaml()}\n---\n\n{text}"))


def _body(overview: Row, trial: Row, metrics: Row, base: str, name: str, adapter: bool, rounded: str) -> str:
    study, config, provenance = overview["status"], overview["config"], overview["provenance"]
    confirmed, (word, sentence) = overview["confirmed"], verdict(overview)
    about = f"**{plain(word)}**: {plain(sentence)}"
    if confirmed and trial["number"] != confirmed["number"]:
        about = f"The verdict of `rankray confirm`, {plain(word)}, is on trial {confirmed['number']}, not on this one."
    elif not confirmed and trial["number"] != (overview["best"] or {"number": None})["number"]:
        about = "This is not the best trial of its search."
    state = "ran to its end" if trial["state"] == "complete" else f"was {trial['state']} at step {trial['step']}"
    seeds = int(config["study"]["seeds"]) if "seeds" in config["study"] else 1
    lines = [
        f"# {plain(name)}",
        "",
        f"{plain(_name(base))}, fine-tuned by rankray: trial {trial['number']} of the study {plain(study['study'])}, "
        f"which {state}." + (" These are adapters; the base model is needed too." if adapter else ""),
        "",
        about,
        "",
        "## Metrics",
        "",
        "On the held-out examples that the search selected on; ± is one standard error over examples where known.",
        *([_ROUNDED.format(rounded)] if rounded else []),
        *([f"Means over {seeds} seeds; the weights are those of the last one."] if seeds > 1 else []),
        "",
        *_table(("metric", "value"), [(key, with_error(metrics, key)) for key in metrics_among(metrics)]),
        "## Settings",
        "",
        *_table(("searched field", "value"), [(path, short_value(value)) for path, value in trial["params"].items()]),
        "`rankray.yaml` beside this file is the whole configuration: `rankray train rankray.yaml` trains it again.",
        "",
        "## Data",
        "",
        *_table(
            ("split", "source", "fingerprint"),
            [
                (split, _names(_sources(config["data"][split])), str((provenance.get("data") or {}).get(split, "-")))
                for split in ("train", "eval")
            ],
        ),
        "## Lineage",
        "",
        *_table(
            ("what", "which"),
            [
                ("base model", _name(base)),
                *([("its revision", str(revision))] if (revision := config["model"].get("revision")) else []),
                ("its fingerprint", str(provenance.get("model", "-"))),
                ("git commit", str(provenance.get("git", "-"))),
                ("study", f"{study['study']} ({overview['identity']})"),
                ("training seed", str(trial["params"].get("train.seed", config["train"]["seed"]))),
                *((package, str(version)) for package, version in overview["versions"].items()),
            ],
        ),
    ]
    return "\n".join(lines)


def _is_hub(source: str) -> bool:
    """Return whether a model or a data source is on the hub, as `owner/name`, rather than on a machine."""
    first = source.split(":")[0]
    return first.count("/") == 1 and not first.startswith((".", "/", "~")) and not first.endswith(DATA_FILES)


def _name(source: str) -> str:
    """Return what others may know of a source: a hub id, or a file's own name without its directories."""
    return source if _is_hub(source) else Path(source).name


def _sources(given: Any) -> list[str]:
    """Return the paths and hub ids of a split; of a mixture, those of its entries."""
    if not isinstance(given, list | tuple):
        return [str(given)]
    return [str(entry["path"] if isinstance(entry, Mapping) else getattr(entry, "path", entry)) for entry in given]


def _names(sources: Sequence[str]) -> str:
    return ", ".join(map(_name, sources))


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return ["None.", ""]
    lines = [titles, ["---"] * len(titles), *([plain(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]
