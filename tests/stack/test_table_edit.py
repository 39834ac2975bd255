"""An edit of the table, and apps that do not load."""

import pytest
from compose_stack import wait_for
from stacks import Lab
from wire import wait_until

CHECK = ("gateway", "check", "-c", "/srv/apps/mounts.yaml")


def test_an_edit_is_served(disturbed_lab: Lab):
    lab = disturbed_lab
    assert lab.fetch("/added").status == 404
    lab.table += "  /added: echo:app\n"
    answer = wait_for(lab, "/added/x", lambda answer: answer.status == 200)
    assert answer.json()["script_name"] == "/added"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("  /added: {app: echo:app, timout: 3s}\n", "timout: "),
        ("  /added: ech:app\n", "ech"),
        ("  /echo: echo:app\n", "/echo"),
        ("  /added: {static: ./none}\n", "none"),
    ],
)
def test_a_wrong_edit_is_told_with_its_line_and_changes_nothing(lab: Lab, edit, message):
    table = lab.table
    lab.table = table + edit
    try:
        ran = lab.run_in("gateway", *CHECK, "--table-only")
        assert lab.fetch("/echo").status == 200
    finally:
        lab.table = table
    assert ran.exit_code == 2
    line = table.count("\n") + 1
    [problem] = ran.err.splitlines()
    assert problem.startswith(f"/srv/apps/mounts.yaml:{line}:")
    assert message in problem
    assert lab.run_in("gateway", *CHECK, "--table-only").exit_code == 0


def test_a_broken_app_answers_503_beside_healthy_ones(lab: Lab):
    for target in ("/broken", "/broken/", "/broken/x?y"):
        answer = lab.fetch(target)
        assert answer.status == 503
        assert answer["Retry-After"]
        assert answer["Content-Type"].startswith("text/html")
        assert "RuntimeError" not in answer.text
        assert "db.example" not in answer.text
    for target in ("/echo", "/download?1", "/upload/x"):
        assert lab.fetch(target).status == 200


def test_a_broken_app_is_logged_with_its_line_and_its_traceback(lab: Lab):
    log = lab.stderr("gateway")
    line = lab.table.splitlines().index("  /broken: broken:app") + 1
    assert f"/srv/apps/mounts.yaml:{line}:" in log
    assert "RuntimeError: no database at db.example" in log
    assert "/srv/apps/broken.py" in log
    ran = lab.run_in("gateway", *CHECK)
    assert ran.exit_code == 3
    assert f"/srv/apps/mounts.yaml:{line}:" in ran.err
    assert "RuntimeError: no database at db.example" in ran.err


def test_a_failing_request_is_logged_with_its_id_and_its_traceback(lab: Lab):
    answer = lab.fetch("/fails")
    assert answer.status == 500
    assert "LookupError" not in answer.text

    def logged() -> bool:
        log = lab.stderr("gateway")
        return answer["X-Request-ID"] in log and "LookupError: the answer is missing" in log

    wait_until(logged, "the traceback with the request's id")
    assert lab.fetch("/echo").status == 200


def test_a_table_that_is_wrong_at_a_start_is_named_and_mended_without_a_restart(disturbed_lab: Lab):
    lab, table = disturbed_lab, disturbed_lab.table
    lab.table = table + "  /added: ech:app\n"
    lab.restart_gateway()
    where = f"/srv/apps/mounts.yaml:{table.count(chr(10)) + 1}:"
    wait_until(lambda: where in lab.stderr("gateway"), "the log names the line")
    away = wait_for(lab, "/echo", lambda answer: answer.status in (502, 503, 504))
    assert away["Retry-After"]
    lab.table = table + "  /added: echo:app\n"
    wait_for(lab, "/added", lambda answer: answer.status == 200)
