"""What a configuration means, in words."""

import pytest

from rankray.errors import ConfigError
from rankray.loss import WEIGHTS
from rankray.report.explain import explain_lines


def test_a_field_says_what_is_allowed_and_its_default():
    lines = explain_lines("loss.temperature")
    assert lines[0] == "loss.temperature: float, above 0; default 1.0"
    assert "Rank-mapping temperature" in lines[1]
    assert explain_lines("loss.form")[0] == "loss.form: bound | exact; default 'bound'"
    assert explain_lines("study.known")[0].startswith("study.known: list of sft | paper | rates")
    assert "required" in explain_lines("data.train")[0]


def test_the_objectives_are_those_there_are(monkeypatch):
    monkeypatch.setitem(WEIGHTS, "mine", lambda stats, knobs: 1 / stats.rank_N)
    allowed = explain_lines("loss.objective")[0]
    assert (
        allowed
        == "loss.objective: rri | sft | dft | talr | eaft | power | threshold | deft | iw_sft | mine; default 'rri'"
    )


def test_a_section_lists_its_fields_and_a_last_name_is_enough():
    assert any(line.startswith("loss.entropy_weight") for line in explain_lines("loss"))
    assert explain_lines("warmup_ratio")[0].startswith("train.warmup_ratio")
    assert len(explain_lines()) > 40


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'loss\.temperature'"):
        explain_lines("loss.temprature")
