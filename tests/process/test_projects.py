"""Two Django projects never share a process; one project may be mounted as often as anyone likes.

With the real Django, in processes of their own: settings can be configured once in a process.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import ENVIRON, Running

Start = Callable[..., Running]

REFUSED = 'two Django projects cannot share a process: give one of them "pool: own"'
SETTINGS = """
SECRET_KEY = "k"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "{name}.urls"
TIME_ZONE = "UTC"
"""
URLS = """
from django.http import HttpResponse
from django.urls import re_path
urlpatterns = [re_path("", lambda request: HttpResponse("this is {name}"))]
"""
# as ``django-admin startproject`` writes it
STARTPROJECT = """
import os
from django.core.wsgi import get_wsgi_application
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{name}.settings")
application = get_wsgi_application()
"""
ASSIGNED = STARTPROJECT.replace("environ.setdefault(", "environ.__setitem__(")
UPDATED = STARTPROJECT.replace(
    'environ.setdefault("DJANGO_SETTINGS_MODULE", "{name}.settings")',
    'environ.update(DJANGO_SETTINGS_MODULE="{name}.settings")',
)
FACTORY = """
import os
def make():
    from django.core.wsgi import get_wsgi_application
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{name}.settings")
    return get_wsgi_application()
"""
WRAPPED = """
from {name}.wsgi import application as inner
def application(environ, start_response):
    return inner(environ, start_response)
"""
SWALLOWED = """
import os
from django.core.wsgi import get_wsgi_application
try:
    os.environ["DJANGO_SETTINGS_MODULE"] = "{name}.settings"
except Exception:
    pass
application = get_wsgi_application()
"""
CONFIGURE = """
from django.conf import settings
options = dict(SECRET_KEY="k", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, TIME_ZONE="UTC")
{condition}settings.configure(**options)
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import re_path
urlpatterns = [re_path("", lambda request: HttpResponse("this is {name}"))]
application = get_wsgi_application()
"""
# a Flask app and the like that uses Django's ORM
ORM_ALONE = """
import os, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{name}.settings")
django.setup()
def application(environ, start_response):
    from django.conf import settings
    start_response("200 OK", [])
    return [b"this is " + settings.ROOT_URLCONF.encode()]
"""
UNUSED = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{name}.settings")
def application(environ, start_response):
    from django.core.wsgi import get_wsgi_application
    return get_wsgi_application()(environ, start_response)
"""


def write_project(folder: Path, name: str, wsgi: str = STARTPROJECT) -> None:
    package = folder / name
    package.mkdir()
    for file, text in {"settings": SETTINGS, "urls": URLS, "wsgi": wsgi, "__init__": ""}.items():
        (package / f"{file}.py").write_text(text.replace("{name}", name))
    (package / "outer.py").write_text(WRAPPED.replace("{name}", name))


