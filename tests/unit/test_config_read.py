"""Reading the file itself, and the form of the messages."""

from pathlib import Path

import pytest
from config_site import ENVIRON, make_site

from gateway.config.load import MAX_BYTES, read_config
from gateway.config.parse import parse_config
from gateway.config.text.problems import MAX_LISTED
from gateway.errors import ConfigError


def problems(path: str | Path) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read_config(path, ENVIRON)
    return refused.value.problems


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mounts.yaml"
    assert problems(path) == [f"{path}: no such file: name the table with -c FILE"]


def test_directory_is_one_line(tmp_path: Path) -> None:
    assert problems(tmp_path) == [f"{tmp_path}: a directory: name the table in it with -c FILE"]


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "mounts.yaml/x"])
def test_impossible_path_is_one_line(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mounts.yaml").touch()
    (line,) = problems(path)
    assert "cannot be read: " in line
    assert line.isprintable()


def test_file_larger_than_any_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mounts.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert problems(path) == [f"{path}: larger than 16 MiB: this is not a table"]


def test_messages_name_the_file_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_site(tmp_path)
    (tmp_path / "mounts.yaml").write_text("mounts: {/: welcome}")
    monkeypatch.chdir(tmp_path / "notes")
    (line,) = problems("../mounts.yaml")
    assert line.startswith("../mounts.yaml:1:13: mounts./: ")


def test_files_are_sought_beside_a_linked_table_not_where_it_points(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    make_site(site)
    stored = tmp_path / "stored.yaml"
    stored.write_text("mounts: {/: welcome:app}")
    (site / "mounts.yaml").symlink_to(stored)
    assert read_config(site / "mounts.yaml", ENVIRON).directory == site


def test_static_directory_linked_to_the_table_is_refused(tmp_path: Path) -> None:
    (make_site(tmp_path) / "link").symlink_to(tmp_path)
    (tmp_path / "mounts.yaml").write_text("mounts: {/: {static: link}}")
    assert "publish the table itself" in problems(tmp_path / "mounts.yaml")[0]


def test_only_the_first_of_very_many_problems_are_listed(tmp_path: Path) -> None:
    table = "mounts:\n" + "".join(f"  /{number}: x\n" for number in range(MAX_LISTED + 7))
    with pytest.raises(ConfigError) as refused:
        parse_config(table, "mounts.yaml", tmp_path, ENVIRON)
    lines = refused.value.problems
    assert len(lines) == MAX_LISTED + 1
    assert lines[0].startswith("mounts.yaml:2:7: mounts./0: ")
    assert lines[-1] == "mounts.yaml: and 7 more, fix these first"


def test_problems_come_in_the_order_of_their_places(tmp_path: Path) -> None:
    table = "mounts: {/: {app: x, timeout: 5}}\ndefaults: {timeout: 5}\nserver: {workers: 0}\n"
    with pytest.raises(ConfigError) as refused:
        parse_config(table, "m", tmp_path, ENVIRON)
    places = [line.split(": ")[0] for line in refused.value.problems]
    assert places == ["m:1:19", "m:1:31", "m:2:21", "m:3:19"]


def test_byte_order_mark_takes_no_column(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config("\ufeff@", "m", tmp_path, ENVIRON)
    assert refused.value.problems == ['m:1:1: not YAML: no value begins with "@": put it in quotes']


def test_value_of_many_lines_is_quoted_in_one(tmp_path: Path) -> None:
    table = 'mounts: {"/\\n\\e[31m": "a\\nb\\u2028c", /b: ' + "x" * 500 + "}"
    with pytest.raises(ConfigError) as refused:
        parse_config(table, "mounts.yaml", tmp_path, ENVIRON)
    assert all(line.isprintable() and len(line) < 300 for line in refused.value.problems)


def test_module_with_the_name_of_an_installed_one_is_looked_for_beside_the_table(
    tmp_path: Path,
) -> None:
    (tmp_path / "wsgiref").mkdir()
    (tmp_path / "wsgiref" / "__init__.py").touch()
    with pytest.raises(ConfigError, match=r'no module "wsgiref\.handlers"'):
        parse_config("mounts: {/: wsgiref.handlers:app}", "m", tmp_path, ENVIRON)


def test_folder_without_init_does_not_hide_an_installed_package(tmp_path: Path) -> None:
    (tmp_path / "wsgiref").mkdir()
    table = "mounts: {/: wsgiref.simple_server:demo_app}"
    assert parse_config(table, "m", tmp_path, ENVIRON).mounts


def test_no_app_is_imported(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("raise SystemExit('imported')")
    assert parse_config("mounts: {/: loud:app}", "m", tmp_path, ENVIRON).mounts
