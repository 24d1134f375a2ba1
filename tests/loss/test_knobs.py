"""The settings of a loss: one model for the configuration and for keyword arguments."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from rankray.config import Config
from rankray.errors import LossError
from rankray.loss import WEIGHTS, Knobs
from rankray.loss.knobs import make_knobs


def test_the_configuration_uses_this_model():
    assert Config.model_fields["loss"].annotation is Knobs
    assert make_knobs() == Knobs() == Config.model_fields["loss"].default


def test_the_defaults_are_what_the_paper_trains_with_and_the_other_papers_settings():
    assert Knobs().model_dump() == {
        "objective": "rri", "form": "bound", "base": "prob", "temperature": 1.0, "entropy_weight": 1.0,
        "low_entropy": "max_prob", "min_competence": 1e-6, "max_scale": None,
        "min_weight": 0.0, "talr_temperature": "auto",
        "alpha": 1.0, "eaft_scale": 3, "q": 0.1, "direction": "above", "iw_power": 2.0, "iw_clip": 16.0,
        "signal": "online", "kl_weight": 0.0, "kl_direction": "forward",
    }  # fmt: skip
    with pytest.raises(ValidationError, match="frozen"):
        Knobs().temperature = 2.0


@pytest.mark.parametrize(
    ("objective", "settings", "says"),
    [
        ("rrri", {}, "loss.objective: got 'rrri'.*did you mean 'rri'.*talr"),
        ("SFT", {}, r"loss.objective: got 'SFT' \(did you mean 'sft'\?\)"),
        ("rri", {"form": "bounds"}, "loss.form: got 'bounds'.*did you mean 'bound'.*'exact'"),
        ("rri", {"base": "two"}, "loss.base: got 'two'"),
        ("rri", {"temperature": 0.0}, "loss.temperature: got 0.0; allowed: greater than 0; correct"),
        ("rri", {"temperature": math.nan}, "loss.temperature"),
        ("rri", {"temperature": "1"}, "loss.temperature"),
        ("rri", {"temperature": True}, "loss.temperature"),
        ("rri", {"entropy_weight": -0.1}, "loss.entropy_weight: got -0.1"),
        ("rri", {"entropy_weight": math.inf}, "loss.entropy_weight: got inf"),
        ("rri", {"max_scale": 0.0}, "loss.max_scale"),
        ("rri", {"temprature": 1.0}, "unknown key.*did you mean 'temperature'"),
        ("talr", {"min_weight": 1.5}, "loss.min_weight: got 1.5; allowed: less than or equal to 1"),
        ("talr", {"talr_temperature": "aut"}, "did you mean 'auto'.*a number or 'auto'"),
        ("eaft", {"alpha": -1.0}, "loss.alpha"),
        ("sft", {"alpha": -1.0}, "loss.alpha"),
    ],
)
def test_errors_say_what_is_allowed(objective, settings, says):
    with pytest.raises(LossError, match=says):
        make_knobs(objective=objective, **settings)


def test_settings_that_are_no_knobs_are_refused():
    with pytest.raises(
        LossError, match=r"knobs: got {'temperature': 2.0}; allowed: a Knobs; give Knobs\(...\), or the"
    ):
        make_knobs({"temperature": 2.0})


def test_every_problem_is_listed():
    with pytest.raises(LossError) as caught:
        make_knobs(temperature=-1.0, alpha=-1.0)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["loss.temperature", "loss.alpha"]


def test_an_objective_exists_as_soon_as_it_is_in_weights(monkeypatch):
    with pytest.raises(ValidationError):
        Knobs(objective="mine")
    monkeypatch.setitem(WEIGHTS, "mine", lambda stats, knobs: 1 / stats.rank_N)
    assert Knobs(objective="mine").objective == make_knobs(objective="mine").objective == "mine"


def test_the_way_of_a_setting_from_yaml_to_arithmetic_is_short():
    """CONTRIBUTING.md lists it; each function it names exists where it says."""
    root = Path(__file__).resolve().parents[2]
    hops = re.findall(r"^\d+\. `(\S+\.py): ([\w.]+)`", (root / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert 5 <= len(hops) <= 9
    for file, name in hops:
        text = (root / "rankray" / file).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"^\s*(def|class) {part}\b", text, re.M), f"{file}: {part}"


def test_settings_need_no_torch():
    code = "import sys; from rankray.loss.knobs import Knobs; Knobs(objective='talr'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
