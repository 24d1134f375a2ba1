from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rankray.errors import StoreError
from rankray.paths import resolved_url
from rankray.store import attach, urls
from rankray.store.urls import masked, parse_url, scrub, validate_url

SECRET = "hunter2/&"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:pw@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql://u:p@w@h/d", "postgresql://u:***@h/d"),
        ("mysql+pymysql://u:pw@h/d?charset=utf8", "mysql+pymysql://u:***@h/d?charset=utf8"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?user=u&password=pw&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("nonsense u:pw@h", "nonsense u:***@h"),
    ],
)
def test_masked_hides_the_password_and_nothing_else(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_scrub_takes_the_password_out_quoted_or_not() -> None:
    url = "postgresql://u:hunter2%2F%26@h/d"
    assert scrub(f"{url} {SECRET} hunter2%2F%26", url) == "postgresql://u:***@h/d *** ***"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgres://u:pw@h/d", "did you mean 'postgresql'?"),
        ("sqlit:///x.db", "did you mean 'sqlite'?"),
        ("redis://h", "allowed: sqlite:///file.db, postgresql://"),
        ("store.db", "allowed: sqlite:///file.db"),
        ("sqlite://x.db", "three slashes"),
        ("sqlite://", "three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "cannot be resumed"),
        ("journal:///", "names no file"),
    ],
)
def test_a_wrong_url_says_what_is_allowed_and_no_password(url: str, says: str) -> None:
    with pytest.raises(StoreError) as caught:
        validate_url(url)
    assert says in str(caught.value)
    assert "pw" not in str(caught.value)
    assert str(caught.value).startswith("store: ")


@pytest.fixture
def every_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda name: object())


@pytest.mark.usefixtures("every_driver")
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:pw@h", "database's name is missing"),
        ("postgresql://u:pw@h:54x32/d", "%XX"),
        ("postgresql://u:pw@1@h/d", "%XX"),
        ("postgresql+psycpg2://u:pw@h/d", "did you mean 'psycopg2'?"),
        ("grpc://h", "host and port"),
        ("grpc://h:x", "%XX"),
    ],
)
def test_a_wrong_server_url(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        validate_url(url)
    assert "pw" not in str(caught.value)


@pytest.mark.usefixtures("every_driver")
def test_servers_get_the_driver_that_is_installed() -> None:
    assert parse_url("postgresql://u:pw@h/d").driver == "psycopg2"
    assert parse_url("postgresql+psycopg://u:pw@h/d").driver == "psycopg"
    assert parse_url("mysql://u:pw@h/d").driver == "pymysql"
    assert parse_url("postgresql://u:pw/x#?{}@h/d").driver == "psycopg2", "what SQLAlchemy can parse is allowed"
    grpc = parse_url("grpc://h:13000")
    assert (grpc.host, grpc.port) == ("h", 13000)
    assert "pw" not in repr(parse_url("postgresql://u:pw@h/d"))


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StoreError, match="pip install psycopg2-binary"):
        validate_url("postgresql://u:pw@h/d")


def test_file_urls_are_relative_with_three_slashes_and_absolute_with_four() -> None:
    assert parse_url("sqlite:///a/b.db").path == Path("a/b.db").absolute()
    assert parse_url("sqlite:////a/b.db").path == Path("/a/b.db")
    assert parse_url("journal:////a/b.log").path == Path("/a/b.log")


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_both_kinds_of_files_read_a_path_alike(scheme: str) -> None:
    assert parse_url(f"{scheme}:////a/b%20c%3F.db").path == Path("/a/b c?.db")
    assert parse_url(f"{scheme}:///~/b.db").path == Path.home() / "b.db"
    with pytest.raises(StoreError, match=rf"^store: got '{scheme}:///~nobody-here/b.db': .*there is no user"):
        parse_url(f"{scheme}:///~nobody-here/b.db")


def test_an_sqlite_file_that_an_earlier_version_made_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "b%20c.db").touch()
    assert parse_url(f"sqlite:///{tmp_path}/b%20c.db").path == tmp_path / "b%20c.db"
    assert parse_url(f"journal:///{tmp_path}/b%20c.db").path == tmp_path / "b c.db"


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "lustre", "9p", "fuse.juicefs", "wekafs"])
def test_sqlite_on_a_network_file_system_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = f"/dev/x / ext4 rw 0 0\nserver:/share {tmp_path} {kind} rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **_: mounts)
    with pytest.raises(StoreError, match="PostgreSQL"):
        validate_url(f"sqlite:///{tmp_path}/new/store.db")
    validate_url(f"journal:///{tmp_path}/new/store.log")
    validate_url(f"sqlite:///{tmp_path.parent}/store.db")


