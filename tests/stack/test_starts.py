"""Starts that are slow or fail: nginx answers meanwhile, and what failed is said last; and a stop
from within."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_stack import Stack, wait_for
from wire import Connection, build_request, wait_until

from gateway.limits import Limits

SERVES = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"served"]
"""
# until the test lets it go on
WAITS = f"""
import pathlib, time
while not pathlib.Path("/data/go").exists():
    time.sleep(0.05)
{SERVES}
"""
GOOD = "mounts: {/: serves:app}\n"


class Site(Stack):
    """A stack that has not been started, whose apps and table lie in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in (("serves", SERVES), ("waits", WAITS), ("raises", "1 / 0\n")):
            (folder / f"{name}.py").write_text(text)
        folder.chmod(0o755)
        super().__init__("starts", "apps.yml", TEST_APPS=str(folder))

    def write(self, table: str) -> None:
        (self.folder / "mounts.yaml").write_text(table)

    def made_up(self) -> tuple[int, list[str]]:
        """`make up` to its end: the exit code, and the lines that it has printed."""
        with self.begin_up() as process:
            out, _ = process.communicate(timeout=300)
        return process.returncode, out.splitlines()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        yield site
    finally:
        site.down()


def health(site: Site, service: str) -> str:
    """ "" before its start."""
    try:
        state = site.container(service).attrs["State"]
    except ValueError:  # it is not made yet
        return ""
    return state.get("Health", {}).get("Status", "")


def test_nginx_is_there_while_the_gateway_loads_and_what_is_asked_meanwhile_is_answered(
    site: Site,
) -> None:
    site.write("mounts: {/: waits:app}\n")
    with site.begin_up() as up:
        try:
            wait_until(lambda: health(site, "nginx") == "healthy", "nginx is healthy", 120)
            wait_until(lambda: "listening" in site.stderr("gateway"), "the gateway has a socket")
            with Connection(site.address, 60) as client:
                client.send(build_request(client.host, "/"))
                assert health(site, "gateway") == "starting"
                site.run_in("gateway", "touch", "/data/go")
                answer = client.read_answer()
        finally:
            site.run_in("gateway", "touch", "/data/go")
        out, _ = up.communicate(timeout=120)
    # on a busy machine the mount may have been left out already
    assert answer.status in (200, 503)
    assert (up.returncode, health(site, "gateway")) == (0, "healthy")
    assert f"The gateway serves http://localhost:{site.address[1]}/" in out.splitlines()
    wait_for(site, "/", lambda answer: answer.content == b"served")


def test_a_mistake_in_the_table_is_said_last_and_nginx_has_its_page(site: Site) -> None:
    site.write(f"{GOOD}servr: 1\n")
    code, lines = site.made_up()
    assert code != 0
    assert "gateway is not healthy. Its log ends with:" in lines
    assert lines[-1].startswith("/srv/apps/mounts.yaml:2:1: ")
    assert len([line for line in lines if "mounts.yaml:2:1" in line]) == 1
    away = site.fetch("/")
    assert (away.status, away["Retry-After"]) == (502, "5")
    site.write(GOOD)
    assert site.made_up()[0] == 0
    assert site.fetch("/").content == b"served"


def test_a_mount_that_does_not_load_is_said_last_and_a_stop_from_within_says_who_starts_it_again(
    site: Site,
) -> None:
    site.write("mounts:\n  /: serves:app\n  /raises: raises:app\n")
    code, lines = site.made_up()
    assert code == 0
    assert "These mounts do not serve:" in lines
    assert lines[-1].startswith("/srv/apps/mounts.yaml:3:3: mounts./raises: ")
    stopped = site.compose("exec", "-T", "gateway", "gateway", "stop")
    assert "docker compose stop gateway" in stopped.stderr
    wait_until(lambda: site.container("gateway").attrs["RestartCount"] == 1, "it is back")
    wait_for(site, "/", lambda answer: answer.status == 200)


def test_a_start_has_the_time_that_an_import_has(site: Site) -> None:
    """The health check's, as the image says it; the tests above only wait for what they need."""
    site.write(GOOD)
    site.build_and_up()
    check = site.container("gateway").image.attrs["Config"]["Healthcheck"]
    second = 10**9
    assert check["StartPeriod"] >= 2 * Limits().start_timeout_seconds * second
    for service in ("gateway", "nginx"):
        check = site.container(service).image.attrs["Config"]["Healthcheck"]
        assert check["Timeout"] >= 10 * second
        assert check["Retries"] >= 10
