import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from rankray.config import config_from
from rankray.errors import ConfigError
from rankray.model import extras
from rankray.model.extras import LIGER, QUANTIZATION, needed, require


def test_what_a_configuration_asks_for(tree):
    assert needed(config_from(tree())) == []
    assert needed(config_from(tree(train__sft={"use_liger_kernel": False}))) == []
    given = config_from(tree(model__lora={}, model__quantization="8bit", train__sft={"use_liger_kernel": True}))
    assert needed(given) == [QUANTIZATION, LIGER]


@pytest.mark.parametrize("extra", [QUANTIZATION, LIGER])
def test_the_extra_is_one_that_the_package_has(extra):
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    [line] = project["optional-dependencies"][extra.name]
    assert line.split(";")[0].strip() == f"{extra.package}>={extra.least}"


@pytest.mark.parametrize(
    ("found", "version", "said"),
    [
        (None, None, "bitsandbytes is not installed"),
        ("there", "0.45.3", "bitsandbytes 0.45.3 is installed"),
        ("there", "0.46.1.dev0", ""),
        ("there", "0.50", ""),
        ("there", "1.0.0", ""),
        ("there", metadata.PackageNotFoundError(), "a bitsandbytes of unknown version is installed"),
    ],
)
def test_a_library_that_is_missing_or_too_old(monkeypatch, found, version, said):
    def version_of(package):
        if isinstance(version, Exception):
            raise version
        return version

    monkeypatch.setattr(extras, "find_spec", lambda module: found)
    monkeypatch.setattr(extras.metadata, "version", version_of)
    if not said:
        require(QUANTIZATION)
        return
    with pytest.raises(ConfigError) as caught:
        require(QUANTIZATION)
    assert str(caught.value).startswith(f"model.quantization: {said}; needed is bitsandbytes 0.46.1 or newer; ")
    assert "pip install 'rankray[quantization]'" in str(caught.value)