def test_checking_a_url_needs_no_optuna() -> None:
    code = (
        "import sys, rankray.store as s; s.validate_url('sqlite:///x.db'); s.masked('x'); "
        "assert not {'optuna', 'sqlalchemy', 'torch', 'ray'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PLANTED = "plantedX9"
SHAPES = [
    f"host=db user=u password={PLANTED} dbname=d",
    f"host=db user=u password = {PLANTED} dbname=d",
    f"host=db password='{PLANTED} x' dbname=d",
    f"host=db password='{PLANTED}",
    f"postgresql://h/d?PASSWORD={PLANTED}",
    f"postgresql://h/d?user=u;password={PLANTED}",
    f"postgresql://h/d;password={PLANTED}",
    f"postgresql://h/d#password={PLANTED}",
    f"postgresql://h/password={PLANTED}",
    f"postgresql://h/d?options=-c%20x.password%3D{PLANTED}",
    f"postgresql://h/d?options=--x={PLANTED}",
    f"postgresql://h/d?pass%77ord={PLANTED}",
    f"postgresql://h/d?a=1&amp;password={PLANTED}",
    f"postgresql://h/d?passfile=/x&sslpassword={PLANTED}",
    f"postgresql://u%3A{PLANTED}@h/d",
    f"postgresql://u%253A{PLANTED}@h/d",
    f"postgresql://u:{PLANTED}@h/d",
    f"postgresql://u:{PLANTED}@h@x/d",
    f"postgresql://u:a/{PLANTED}@h/d",
    f"postgresql://u:a?{PLANTED}@h/d",
    f"postgresql://u:a#{PLANTED}@h/d",
    f"postgresql://u:%{PLANTED}@h/d",
    f"postgresql:///u:{PLANTED}@h/d",
    f"postgresql:/u:a/{PLANTED}@h/d",
    f"postgresql:u:{PLANTED}@h/d",
    f"PostgreSQL://u:{PLANTED}@h/d",
    f"mysql://u:{PLANTED}@h/d;x",
    f"mysql://h/d?user=u&passwd={PLANTED}",
    f"mysql://h/d?auth_plugin_token={PLANTED}",
    f"grpc://u:{PLANTED}@h:1",
    f"grpc://h:1?token={PLANTED}",
    f"sqlite://u:{PLANTED}@h/x.db",
    f"sqlite:///x.db?password={PLANTED}",
    f"redis://:{PLANTED}@h",
    f"u:{PLANTED}@h/d",
]


@pytest.mark.usefixtures("every_driver")
@pytest.mark.parametrize("url", SHAPES)
def test_no_shape_of_a_password_is_shown(url: str) -> None:
    assert PLANTED not in masked(url)
    assert PLANTED not in scrub(f"could not connect: {url} ... {urls.secrets(url)}", url)
    assert urls.secrets(url)
    try:
        shown = repr(parse_url(url))
    except StoreError as error:
        shown = str(error)
        assert "\n" not in shown
    assert PLANTED not in shown


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://h/d?PASSWORD=x", "got the option 'PASSWORD'; allowed: a connection parameter"),
        ("postgresql://h/d?nonsense=x", "got the option 'nonsense'"),
        ("postgresql://h/d;password=x", "where no password may be"),
        ("postgresql://u%3Ax@h/d", "where no password may be"),
        ("grpc://u:x@h:1", "the proxy asks for no login"),
    ],
)
def test_what_a_driver_would_not_understand_is_refused(url: str, says: str) -> None:
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    with pytest.raises(StoreError, match=says):
        parse_url(url)


def test_what_is_printed_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAY_STORE", f"postgresql://u:{PLANTED}@h/d")
    text = f"a mysql://u:other@h/d b {PLANTED} \x1b[31m hub_token: hf_abcdefghijklmnopqrstuv 'api_key': 'k' key: x"
    assert urls.safe_text(text) == r"a mysql://u:***@h/d b *** \x1b[31m hub_token: *** 'api_key': *** key: x"


@pytest.mark.parametrize(
    "url",
    ["sqlite:///x.db?mode=ro", "sqlite:////a/x.db?timeout=30&uri=true", "journal:///x.log?ro=1"],
)
def test_options_of_a_file_are_refused_and_not_passed_over(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"has no options.*allowed: (sqlite|journal):///file.*correct the URL"):
        parse_url(resolved_url(url))
    with pytest.raises(StoreError, match="has no options"):
        attach(url, "s")
    assert list(tmp_path.iterdir()) == []
