"""What all verbs share: no secrets in arguments, nothing unprintable in errors."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from rankray.cli.app import refuse_empty, refuse_loose_overrides, refuse_passwords
from rankray.errors import ConfigError, StoreError

PLANTED = "plantedX9"


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["status", "s", "--store", f"postgresql://u:{PLANTED}@h/d"], "--store"),
        (["status", "s", f"--store=postgresql://u:{PLANTED}@h/d"], "--store"),
        (["status", "s", "--store", f"postgresql://h/d?PASSWORD={PLANTED}"], "--store"),
        (["status", "s", "--store", f"host=h password={PLANTED}"], "--store"),
        (["search", "f.yaml", "--set", f"store=mysql://u:{PLANTED}@h/d"], "store"),
        (["store", "copy", "sqlite:///a.db", f"postgresql://u:{PLANTED}@h/d", "--name", "s"], "the command line"),
    ],
)
def test_a_password_on_the_command_line_is_refused(words, where):
    with pytest.raises(StoreError, match=f"^{where}: holds a password") as refused:
        refuse_passwords(words)
    assert PLANTED not in str(refused.value)
    assert "RANKRAY_STORE" in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        ["status", "s", "--store", "postgresql://u@h/d?sslmode=require"],
        ["status", "s", "--store", "sqlite:////tmp/a:b@c.db"],
        ["status", "s", "--store", "env:MINE"],
        ["search", "f.yaml", "--set", "storage=s3://b/p?endpoint_override=http://localhost:9000&region=x"],
        ["search", "f.yaml", "--set", "data.prompt=password={password} see https://h/x"],
    ],
)
def test_what_is_no_password_is_let_through(words):
    refuse_passwords(words)


def run(*words, **environment):
    command = [sys.executable, "-m", "rankray", *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_the_command_refuses_before_anything_else(tmp_path):
    done = run("status", "s", "--store", f"postgresql://u:{PLANTED}@127.0.0.1:1/d")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --store: holds a password")
    assert PLANTED not in done.stdout + done.stderr
    done = run("status", "s", "--store", "env:MINE", MINE=f"postgresql://u:{PLANTED}@127.0.0.1:1/d")
    assert done.returncode == 1
    assert "postgresql://u:***@127.0.0.1:1/d does not answer" in done.stderr
    assert run("status", "s", "--store", "env:MINE").returncode == 2


def test_errors_are_printable():
    done = run("status", "s", "--store", "sqlite:///no\x1b[31msuch.db")
    assert "\x1b" not in done.stderr
    assert r"no\x1b[31msuch.db" in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_is_of_the_command_however_it_was_started(tmp_path):
    command = tmp_path / "rankray"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rankray "$@"\n')
    command.chmod(0o755)
    script = (
        f'eval "$({sys.executable} -m rankray --show-completion)"; complete -p rankray\n'
        "COMP_WORDS=(rankray pre); COMP_CWORD=1; _rankray_completion rankray; echo ${COMPREPLY[@]}"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.stdout.split("\n") == ["complete -o default -F _rankray_completion rankray", "preview", ""], done.stderr


@pytest.mark.parametrize("words", [["--name", ""], ["--name="], ["s", "--store", ""], ["--store="], ["-o", ""]])
def test_an_empty_name_is_refused(words):
    """`--store "$STORE"` with an unset variable would work on the default store."""
    with pytest.raises(ConfigError, match=f"{(words[-1] or words[-2]).rstrip('=')}: is empty; allowed: a value"):
        refuse_empty(words)


def test_what_may_be_empty_is_not_refused():
    refuse_empty(["train", "--prompt", "", "--eval=", "--name", "x", "--store=sqlite:///x.db", "--name"])


@pytest.mark.parametrize("value", ["storage=s3://key:PLANTED@bucket/x", "data.train=https://h/x?token=PLANTED"])
def test_a_secret_of_another_field_is_told_where_it_belongs(value):
    with pytest.raises(
        ConfigError, match=r"(storage|data.train): holds a secret; allowed: none in a conf.*AWS_PROFILE"
    ) as no:
        refuse_passwords(["check", "s.yaml", "--set", value.replace("PLANTED", PLANTED)])
    assert PLANTED not in str(no.value)


@pytest.mark.parametrize("url", ["sqlite:////tmp/run#1/x.db", "journal:///a=b/x.log"])
def test_a_path_is_no_password(url):
    refuse_passwords(["check", "s.yaml", "--store", url, "--set", f"store={url}"])


def test_a_store_that_is_wrong_is_named_as_it_was_given(rankray, tmp_path):
    (tmp_path / "f.yaml").write_text(
        "model: {path: m}\ndata: {train: a.jsonl, eval: b.jsonl, prompt: '{q}', completion: '{a}'}\n"
    )
    words = ["check", str(tmp_path / "f.yaml"), "--offline"]
    assert rankray(*words, "--store", "foo://x", expect=2).startswith("error: --store: store: got 'foo://x'; allowed: ")
    assert rankray(*words, "--set", "store=foo://x", expect=2).startswith("error: --set store: store: got 'foo://x'")


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["check", "f.yaml", "--set", "train.max_steps", "5"], "--set train.max_steps=5"),
        (["check", "--set", "train.max_steps", "=5", "f.yaml"], "--set train.max_steps=5"),
        (["check", "--set", "train.max_steps", "=", "5", "f.yaml"], "--set train.max_steps=VALUE"),
        (["train", "f.yaml", "train.max_steps=5"], "--set train.max_steps=5"),
        (["train", "f.yaml", "--set", "seed=1", "data.prompt={a} b"], "--set 'data.prompt={a} b'"),
    ],
)
def test_an_override_that_is_not_one_word_after_set_is_told_how_to_be_written(words, advice):
    with pytest.raises(ConfigError, match=re.escape(f"write {advice}")):
        refuse_loose_overrides(words)


def test_other_words_with_equals_signs_are_let_through(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.b=c.yaml").touch()
    refuse_loose_overrides(["check", "a.b=c.yaml", "--set", "train.max_steps=5", "--set=study.trials=3", "--set", "x"])
    refuse_loose_overrides(["check", "--set", "train.max_steps", "a.b=c.yaml"])  # the value is missing, and said to be
    refuse_loose_overrides(["init", "--data", "a.b=c", "-o", "c.d=e", "--store", "sqlite:///a.b=c"])
