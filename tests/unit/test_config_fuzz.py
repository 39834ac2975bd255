"""Whatever the text: a Config or a ConfigError with whole lines, never another exception."""

import re
import string
from pathlib import Path

import pytest
from config_site import ENVIRON, make_site
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.load import read_config
from gateway.config.model import Config
from gateway.config.parse import parse_config
from gateway.errors import ConfigError

TABLES = sorted((Path(__file__).parents[1] / "configs").glob("*/*.yaml"))
TEXTS = [
    re.sub(r"(?m)^# expect: .*\n", "", table.read_bytes().decode("latin-1")) for table in TABLES
]
PIECES = sorted(set(re.findall(r"[\w./-]+|\s+|.", "".join(TEXTS))))

ALPHABET = (
    "abcxyzABC0123456789"
    + string.punctuation
    + " \t\n\r\0\x07\x7f\x85\xa0éß\u0301\u2028\ufeff\ud800\U0001f600"
)

QUICK = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"))


def problems(text: str, site: Path) -> list[str]:
    try:
        config = parse_config(text, "mounts.yaml", site, ENVIRON)
    except ConfigError as refused:
        return refused.problems or ["no problem told"]
    assert isinstance(config, Config)
    return []


def check(text: str, site: Path) -> None:
    for line in problems(text, site):
        assert line.isprintable()
        assert re.match(r"mounts\.yaml(:[1-9]\d*:[1-9]\d*)?: ", line)
        assert "wombat-77" not in line
        assert len(line) < 600


@QUICK
@given(text=st.text(ALPHABET))
def test_any_text(text: str, site: Path) -> None:
    check(text, site)


@QUICK
@given(
    value=st.text(ALPHABET),
    key=st.sampled_from(["timeout", "max_body", "app", "static", "redirect"]),
)
def test_any_value(value: str, key: str, site: Path) -> None:
    quoted = value.replace("'", "''")
    check(f"mounts:\n  /:\n    {key}: '{quoted}'\n", site)


@QUICK
@given(key=st.text(ALPHABET))
def test_any_mount_key(key: str, site: Path) -> None:
    quoted = key.replace("'", "''")
    check(f"mounts:\n  '{quoted}': welcome:app\n", site)


@QUICK
@given(
    text=st.sampled_from(TEXTS),
    cuts=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 40), st.sampled_from(PIECES))),
)
def test_any_mutation_of_an_example(
    text: str, cuts: list[tuple[int, int, str]], site: Path
) -> None:
    for start, length, piece in cuts:
        start %= len(text) + 1
        text = text[:start] + piece + text[start + length :]
    check(text, site)


@QUICK
@given(content=st.binary())
def test_any_bytes(content: bytes, site: Path) -> None:
    path = site / "mounts.yaml"
    path.write_bytes(content)
    try:
        lines = [read_config(path, ENVIRON).source]
    except ConfigError as refused:
        lines = refused.problems
    assert lines
    assert all(line.isprintable() for line in lines)
