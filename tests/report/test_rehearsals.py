"""The plot of a rehearsal."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from rankray.rehearse.replay import Replay
from rankray.rehearse.summary import Summary
from rankray.report.rehearsals import reached_plot

LINE = "{http://www.w3.org/2000/svg}polyline"


def test_the_plot_is_well_formed_and_has_a_line_per_strategy_and_random_s() -> None:
    found = (2.0, 4.0, math.inf)
    replays = tuple(Replay(each, math.inf, 10.0, 10.0, 10, 0, (), ()) for each in found)
    text = reached_plot([Summary("a<b", replays), Summary("tpe", replays)], [0.1], is_synthetic=False)
    root = ElementTree.fromstring(text)
    lines = root.findall(LINE)
    assert len(lines) == 3
    last = lines[1].attrib["points"].split()[-1].split(",")
    assert float(last[1]) == 360 - 50 - 260 * 2 / 3 or abs(float(last[1]) - (360 - 50 - 260 * 2 / 3)) < 0.1
    assert "synthetic" not in text
    assert "(synthetic)" in reached_plot([Summary("tpe", replays)], [0.1], is_synthetic=True)