@pytest.fixture
def check(tmp_path: Path) -> Callable[[str], tuple[int, str]]:
    def check(table: str) -> tuple[int, str]:
        (tmp_path / "mounts.yaml").write_text(table)
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "check", "-c", "mounts.yaml"],
            cwd=tmp_path,
            env={**ENVIRON, "TZ": "UTC"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return check


Check = Callable[[str], tuple[int, str]]

WAYS = {
    "startproject": (STARTPROJECT, "wsgi:application"),
    "assigned": (ASSIGNED, "wsgi:application"),
    "updated": (UPDATED, "wsgi:application"),
    "factory": (FACTORY, "wsgi:make()"),
    "wrapped": (STARTPROJECT, "outer:application"),
    "swallowed": (SWALLOWED, "wsgi:application"),
    "configure": (CONFIGURE.replace("{condition}", ""), "wsgi:application"),
    "configure once": (
        CONFIGURE.replace("{condition}", "if not settings.configured: "),
        "wsgi:application",
    ),
    "orm": (ORM_ALONE, "wsgi:application"),
    "at the first request": (UNUSED, "wsgi:application"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_second_project_is_refused_at_its_place(check: Check, tmp_path: Path, way: str) -> None:
    wsgi, target = WAYS[way]
    write_project(tmp_path, "shop")
    write_project(tmp_path, "blog", wsgi)
    code, told = check(f"mounts:\n  /shop: shop.wsgi:application\n  /blog: blog.{target}\n")
    assert code == 3
    assert told.startswith(f"mounts.yaml:3:3: mounts./blog: {REFUSED}; "), told
    assert '"/shop" has shop.settings' in told
    # and the other way round
    code, told = check(f"mounts:\n  /blog: blog.{target}\n  /shop: shop.wsgi:application\n")
    assert code == 3
    assert f"mounts.yaml:3:3: mounts./shop: {REFUSED}; " in told
    assert told.count("mounts.yaml") == 1


@pytest.mark.parametrize("way", WAYS)
def test_each_in_a_pool_of_its_own_is_fine(check: Check, tmp_path: Path, way: str) -> None:
    wsgi, target = WAYS[way]
    write_project(tmp_path, "shop")
    write_project(tmp_path, "blog", wsgi)
    assert check(
        f'mounts:\n  /shop: shop.wsgi:application\n  /blog: {{app: "blog.{target}", pool: own}}\n'
    ) == (0, "mounts.yaml: 2 mounts, no problems\n")


def test_what_was_refused_is_refused_again(check: Check, tmp_path: Path) -> None:
    write_project(tmp_path, "shop")
    write_project(tmp_path, "blog")
    code, told = check(
        "mounts:\n  /shop: shop.wsgi:application\n  /blog: blog.wsgi:application\n"
        "  /b: blog.wsgi:application\n  /c: blog.outer:application\n"
    )
    assert (code, told.count(REFUSED)) == (3, 3)


SAME = {
    "one module": "  /a: shop.wsgi:application\n  /b: shop.wsgi:application\n",
    "two modules": "  /a: shop.wsgi:application\n  /b: shop.outer:application\n",
    "a factory": "  /a: shop.wsgi:application\n  /b: django.core.wsgi:get_wsgi_application()\n",
    "the table's": """\
  /a: {app: "django.core.wsgi:get_wsgi_application()", env: {DJANGO_SETTINGS_MODULE: shop.settings}}
  /b: {app: "shop.wsgi:application", env: {DJANGO_SETTINGS_MODULE: shop.settings}}
  /c: shop.wsgi:application
""",
}


@pytest.mark.parametrize("same", SAME)
def test_one_project_at_several_paths(check: Check, tmp_path: Path, same: str) -> None:
    write_project(tmp_path, "shop")
    assert check(f"mounts:\n{SAME[same]}")[0] == 0


def test_settings_for_service_take_the_place_of_the_default(check: Check, tmp_path: Path) -> None:
    write_project(tmp_path, "shop")
    (tmp_path / "shop/live.py").write_text("from shop.settings import *\n")
    env = "{DJANGO_SETTINGS_MODULE: shop.live}"
    assert (
        check(
            f'mounts:\n  /a: {{app: "shop.wsgi:application", env: {env}}}\n'
            "  /b: shop.outer:application\n"
        )[0]
        == 0
    )


def test_the_table_s_choice_is_for_its_own_mount(check: Check, tmp_path: Path) -> None:
    write_project(tmp_path, "shop")
    write_project(tmp_path, "blog")
    app = "django.core.wsgi:get_wsgi_application()"
    code, told = check(
        "mounts:\n  /shop: shop.wsgi:application\n"
        f'  /blog: {{app: "{app}", env: {{DJANGO_SETTINGS_MODULE: blog.settings}}}}\n'
    )
    assert code == 3
    assert f"mounts.yaml:3:3: mounts./blog: {REFUSED}; " in told


def test_a_project_that_does_not_load_is_in_nobody_s_way(check: Check, tmp_path: Path) -> None:
    write_project(tmp_path, "shop", STARTPROJECT.replace("application =", "1 / 0\napplication ="))
    write_project(tmp_path, "blog")
    code, told = check("mounts:\n  /shop: shop.wsgi:application\n  /blog: blog.wsgi:application\n")
    assert code == 3
    assert "mounts./shop: shop.wsgi:application: ZeroDivisionError" in told
    assert "mounts./blog" not in told


def test_a_gateway_serves_the_first_and_answers_503_for_the_second(
    start: Start, tmp_path: Path
) -> None:
    write_project(tmp_path, "shop")
    write_project(tmp_path, "blog")
    shop, blog = "  /shop: shop.wsgi:application\n", "  /blog: blog.wsgi:application\n"
    gateway = start(shop + blog)
    assert b"this is shop" in gateway.ask("/shop/")
    assert gateway.ask("/blog/").startswith(b"HTTP/1.1 503 ")
    assert f"mounts./blog: {json.dumps(REFUSED)[1:-1]}; " in gateway.log_text

    # an edit that another mount's import would answer keeps the rule
    gateway.write_table(shop + blog + "  /b2: blog.wsgi:application\n")
    gateway.control("reload")
    assert b"this is shop" in gateway.ask("/shop/")
    assert b"this is shop" not in gateway.ask("/blog/") + gateway.ask("/b2/")

    gateway.write_table(shop + '  /blog: {app: "blog.wsgi:application", pool: own}\n')
    assert gateway.control("reload")["exit_code"] == 0
    assert b"this is shop" in gateway.ask("/shop/")
    assert b"this is blog" in gateway.ask("/blog/")
