"""Schedules of `train.sft`: what is refused before anything starts, and what a trial then has."""

import re

import pytest
import torch
import yaml
from fixtures.training import Recorder
from transformers import SchedulerType, get_scheduler

from rankray.config import LoadedConfig, apply_params, config_from, load_config
from rankray.config.space import distributions
from rankray.errors import ConfigError
from rankray.finetune.preflight import preflight
from rankray.finetune.rate_check import rates_of
from rankray.finetune.schedules import check_schedule, plain_schedules, schedules, searchable
from rankray.finetune.trial_check import check_trial

WSD = "warmup_stable_decay"


@pytest.fixture
def check(tmp_path, tree):
    def go(sft, space=None, trained=True, **changes):
        given = tree(train__sft=sft, **changes) | {"space": space or {}}
        file = tmp_path / "search.yaml"
        file.write_text(yaml.safe_dump(given, sort_keys=False))
        loaded = load_config(file)
        findings = preflight(loaded)
        if trained:
            check_trial(loaded, findings)
        return findings

    return go


def test_the_names_are_those_of_transformers():
    assert set(schedules()) == {kind.value for kind in SchedulerType}
    assert set(plain_schedules()) < set(searchable()) < set(schedules())
    assert schedules()[WSD]["num_decay_steps"].required
    assert schedules()["polynomial"]["lr_end"].annotation == "float"
    assert schedules()["constant"] == {}


@pytest.mark.parametrize(
    ("sft", "field", "said"),
    [
        ({"lr_scheduler_type": "cosine_with_min_rl"}, "lr_scheduler_type", "did you mean 'cosine_with_min_lr'"),
        ({"lr_scheduler_type": 3}, "lr_scheduler_type", "got 3; allowed: linear, cosine"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type", "set train.schedule: cosine"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type", "follows evaluations"),
        ({"lr_scheduler_type": WSD}, "lr_scheduler_type", "needs num_decay_steps"),
        ({"lr_scheduler_type": WSD, "lr_scheduler_kwargs": {"min_lr_ratio": 0.1}}, "lr_scheduler_kwargs", "needs"),
        (
            {"lr_scheduler_type": WSD, "lr_scheduler_kwargs": {"num_decay_step": 2}},
            "lr_scheduler_kwargs.num_decay_step", "no such setting of .*did you mean 'num_decay_steps'",
        ),
        (
            {"lr_scheduler_type": WSD, "lr_scheduler_kwargs": {"num_decay_steps": 4}, "max_grad_norm": 1.0},
            "lr_scheduler_kwargs.num_decay_steps", "4 and a warm-up of 1 steps are more .*max_steps 4; .*up to 3",
        ),
        (
            {"lr_scheduler_type": WSD, "lr_scheduler_kwargs": {"num_decay_steps": 2, "num_stable_steps": 3}},
            "lr_scheduler_kwargs.num_stable_steps", "make 6, and train.max_steps is 4; allowed: 1; leave it out",
        ),
        (
            {"lr_scheduler_type": WSD, "lr_scheduler_kwargs": {"num_decay_steps": 1.5}},
            "lr_scheduler_kwargs.num_decay_steps", "got 1.5; allowed is a whole number",
        ),
        (
            {"lr_scheduler_type": WSD, "lr_scheduler_kwargs": {"num_decay_steps": -1}},
            "lr_scheduler_kwargs.num_decay_steps", "got -1; allowed is 0 or more",
        ),
        (
            {"lr_scheduler_type": WSD, "lr_scheduler_kwargs": {"num_decay_steps": 2, "decay_type": "steep"}},
            "lr_scheduler_kwargs", "Unknown decay type: steep, expected 'linear', 'cosine' or '1-sqrt'",
        ),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_kwargs", "least rate once.*min_lr_rate"),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5, "min_lr_rate": 0.1}},
            "lr_scheduler_kwargs", "least rate once",
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": "low"}},
            "lr_scheduler_kwargs.min_lr", "got 'low'; allowed is null or a number",
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1.0}},
            "lr_scheduler_kwargs", "rises to .*, above train.learning_rate 0.005",
        ),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.1}},
            "lr_scheduler_kwargs", "must be smaller than initial lr",
        ),
        ({"lr_scheduler_kwargs": {"num_warmup_steps": 3}}, "lr_scheduler_kwargs.num_warmup_steps", "set train.warm"),
        ({"lr_scheduler_kwargs": {"nothing": 1}}, "lr_scheduler_kwargs.nothing", "no such setting of .*num_cycles"),
        ({"lr_scheduler_kwargs": "min_lr=1"}, "lr_scheduler_kwargs", "allowed is a mapping"),
    ],
)  # fmt: skip
def test_what_is_refused(check, sft, field, said):
    with pytest.raises(ConfigError) as caught:
        check(sft, train__warmup_ratio=0.25)
    text = str(caught.value)
    assert re.match(rf".*search.yaml:\d+: train.sft.{field}: .*{said}", text), text
    assert text.count("\n") == 0


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup"])
def test_settings_that_transformers_would_drop(check, name):
    with pytest.raises(ConfigError, match=rf"lr_scheduler_kwargs.num_cycles: no such setting of {name}; allowed: none"):
        check({"lr_scheduler_kwargs": {"num_cycles": 2}}, train__schedule=name)


