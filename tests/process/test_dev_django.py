"""Django in dev mode: what a view raises is shown, whatever its settings and wherever they are."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import Running, wait_until

SETTINGS = """
SECRET_KEY = "x"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "site_urls"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
"""
URLS = """
from django.http import HttpResponse
from django.urls import path
def fail(request):
    raise LookupError("<no> answer")
urlpatterns = [path("fail", fail), path("", lambda request: HttpResponse("well"))]
handler500 = lambda request: HttpResponse("the project's own page", status=500)
"""
BY_MODULE = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
from django.core.wsgi import get_wsgi_application
app = get_wsgi_application()
"""
BY_CALL = """
from django.conf import settings
import site_settings
settings.configure(**{k: v for k, v in vars(site_settings).items() if k.isupper()})
from django.core.wsgi import get_wsgi_application
app = get_wsgi_application()
"""
WAYS = {
    "module": (BY_MODULE, "{app: site_wsgi:app}"),
    "call": (BY_CALL, "{app: site_wsgi:app}"),
    "table": (
        BY_MODULE.replace("site_settings", "nowhere"),
        "{app: site_wsgi:app, env: {DJANGO_SETTINGS_MODULE: site_settings}}",
    ),
    "threads": (BY_MODULE, "{app: site_wsgi:app, pool: t}\npools:\n  t: {concurrency: threads}"),
}
OWN_PAGE = "the project's own page"

Start = Callable[..., Running]


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def start(way: str, settings: str, option: str = "--dev") -> Running:
        wsgi, mount = WAYS[way]
        modules = {"site_settings": SETTINGS + settings, "site_urls": URLS, "site_wsgi": wsgi}
        mounts = f"  /: good:app\n  /site: {mount}\n"
        started.append(Running(tmp_path, mounts, option=option, **modules))
        request.addfinalizer(started[-1].end)
        assert started[-1].ask("/site/").endswith(b"well")
        return started[-1]

    yield start
    for running in started:
        assert running.end() == 0


def fail(gateway: Running) -> str:
    answer = gateway.ask("/site/fail").decode()
    assert answer.startswith("HTTP/1.1 500 ")
    return answer


@pytest.mark.parametrize("way", WAYS)
def test_without_debug_the_page_and_the_log_show_the_traceback(start: Start, way: str) -> None:
    gateway = start(way, "DEBUG = False\n")
    page = fail(gateway)
    assert "site_urls.py&quot;, line 5, in fail" in page
    assert "LookupError: &lt;no&gt; answer" in page
    wait_until(lambda: "LookupError: <no> answer" in gateway.log_text, "the log shows it, too")


def test_with_debug_the_page_is_djangos_own(start: Start) -> None:
    gateway = start("module", "DEBUG = True\n")
    page = fail(gateway)
    assert "<code>DEBUG = True</code>" in page
    assert "LookupError" in page
    wait_until(lambda: "LookupError: <no> answer" in gateway.log_text, "the log shows it, too")


def test_a_project_that_chooses_its_own_error_page_has_it(start: Start) -> None:
    gateway = start("module", "DEBUG = False\nDEBUG_PROPAGATE_EXCEPTIONS = False\n")
    assert fail(gateway).endswith(OWN_PAGE)


def test_without_dev_mode_the_page_is_the_projects_own(start: Start) -> None:
    gateway = start("module", "DEBUG = False\n", option="")
    assert fail(gateway).endswith(OWN_PAGE)
