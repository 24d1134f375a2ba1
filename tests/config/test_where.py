"""Paths in a configuration: relative to the file they are in, else to the current directory."""

from pathlib import Path

import pytest
import yaml

from rankray.config import load_config
from rankray.errors import ConfigError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with its files, and another directory to stand in."""
    for name in ("project/models/tiny", "elsewhere/models/other"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("RANKRAY_STORE", raising=False)
    return tmp_path / "project"


def write(project, **changes):
    tree = {
        "name": "s",
        "model": {"path": "models/tiny"},
        "data": {"train": "train.jsonl", "eval": "../shared/eval.jsonl"},
    }
    file = project / "s.yaml"
    file.write_text(yaml.safe_dump(tree | changes))
    return file


def test_a_path_in_a_file_is_relative_to_that_file(project):
    loaded = load_config(write(project, store="sqlite:///r.db", storage="runs"))
    config = loaded.config
    assert config.model.path == str(project / "models/tiny")
    assert config.data.train == str(project / "train.jsonl")
    assert config.data.eval == str(project.parent / "shared/eval.jsonl")
    assert config.store == f"sqlite:///{project}/r.db"
    assert config.storage == str(project / "runs")
    assert loaded.written["storage"] == "runs"


def test_what_is_given_elsewhere_or_left_out_is_relative_to_the_current_directory(project, monkeypatch):
    here = Path.cwd()
    config = load_config(write(project), ["data.train=t.jsonl", "model={path: models/other}"]).config
    assert config.data.train == str(here / "t.jsonl")
    assert config.model.path == str(here / "models/other")
    assert (config.store, config.storage) == (f"sqlite:///{here}/rankray.db", f"{here}/rankray-runs")
    monkeypatch.setenv("RANKRAY_STORE", "journal:///x.log")
    assert load_config(write(project)).config.store == f"journal:///{here}/x.log"
    assert load_config(write(project), {"data.eval": "e.csv"}).config.data.eval == str(here / "e.csv")


def test_a_tilde_is_the_home_directory(project):
    home = Path.home()
    data = {"train": "~/a.jsonl", "eval": "~/b.jsonl"}
    config = load_config(
        write(project, data=data, store="sqlite:///~/r.db", storage="~/runs", model={"path": "~/m"})
    ).config
    assert (config.data.train, config.data.eval) == (str(home / "a.jsonl"), str(home / "b.jsonl"))
    assert (config.store, config.storage, config.model.path) == (f"sqlite:///{home}/r.db", f"{home}/runs", f"{home}/m")


def test_paths_in_a_space_and_in_warm_starts_follow_the_rule(project):
    (project / "spaces").mkdir()
    (project / "spaces/data.yaml").write_text("data.train: {choice: [a.jsonl, /b.jsonl, org/set:main:train]}\n")
    points = [{"data.train": "spaces/a.jsonl"}]
    loaded = load_config(write(project, space="spaces/data.yaml", study={"warm_start": points}))
    choices = [str(project / "spaces/a.jsonl"), "/b.jsonl", "org/set:main:train"]
    assert loaded.config.space["data.train"]["choice"] == choices
    assert loaded.config.study.warm_start == [{"data.train": choices[0]}]


def test_ids_of_the_hub_and_urls_stay_as_they_are(project):
    data = {"train": "openai/gsm8k:main:train[:90%]", "eval": "org/v1.5-set:test"}
    config = load_config(write(project, data=data, model={"path": "org/model-1.5"}, storage="s3://bucket/x")).config
    assert (config.data.train, config.data.eval) == (data["train"], data["eval"])
    assert (config.model.path, config.storage) == ("org/model-1.5", "s3://bucket/x")


def test_a_model_beside_the_reader_and_not_beside_the_file_is_refused(project):
    with pytest.raises(
        ConfigError, match=r"s.yaml:\d+: model.path: got 'models/other', .*; write ../elsewhere/models/other$"
    ):
        load_config(write(project, model={"path": "models/other"}))


@pytest.mark.parametrize("change", [{"storage": "~nobody-here/x"}, {"store": "journal:///~nobody-here/x"}])
def test_a_home_that_nobody_has_is_refused(project, change):
    with pytest.raises(ConfigError, match=r"s.yaml:\d+: \w+: got .*no user 'nobody-here'"):
        load_config(write(project, **change))


JINJA = "{% for m in messages %}{{ m.content }}{% endfor %}\n"


def chats(project, template):
    data = {"train": "t.jsonl", "eval": "e.jsonl", "chat_template": template}
    return load_config(write(project, data=data))


@pytest.mark.parametrize("given", ["./chat.jinja", "chat.jinja", "sub/chat"])
def test_the_text_of_a_chat_template_stands_in_the_place_of_its_path(project, given):
    (project / "sub").mkdir()
    (project / given).write_text(JINJA)
    assert chats(project, given).config.data.chat_template == JINJA
    (project / given).unlink()
    assert chats(project, JINJA).config.data.chat_template == JINJA, "a stored study needs no file"


def test_chat_templates_that_are_searched_are_read_too(project):
    (project / "a.jinja").write_text(JINJA)
    space = {"data.chat_template": {"choice": ["plain", "./a.jinja"]}}
    assert load_config(write(project, space=space)).config.space["data.chat_template"] == {"choice": ["plain", JINJA]}


@pytest.mark.parametrize("given", [None, "plain", "{{ messages }}"])
def test_a_name_and_a_text_are_no_paths(project, given):
    assert chats(project, given).config.data.chat_template == given


@pytest.mark.parametrize(
    ("given", "content", "says"),
    [
        ("./no.jinja", None, r"'./no.jinja' cannot be read \(no such file\); allowed: a Jinja file"),
        ("/dev/zero", None, r"'/dev/zero' cannot be read \(no such file\)"),
        (".", None, r"'\.' cannot be read"),
        ("./a.jinja", b"user: hi", r"is no Jinja template: it has no \{\{ \}\} or \{% %\}"),
        ("./a.jinja", b"\xff{{", r"cannot be read .*UTF-8"),
        ("chatml", None, r"got 'chatml'; allowed: the path of a Jinja file, its text, or plain"),
        ("plian", None, r"did you mean 'plain'"),
        (3, None, r"got 3; allowed: text"),
    ],
)
def test_what_is_no_chat_template_is_said_with_its_line(project, given, content, says):
    if content is not None:
        (project / given).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"s.yaml:\d+: data.chat_template: .*{says}"):
        chats(project, given)


def test_conditions_and_points_name_files_as_choices_do(project):
    (project / "models/big").mkdir()
    (project / "t.jinja").write_text("{{ messages }}")
    space = {
        "model.path": {"choice": ["models/tiny", "models/big"]},
        "data.chat_template": {"choice": ["plain", "./t.jinja"]},
        "loss.temperature": {"float": [1, 2], "when": {"model.path": "models/big", "data.train": ["train.jsonl"]}},
        "loss.entropy_weight": {"float": [1, 2], "when": {"data.chat_template": "./t.jinja"}},
    }
    points = {"known": [{"model.path": "models/big"}], "warm_start": [{"data.chat_template": "./t.jinja"}]}
    config = load_config(write(project, space=space, study=points)).config
    held = config.search_space.distributions
    assert held["loss.temperature"].when == {
        "model.path": (str(project / "models/big"),),
        "data.train": (config.data.train,),
    }
    assert held["loss.entropy_weight"].when == {"data.chat_template": ("{{ messages }}",)}
    assert config.study.known == [{"model.path": str(project / "models/big")}]
    assert config.study.warm_start == [{"data.chat_template": "{{ messages }}"}]
    (Path.cwd() / "models/mine").mkdir()
    given = {
        "space": {"model.path": {"choice": ["models/mine", "models/other"]}},
        "study.known": [{"model.path": "models/mine"}],
    }
    config = load_config(write(project), given).config
    assert config.study.known == [{"model.path": str(Path.cwd() / "models/mine")}]