def test_named_once(check):
    sft = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-4}}
    with pytest.raises(ConfigError, match=r"search.yaml:\d+: train.sft.lr_scheduler_type beside train.schedule"):
        check(sft, train__schedule="cosine", trained=False)
    with pytest.raises(ConfigError, match=r"train.sft.lr_scheduler_type beside train.schedule"):
        check(sft, space={"train.schedule": {"choice": ["linear", "cosine"]}}, trained=False)


WARMUP = {"float": [0.0, 0.3]}
BOTH = {"choice": ["cosine", "constant"]}


@pytest.mark.parametrize(
    ("space", "train", "place"),
    [
        ({}, {"train__schedule": "constant", "train__warmup_ratio": 0.2}, "train"),
        ({"train.schedule": BOTH}, {"train__warmup_ratio": 0.2}, "train"),
        ({"train.warmup_ratio": WARMUP}, {"train__schedule": "constant"}, "space.train"),
        ({"train.warmup_ratio": WARMUP, "train.schedule": BOTH}, {}, "space.train"),
        ({"train.warmup_ratio": WARMUP | {"when": {"train.schedule": "cosine"}}, "train.schedule": BOTH}, {}, ""),
        ({"train.warmup_ratio": WARMUP}, {"train__schedule": "constant_with_warmup"}, ""),
        ({}, {"train__schedule": "constant"}, ""),
        ({}, {"train__schedule": "constant", "train__warmup_ratio": 0.0}, ""),
    ],
)
def test_a_warm_up_that_constant_ignores_is_a_warning(check, space, train, place):
    said = check({}, space=space, trained=False, **train).warnings
    assert len(said) == bool(place), said
    if place:
        assert re.match(
            rf".*search\.yaml:\d+: {place}\.warmup_ratio: ignored where train.schedule is constant", said[0]
        )
        assert "constant_with_warmup" in said[0]


SPACE = {
    "train.sft.lr_scheduler_type": {"choice": ["linear", "cosine_with_min_lr", WSD]},
    "train.sft.lr_scheduler_kwargs.min_lr_rate": {
        "float": [0.01, 0.5], "log": True, "when": {"train.sft.lr_scheduler_type": "cosine_with_min_lr"},
    },
    "train.sft.lr_scheduler_kwargs.num_decay_steps": {
        "int": [1, 3], "when": {"train.sft.lr_scheduler_type": WSD},
    },
}  # fmt: skip


