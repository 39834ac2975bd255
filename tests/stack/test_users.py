"""Workers of different users, checked by what they may read: one gateway that runs as root."""

import json
import time

import pytest
from stacks import Lab

WHO = {
    "/common": ("gateway", "gateway", 0),
    "/shared": ("gateway", "gateway", 0),
    "/web": ("www-data", "www-data", 3),
    "/nobody": ("nobody", "www-data", 0),
    "/served": ("nobody", "nogroup", 3),
}
OF_EACH = "umask 077 && for user in root gateway www-data nobody; do echo of $user > /tmp/of-$user"
OF_EACH += " && chown $user /tmp/of-$user; done"


@pytest.fixture(scope="module")
def files(lab: Lab) -> Lab:
    """The lab, where each user has a file that no other may read."""
    ran = lab.run_in("users", "sh", "-c", OF_EACH)
    assert ran.exit_code == 0, ran.err
    return lab


def fetch(lab: Lab, target: str):
    """What the app says; None where it does not answer."""
    ran = lab.run_in("users", "python", "-c", FETCH, f"http://127.0.0.1:8000{target}")
    return json.loads(ran.out) if ran.exit_code == 0 else None


def ask(lab: Lab, target: str):
    ran = lab.run_in("users", "python", "-c", FETCH, f"http://127.0.0.1:8000{target}")
    assert ran.exit_code == 0, ran.err
    return json.loads(ran.out)


FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"


@pytest.mark.parametrize("path", WHO)
def test_workers_run_as_the_user_that_the_table_names(files: Lab, path):
    said = ask(files, path + "/?none")
    assert (said["user"], said["group"], said["nice"]) == WHO[path]


@pytest.mark.parametrize("path", WHO)
def test_a_worker_reads_its_users_files_and_no_others(files: Lab, path):
    users = ("root", "gateway", "www-data", "nobody")
    read = {user: ask(files, f"{path}/?/tmp/of-{user}")["content"] for user in users}
    own = WHO[path][0]
    assert read == {user: f"of {user}\n" if user == own else None for user in users}


def test_packages_are_built_as_their_pools_user_who_sees_no_secret_of_others(files: Lab):
    deadline = time.monotonic() + 60
    while (said := fetch(files, "/packaged/?none")) is None:
        assert time.monotonic() < deadline, "the pool was never served"
    assert (said["user"], said["group"]) == ("www-data", "www-data")
    noted = files.run_in("users", "cat", "/tmp/noted")
    assert set(noted.out.splitlines()) == {"33 33 -"}
    owner = files.run_in("users", "stat", "-c", "%U %a", "/tmp/environments/user-33")
    assert owner.out.split() == ["www-data", "700"]


BIND = """
import os, socket
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind("/run/http/of-root.sock")
    print(os.stat("/run/http/of-root.sock").st_gid)
os.unlink("/run/http/of-root.sock")
"""


def test_nginx_can_connect_to_the_socket_of_a_gateway_that_runs_as_root(lab: Lab):
    ran = lab.run_in("users", "python", "-c", BIND)
    assert ran.exit_code == 0, ran.err
    assert ran.out.split() == lab.run_in("nginx", "id", "-g").out.split() == ["10001"]


def test_a_gateway_that_is_not_root_says_what_it_may_not_do(lab: Lab):
    ran = lab.run_in("gateway", "gateway", "serve", "-c", "/srv/apps/users.yaml")
    assert ran.exit_code == 2
    assert ran.err.splitlines() == [
        f'/srv/apps/users.yaml:{place}: only root may start workers as "{user}", and the gateway '
        'runs as "gateway": run it as root, or leave out user and group'
        for place, user in (
            ("12:3: pools.web", "www-data"),
            ("13:3: pools.nobody", "nobody"),
            ("14:3: pools.served", "nobody"),
            ("15:3: pools.packaged", "www-data"),
        )
    ]


def test_a_reload_ends_the_workers_of_all_users(files: Lab):
    def serving() -> set[int]:
        ran = files.run_in("users", "gateway", "status", "--json", "-c", "/srv/apps/users.yaml")
        assert ran.exit_code == 0, ran.err
        generations = json.loads(ran.out)["generations"]
        assert {g["pool"] for g in generations} >= {"main", "shared", "web", "nobody", "served"}
        serving = [g for g in generations if g["state"] == "serving"]
        return {worker["pid"] for generation in serving for worker in generation["workers"]}

    before = serving()
    ran = files.run_in("users", "gateway", "reload", "-c", "/srv/apps/users.yaml")
    assert ran.exit_code == 0, ran.err
    assert not before & serving()
    assert ask(files, "/served/?none")["user"] == "nobody"
    assert files.compose("stop", "--timeout", "20", "users").returncode == 0
    container = files.container("users")
    assert container.attrs["State"]["ExitCode"] == 0, "it was killed"
    files.up("users")
