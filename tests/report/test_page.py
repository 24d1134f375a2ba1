"""The page as text: what is escaped, what is said where there is nothing, and how large it is."""

import json
import re
from html.parser import HTMLParser

import pytest
from fixtures.overviews import NASTY, add_metrics, add_verdict, make_overview

from rankray.report.findings import complete
from rankray.report.markdown import markdown
from rankray.report.page import asset, page

EVERY_SIZE = {
    "empty": make_overview(0),
    "one": make_overview(1, states=("complete",)),
    "none finished": make_overview(3, states=("running", "waiting")),
    "all failed": make_overview(5, states=("failed",)),
    "all pruned": make_overview(5, states=("pruned",)),
    "usual": make_overview(60),
}


class Reader(HTMLParser):
    """Collects tags, attributes and the text outside scripts."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.ids, self.text, self._inside = [], [], [], "", ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("href", "src")]
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data


def read(overview, **options):
    reader = Reader()
    reader.feed(page(overview, "now", **options))
    return reader


@pytest.mark.parametrize("name", EVERY_SIZE)
def test_every_study_gives_a_page_with_all_its_sections(name):
    reader = read(EVERY_SIZE[name])
    assert len(reader.ids) == len(set(reader.ids))
    inner = [link for link in reader.links if link.startswith("#")]
    assert set(inner) == {link for link in inner if link.removeprefix("#") in reader.ids}, "links lead somewhere"
    assert inner == reader.links, "and nowhere outside"
    described = [attributes["aria-describedby"] for _, attributes in reader.tags if "aria-describedby" in attributes]
    assert set(described) <= set(reader.ids)
    assert "nan" not in reader.text.lower().split()


def test_a_page_without_results_says_what_to_do():
    assert "No trial is complete: 0 pruned, 0 failed." in read(EVERY_SIZE["empty"]).text
    assert "rankray search made.yaml" in read(EVERY_SIZE["empty"]).text
    assert "Every trial failed, 5 of them." in read(EVERY_SIZE["all failed"]).text
    assert "2 running" in read(EVERY_SIZE["none finished"]).text
    assert "5 pruned, 0 failed" in read(EVERY_SIZE["all pruned"]).text
    assert "No trial has reported eval/accuracy yet." in read(EVERY_SIZE["empty"]).text


def test_the_verdict_is_the_one_of_confirm_where_there_is_one():
    overview = make_overview(20)
    assert "not confirmed" in read(overview).text
    assert "rankray confirm made --store sqlite:///made.db" in read(overview).text
    add_verdict(overview, overview["best"], why="0.7 against 0.66 of plain SFT")
    text = read(overview).text
    assert "0.7 against 0.66 of plain SFT" in text
    assert "better: 0.7" not in text, "the word stands above"
    assert "0.01 to 0.05" in text
    assert "rankray confirm" not in text
    assert f"Confirmed setting: trial {overview['best']['number']}" in text


@pytest.mark.parametrize(("trials", "said"), [(31, True), (32, False)])
def test_of_few_trials_importance_is_a_hint(trials, said):
    overview = make_overview(60)
    overview["importance"]["trials"] = trials
    for shown in (page(overview, "now"), markdown(overview, "now")):
        assert ("Of so few trials it is a hint" in shown) == said


def test_a_metric_that_tells_nothing_is_said():
    overview = make_overview(60)
    assert "does not tell settings apart" not in read(overview).text
    overview["alike"] = {"trials": 9, "value": 0.0}
    assert "All 9 complete trials have eval/accuracy 0: it does not tell settings apart" in read(overview).text


def test_choices_that_no_trial_has_had_are_said():
    overview = make_overview(60)
    for shown in (page(overview, "now"), markdown(overview, "now")):
        assert "ot tried: " not in shown
    overview["untried"] = {"loss.objective": ["dft"]}
    for shown in (page(overview, "now"), markdown(overview, "now")):
        assert "ot tried: objective dft; a larger study.trials and the same command try more." in shown


def test_a_confirmation_is_not_asked_to_be_confirmed():
    overview = make_overview(20)
    overview["origin"]["confirms"] = "made"
    assert "rankray confirm" not in read(overview).text


def test_an_interrupted_search_is_resumed_by_the_command_that_began_it():
    overview = make_overview(20)
    assert "rankray search" not in read(overview).text
    overview["status"]["state"] = "interrupted"
    overview["origin"]["overrides"] = {"study.trials": 96, "space.train.learning_rate": {"float": [0.1, 1]}}
    text = read(overview).text
    assert "rankray search made.yaml --set study.trials=96 --set 'space.train.learning_rate={" in text
    assert "study.trials=96 --set train" not in text, "training takes none of the search's"
    overview["origin"]["confirms"] = "earlier"
    assert "rankray confirm earlier --store sqlite:///made.db" in read(overview).text


def of_another_trial(word="better", **more):
    """The overview of a search whose second best trial was confirmed, that trial, and the best one."""
    overview = make_overview(40, **more)
    best, second = complete(overview)[:2]
    add_verdict(overview, second, word)
    return overview, second, best


@pytest.mark.parametrize("show", [lambda overview: read(overview).text, lambda overview: markdown(overview, "now")])
def test_a_confirmed_trial_that_is_not_the_best_is_the_one_to_use(show):
    overview, second, best = of_another_trial()
    text = show(overview)
    assert re.search(rf"Confirmed( setting)?: trial {second['number']}(?!\d)", text)
    assert f"Trial {best['number']} has the best figure of the search" in text
    assert f"rankray export made {second['number']} DIR" in text
    assert f"rankray show made {best['number']} " not in text
    assert f"train.learning_rate={second['params']['train.learning_rate']}" in text
    overview["confirmed"]["checkpoint_exists"] = False
    assert "rankray export" not in show(overview), "what was not kept cannot be taken away"


@pytest.mark.parametrize("show", [lambda overview: read(overview).text, lambda overview: markdown(overview, "now")])
@pytest.mark.parametrize("word", ["better", "worse", "indistinguishable", "under-powered"])
def test_where_the_setting_is_no_better_the_best_trial_and_plain_sft_are_offered(word, show):
    overview, second, best = of_another_trial(word)
    text = show(overview)
    command = "--set loss.objective=sft --set train.learning_rate=0.0025"
    assert (command in text) == (word in ("worse", "indistinguishable"))
    used = second if word == "better" else best
    assert f"rankray export made {used['number']} DIR" in text
    assert ("The verdict is on trial" in text) == (used is best)


@pytest.mark.parametrize("show", [lambda overview: read(overview).text, lambda overview: markdown(overview, "now")])
def test_a_best_trial_that_is_plain_sft_is_called_so(show):
    overview = make_overview(40)
    overview["best"]["plain_sft"] = True
    overview["objectives"] = [{"what": "rri", "plain_sft": False}, {"what": "sft", "plain_sft": True}]
    text = show(overview)
    assert "It is plain SFT: no other setting did better." in text
    assert "rankray confirm made" in text
    del overview["objectives"][0]
    assert "rankray confirm" not in show(overview), "nothing to compare plain SFT with"
    best, second = complete(overview)[:2]
    add_verdict(overview, second, "worse")
    text = show(overview)
    assert f"Trial {best['number']}, which has the best figure of the search, is plain SFT." in text
    assert f"The verdict is on trial {second['number']}" in text


def test_trials_that_finished_since_a_confirmation_are_said():
    overview, _, best = of_another_trial()
    assert "since then" not in read(overview).text
    overview["status"]["budget"]["finished"] += 3
    text = read(overview).text
    assert "3 trials have finished since then, and were not compared." in text
    finished = overview["status"]["budget"]["finished"]
    assert f"rankray confirm made --label after-{finished} --store sqlite:///made.db" in text
    overview["confirmed"] = {**best, "verdicts": overview["verdicts"]}
    assert "--label" not in read(overview).text, "nothing better was found since"


@pytest.mark.parametrize("show", [lambda overview: read(overview).text, lambda overview: markdown(overview, "now")])
def test_every_verdict_is_shown_as_it_is(show):
    overview, _, _ = of_another_trial(nasty=NASTY)
    add_verdict(overview, overview["best"], "worse", f"eval/nll 2{NASTY}", "eval/nll")
    text = show(overview)
    assert "eval/accuracy 0.7" in text
    assert "made.confirm1" in text
    assert "eval/nll 2" in text
    assert "<img" not in page(overview, "now").split('id="charts">')[0].replace("&lt;img", "")


def test_what_the_store_holds_is_shown_as_it_is_and_never_a_tag():
    reader = read(make_overview(40, nasty=NASTY))
    assert [tag for tag, _ in reader.tags].count("script") == 3, "the data, Plotly and the page's own"
    assert not [tag for tag, attributes in reader.tags if tag == "img" or "onerror" in attributes]
    assert NASTY in reader.text


def test_the_data_of_the_charts_can_end_no_script():
    text = page(make_overview(40, nasty=NASTY), "now")
    data = text.split('id="charts">')[1].split("</script>")[0]
    assert "<" not in data
    charts = json.loads(data)
    assert len(charts) == 9
    assert "window.hurt" in data


def charts_in(text):
    return json.loads(text.split('id="charts">')[1].split("</script>")[0])


def test_a_study_of_several_metrics_shows_what_one_costs_in_another():
    overview = make_overview(40)
    assert "No trial beats these" not in read(overview).text
    assert "front" not in [chart["key"] for chart in charts_in(page(overview, "now"))]
    add_metrics(overview, "eval/accuracy", "eval/nll", "eval/arc/accuracy")
    text = read(overview).text
    assert "maximize eval/accuracy, and selected by eval/nll and eval/arc/accuracy" in text
    assert "No trial beats these" in text
    assert "Not drawn: eval/arc/accuracy." in text
    [chart] = [chart for chart in charts_in(page(overview, "now")) if chart["key"] == "front"]
    *of_objectives, line = chart["traces"]
    points = [point for trace in of_objectives for point in zip(trace["x"], trace["y"], strict=True)]
    assert len(points) == sum(trial["state"] == "complete" for trial in overview["trials"])
    rows = overview["best"]["front"]
    expected = sorted((row["metrics"]["eval/accuracy"], row["metrics"]["eval/nll"]) for row in rows)
    assert list(zip(line["x"], line["y"], strict=True)) == expected
    for row in rows:
        assert f"| {row['number']} | {row['value']:.5g} | {row['metrics']['eval/nll']:.5g} |" in markdown(overview, "")
    rows[0]["metrics"]["eval/nll"] = None
    assert "No trial beats these" in read(overview).text


def test_plotly_gets_no_tag_to_read():
    overview = make_overview(40, nasty=NASTY)
    add_metrics(overview, f"eval/accuracy{NASTY}", f"eval/nll{NASTY}")
    for trial in overview["trials"]:
        trial["metrics"] = {f"{name}{NASTY}": value for name, value in trial["metrics"].items()}
    charts = charts_in(page(overview, "now"))
    assert len(charts) == 10
    for chart in charts:
        assert not re.search(r"<(?!br>|extra></extra>|/extra>)", json.dumps(chart))


def test_the_policy_of_the_page_allows_its_own_scripts_and_no_request():
    text = page(make_overview(3), "now")
    policy = re.search(r'Content-Security-Policy" content="(.*?)">', text)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("sha256-") == 2
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_a_page_reloads_only_while_it_is_watched():
    assert "refresh" not in page(make_overview(3), "now").split("<script")[0]
    assert '<meta http-equiv="refresh" content="15">' in page(make_overview(3), "now", refresh_seconds=15)


@pytest.mark.parametrize(("trials", "megabytes"), [(1000, 5), (10_000, 12)])
def test_a_page_stays_small(trials, megabytes):
    assert len(page(make_overview(trials), "now").encode()) < megabytes * 1e6


def test_the_bundle_of_plotly_comes_with_its_licence():
    assert asset("plotly.min.js").startswith("/* plotly.js v4")
    assert len(asset("plotly.min.js")) < 1.5e6
    assert "Plotly" in asset("PLOTLY-LICENSE.txt")
    assert "MIT License" in asset("PLOTLY-LICENSE.txt")
