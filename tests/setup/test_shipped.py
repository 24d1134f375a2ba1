import pytest

from rankray.errors import ConfigError
from rankray.setup.shipped import CLUSTERS, cluster_files, write_cluster


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_cluster_file_is_there_and_written(tmp_path, name):
    copy = write_cluster(name, tmp_path)
    source = cluster_files() / CLUSTERS[name]
    files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
    assert files
    for file in files:
        assert (copy / file.relative_to(source) if source.is_dir() else copy).read_bytes() == file.read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        write_cluster(name, tmp_path)


def test_an_unknown_cluster(tmp_path):
    with pytest.raises(ConfigError, match=r"--cluster: got 'awz' \(did you mean 'aws'\?\); allowed: aws, gcp"):
        write_cluster("awz", tmp_path)
