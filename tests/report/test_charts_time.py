"""When and where trials ran, in words and in rows."""

from fixtures.overviews import make_overview

from rankray.report.charts_time import times


def rows(chart):
    return chart.layout["yaxis"]["categoryarray"][::-1]


def test_each_slot_of_each_node_has_a_row_and_what_interrupted_a_trial_is_told():
    chart = times(make_overview(40))
    assert rows(chart) == ["10.0.0.1 (abcdef01) slot 1", "10.0.0.2 (abcdef01) slot 1"]
    assert "On 2 nodes." in chart.note
    assert "3 times a trial was resumed" in chart.note
    assert "2 of them after it had been preempted" in chart.note
    assert "9 reported steps and 12 s of work were done again" in chart.note
    names = {trace["name"].partition(", ")[2] for trace in chart.traces}
    assert names == {"", "interrupted", "preempted"}
    told = [text for trace in chart.traces if "preempted" in trace["name"] for text in trace["text"]]
    assert sorted(told)[0] == (
        "trial 3, 4.0 s<br>its node is being taken away in 30 s<br>3 reported steps and 4 s to do again"
    )


def test_one_node_is_named_once_and_an_earlier_version_stored_none():
    overview = make_overview(6, states=("complete",))
    stretches = [stretch for trial in overview["trials"] for stretch in trial["stretches"]]
    for stretch in stretches:
        stretch["node"] = "10.0.0.7 (12345678)"
    assert rows(times(overview)) == ["slot 1", "slot 2"]
    assert "All on 10.0.0.7 (12345678)." in times(overview).note
    stretches[0]["node"] = None
    assert rows(times(overview))[0] == "node unknown slot 1"
    for stretch in stretches:
        stretch["node"] = None
    assert rows(times(overview)) == ["slot 1", "slot 2"]
    assert "an earlier version" in times(overview).note


def test_without_a_trial_there_is_no_chart():
    assert times(make_overview(0)).note == "No trial has run yet."