def test_schedules_and_their_settings_are_searched(check, tree):
    assert check({}, space=SPACE).warnings == []
    config = config_from(tree() | {"space": SPACE})
    params = {"train.sft.lr_scheduler_type": WSD, "train.sft.lr_scheduler_kwargs.num_decay_steps": 2}
    assert apply_params(config, params).train.sft == {
        "lr_scheduler_type": WSD, "lr_scheduler_kwargs": {"num_decay_steps": 2}
    }  # fmt: skip
    assert list(distributions(config)) == list(SPACE)
    wrong = SPACE | {"train.sft.lr_scheduler_kwargs.num_decay_steps": {"int": [5, 9]}}
    with pytest.raises(ConfigError, match=r"num_decay_steps: .*(no such setting|more than)"):
        check({}, space=wrong)


def test_a_least_rate_above_some_of_the_searched_rates_is_a_warning(check):
    sft = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-4}}
    rates = {"train.learning_rate": {"float": [1e-5, 1e-2], "log": True}}
    [warning] = check(sft, space=rates).warnings
    assert "above train.learning_rate 1e-05; min_lr_rate, a share of the rate, fits all of them" in warning
    with pytest.raises(ConfigError, match=r"above train.learning_rate 5e-05"):
        check(sft, space={"train.learning_rate": {"float": [1e-5, 5e-5], "log": True}})


@pytest.mark.parametrize(
    ("name", "settings"),
    [("cosine_with_min_lr", {"min_lr": 1e-3}), (WSD, {"num_decay_steps": 2, "min_lr_ratio": 0.1})],
)
def test_a_trial_has_the_rates_of_transformers(tree, train, name, settings):
    """Each step's checkpoint holds the rate of the next step; a trial that resumes in between goes on with the same."""
    given = tree(
        train__sft={"lr_scheduler_type": name, "lr_scheduler_kwargs": settings}, train__max_steps=6,
        train__warmup_ratio=1 / 3, train__checkpoint_every_steps=1, evaluate__every_steps=1, evaluate__max_examples=2,
    )  # fmt: skip
    _, recorder = train(given, Recorder(stop_at=3))
    _, resumed = train(given, Recorder(), checkpoint=recorder.reports[-1].checkpoint)
    reports = {report.step: report for report in (*recorder.reports, *resumed.reports)}
    found = {
        step: torch.load(f"{report.checkpoint}/scheduler.pt", weights_only=True)["_last_lr"][0]
        for step, report in reports.items()
    }
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=5e-3)
    scheduler = get_scheduler(name, optimizer, 2, 6, settings)
    wanted = {}
    for step in range(1, 7):
        optimizer.step()
        scheduler.step()
        wanted[step] = scheduler.get_last_lr()[0]
    assert found == pytest.approx(wanted, rel=1e-12)
    assert min(found[step] for step in (5, 6)) >= 0.1 * 5e-3
    assert max(found.values()) == 5e-3


def test_the_rates_that_the_check_looks_at_are_these(tree, tmp_path):
    from rankray.finetune.arguments import sft_arguments

    sft = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-3}}
    config = config_from(tree(train__sft=sft, train__max_steps=5000, train__warmup_ratio=0.1))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rates = rates_of(config, sft_arguments(config, 0, str(tmp_path), cpu=True), optimizer, 5e-3)
    assert len(rates) == 1000
    assert rates[0] == 0
    assert max(rates.values()) == rates[500] == 5e-3
    assert min(list(rates.values())[200:]) == pytest.approx(1e-3, rel=1e-3)
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_a_trial_is_refused_as_the_check_refuses_it(tree):
    config = config_from(tree(train__sft={"lr_scheduler_type": WSD}))
    with pytest.raises(ConfigError, match=r"^train.sft.lr_scheduler_type: warmup_stable_decay needs num_decay_steps"):
        check_schedule(config)
    check_schedule(LoadedConfig(config_from(tree()), "file", {}).config)
