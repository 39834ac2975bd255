"""The generated schema and reference page: they are the ones in the repository, and they agree
with the parser about the example tables."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from config_site import ENVIRON, make_site
from jsonschema import Draft7Validator

from gateway.config.describe.reference import build_reference
from gateway.config.describe.schema import build_schema
from gateway.config.parse import parse_config
from gateway.config.text.nodes import Mapping, Node, Scalar, Sequence, parse_yaml
from gateway.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "tests" / "configs"
VALID = sorted(CONFIGS.glob("valid/*.yaml"))

# Mistakes that an editor should underline while they are typed.
UNDERLINED = [
    "top_unknown",
    "top_no_mounts",
    "mounts_empty",
    "mounts_list",
    "section_not_mapping",
    "server_unknown",
    "server_misplaced",
    "server_listen_port_alone",
    "server_listen_no_port",
    "server_workers_zero",
    "server_proxies_text",
    "server_access_log",
    "server_proxy_protocol",
    "server_proxy_protocol_number",
    "server_count_zero",
    "duration_without_unit",
    "duration_words",
    "size_without_unit",
    "size_words",
    "defaults_unknown",
    "key_no_slash",
    "key_url",
    "key_encoded",
    "key_pattern",
    "mount_nothing",
    "mount_list",
    "mount_no_kind",
    "mount_two_kinds",
    "mount_key_of_another_kind",
    "mount_unknown_key",
    "app_no_colon",
    "app_file",
    "app_dash",
    "env_not_mapping",
    "env_values",
    "env_names",
    "upstream_address",
    "upstream_list",
    "upstream_settings",
    "redirect_location",
    "redirect_status",
]

GENERATED = {
    "apps/mounts.schema.json": lambda: (
        json.dumps(build_schema(), indent=2, ensure_ascii=False) + "\n"
    ),
    "docs/table.md": build_reference,
}


def as_json(node: Node) -> Any:
    """As an editor reads it: plain scalars by YAML 1.2's core schema."""
    if isinstance(node, Mapping):
        pairs = zip(node.items[::2], node.items[1::2], strict=True)
        return {key.text: as_json(value) for key, value in pairs}
    if isinstance(node, Sequence):
        return [as_json(item) for item in node.items]
    return core_scalar(node)


def core_scalar(node: Scalar) -> Any:
    if node.is_plain:
        if node.text in ("", "~", "null"):
            return None
        if node.text in ("true", "false"):
            return node.text == "true"
        if re.fullmatch(r"[-+]?[0-9]+", node.text):
            return int(node.text)
        if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", node.text):
            return float(node.text)
    return node.text


def errors(table: str) -> list[str]:
    validator = Draft7Validator(build_schema())
    return [error.message for error in validator.iter_errors(as_json(parse_yaml(table)))]


@pytest.mark.parametrize("path", GENERATED)
def test_file_in_the_repository_is_the_generated_one(path: str) -> None:
    assert (ROOT / path).read_text() == GENERATED[path](), "run: make docs"


def test_schema_is_a_schema() -> None:
    Draft7Validator.check_schema(build_schema())


@pytest.mark.parametrize("table", VALID, ids=lambda table: table.stem)
def test_schema_accepts_good_table(table: Path) -> None:
    assert errors(table.read_text("utf-8-sig")) == []


def test_schema_accepts_example_table() -> None:
    assert errors((ROOT / "apps" / "mounts.yaml").read_text()) == []


@pytest.mark.parametrize("name", UNDERLINED)
def test_schema_refuses_bad_table(name: str) -> None:
    assert errors((CONFIGS / "invalid" / f"{name}.yaml").read_text()) != []


def test_example_in_the_reference_is_a_good_table(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", build_reference(), re.DOTALL)
    assert found
    parse_config(found[1], "mounts.yaml", make_site(tmp_path), ENVIRON)


def test_message_in_the_reference_is_a_real_one(tmp_path: Path) -> None:
    found = re.search(r"```\n(apps/mounts.yaml:.*?)\n```", build_reference())
    assert found
    table = "mounts: {/: welcome:app}\nserver:\n  workers: many\n"
    with pytest.raises(ConfigError) as refused:
        parse_config(table, "apps/mounts.yaml", make_site(tmp_path), ENVIRON)
    assert refused.value.problems == [found[1]]


if __name__ == "__main__":
    for path, build in GENERATED.items():
        (ROOT / path).write_text(build())
