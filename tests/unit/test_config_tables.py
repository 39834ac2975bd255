"""The example tables in tests/configs: each says itself what is expected of it.

A bad one begins with ``# expect:`` lines, the problems in their order without the file's name. A
good one has expressions that hold of what was read.
"""

import re
from pathlib import Path

import pytest
from config_site import ENVIRON, make_site

from gateway.config.load import read_config
from gateway.config.model import (
    AppTarget,
    RedirectTarget,
    ServerSettings,
    StaticTarget,
    UpstreamTarget,
)
from gateway.errors import ConfigError
from gateway.limits import MountLimits

CONFIGS = Path(__file__).parents[1] / "configs"
VALID = sorted(CONFIGS.glob("valid/*.yaml"))
INVALID = sorted(CONFIGS.glob("invalid/*.yaml"))


def expectations(table: Path) -> list[str]:
    text = table.read_bytes().decode("utf-8-sig", errors="replace")
    found = re.findall(r"^# expect: (.*?)\r?$", text, re.MULTILINE)
    assert found, "a table without an expectation tests nothing"
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize("table", VALID, ids=lambda table: table.stem)
def test_good_table_is_read(table: Path, site: Path) -> None:
    path = site / "mounts.yaml"
    path.write_bytes(table.read_bytes())
    config = read_config(path, ENVIRON)
    names = {
        "mounts": {mount.name: mount for mount in config.mounts},
        "pools": config.pools,
        "server": config.server,
        "site": site,
    }
    kinds = (AppTarget, MountLimits, RedirectTarget, ServerSettings, StaticTarget, UpstreamTarget)
    names |= {kind.__name__: kind for kind in kinds}
    assert (config.source, config.directory) == (str(path), site)
    for expectation in expectations(table):
        assert eval(expectation, names), expectation


@pytest.mark.parametrize("table", INVALID, ids=lambda table: table.stem)
def test_bad_table_is_refused_with_every_problem(table: Path, site: Path) -> None:
    path = site / "mounts.yaml"
    path.write_bytes(table.read_bytes())
    with pytest.raises(ConfigError) as refused:
        read_config(path, ENVIRON)
    found = [line.removeprefix(f"{path}:") for line in refused.value.problems]
    assert found == expectations(table)
    assert not any("wombat-77" in line for line in found)
