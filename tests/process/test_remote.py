"""The commands that speak to a running gateway: what a person reads, and the exit code."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import Running

from gateway.commands.main import main
from gateway.commands.remote import describe_age, format_status, locate_control
from gateway.supervisor.listeners.socket_paths import find_control

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(
        tmp_path_factory.mktemp("site"),
        "  /: good:app\n  /broken: broken:app\n",
        "  reload_on_edit: false\n",
        broken="1/0\n",
    )
    yield running
    running.end()


@pytest.fixture
def run(gateway: Running, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([arguments[0], "-c", str(gateway.folder / "mounts.yaml"), *arguments[1:]])
        output = capsys.readouterr()
        # a busy machine hears what is still loading
        return code, output.out, re.sub(r"(?m)^after \d+ s: loading .*\n", "", output.err)

    return run


def test_a_reload_is_waited_for_and_told(run: Run, gateway: Running) -> None:
    code, out, err = run("reload")
    assert (code, err) == (0, "")
    assert out.startswith(f"{gateway.folder}/mounts.yaml: generation g")
    assert out.endswith(" s, new workers\n")


def test_a_reload_that_fails_is_told_as_check_does(run: Run, gateway: Running) -> None:
    table = (gateway.folder / "mounts.yaml").read_text()
    try:
        gateway.write_table("  /: good:app\n  /x: nope:app\n")
        assert run("reload") == run("check") == run("plan")
        assert run("reload")[0] == 2
        gateway.write_table("  /: good:app\n  /x: good:nope\n")
        assert run("reload") == run("check")
        assert run("reload")[0] == 3
    finally:
        (gateway.folder / "mounts.yaml").write_text(table)


def test_the_gateway_is_found_where_its_table_is_wrong(gateway: Running) -> None:
    table = gateway.folder / "mounts.yaml"
    text = table.read_text()
    try:
        for wrong in (text + "  [", text.replace("mounts:", "mount:"), text + "  /x: nope:app\n"):
            table.write_text(wrong)
            assert locate_control(table) == gateway.folder / "control.sock"
    finally:
        table.write_text(text)


def test_without_a_setting_the_socket_is_named_after_the_tables_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = find_control("auto", "mounts.yaml")
    assert path == locate_control(tmp_path / "mounts.yaml")
    assert path != find_control("auto", "other.yaml")


def test_status_names_what_failed_and_its_workers(run: Run) -> None:
    code, out, _ = run("status")
    assert code == 0
    assert "mounts       2, failed: 1" in out
    assert "mounts./broken: broken:app: ZeroDivisionError: division by zero" in out
    assert "ready, " in out
    report = json.loads(run("status", "--json")[1])
    assert report["status"] == "ready"
    workers = [w for g in report["generations"] for w in g["workers"] if g["state"] == "serving"]
    # another one may be trying the mount that failed
    assert max(worker["memory"] for worker in workers) > 2**20
    assert "\n".join(format_status(report)).startswith("gateway      ready, pid ")


def test_status_of_what_failed_alone(run: Run, gateway: Running) -> None:
    code, out, err = run("status", "--failed")
    assert (code, err) == (0, "")
    place = f"{gateway.folder}/mounts.yaml:"
    [line] = out.splitlines()
    assert line.startswith(place)
    assert "mounts./broken: broken:app: ZeroDivisionError: division by zero" in line


def test_plan_tells_what_an_edit_would_change(run: Run, gateway: Running, tmp_path: Path) -> None:
    nothing = "no changes in the table; `gateway reload` reloads the code\n"
    assert run("plan") == (0, nothing, "")
    other = tmp_path / "mounts.yaml"
    table = (gateway.folder / "mounts.yaml").read_text()
    (tmp_path / "good.py").write_text("")
    (tmp_path / "broken.py").write_text("")
    other.write_text(table + "  /broken/x: good:app\n")
    expected = "+ /broken/x\n> /broken/x/* moves from /broken to /broken/x\n"
    expected += "= in place: no code is loaded again\n"
    assert run("plan", str(other)) == (10, expected, "")
    assert gateway.control("plan", file=str(other)) == {
        "exit_code": 10,
        "messages": expected.splitlines(),
    }
    assert gateway.control("plan", file="/nowhere.yaml")["exit_code"] == 2


def test_a_stop_where_nothing_starts_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Running(tmp_path, "  /: good:app\n")
    try:
        assert main(["stop", "-c", str(tmp_path / "mounts.yaml")]) == 0
    finally:
        running.end()
    assert capsys.readouterr() == ("stopped\n", "")


@pytest.mark.parametrize("command", ["reload", "rollback", "status", "stop", "plan"])
def test_where_no_gateway_runs(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "-c", str(tmp_path / "mounts.yaml")]) == 1
    assert "no gateway answers at /" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0s"), (59, "59s"), (90, "1m"), (7200, "2h"), (200_000, "2d")]
)
def test_ages(seconds: float, told: str) -> None:
    assert describe_age(seconds) == told
