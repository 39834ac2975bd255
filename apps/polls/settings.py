"""Django's settings, read from the environment once, when the app is loaded.

Nothing here names a prefix, a host or a scheme: the gateway puts them into each request's
``environ`` (SCRIPT_NAME, HTTP_HOST, wsgi.url_scheme), which is where Django looks, so
FORCE_SCRIPT_NAME, SECURE_PROXY_SSL_HEADER and CSRF_TRUSTED_ORIGINS stay unset.
Source: https://docs.djangoproject.com/en/stable/ref/settings/
"""

import os
from pathlib import Path

from django.utils.functional import lazy

from polls.secret import kept_secret

DATABASE_FILE = Path(os.environ.get("POLLS_DB", "var/polls.db"))
# Signs sessions: a new one would log everybody out.
SECRET_KEY = os.environ.get("POLLS_SECRET_KEY") or kept_secret(DATABASE_FILE.with_suffix(".key"))
# Any host name by default, since nothing here builds an address from it.
ALLOWED_HOSTS = os.environ.get("POLLS_HOSTS", "*").split(",")

ROOT_URLCONF = "polls.urls"
INSTALLED_APPS = [
    "polls",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
]
MIDDLEWARE = [
    "polls.cookies.secure_cookies",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATABASE_FILE,
        "OPTIONS": {
            "timeout": 5,  # seconds to wait for another worker's write
            "transaction_mode": "IMMEDIATE",  # wait at its begin; a later upgrade would just fail
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]


def static_url():
    from django.urls import get_script_prefix

    return f"{get_script_prefix()}static/"


# Django would put the prefix of the first request before a plain "static/" and keep it for all;
# read each time, it is that of the current request.
STATIC_URL = lazy(static_url, str)()
SESSION_COOKIE_NAME = "polls_session"
CSRF_COOKIE_NAME = "polls_csrf"
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"

USE_TZ = True
# Django makes it the time zone of the whole process, whose clock other apps may share.
TIME_ZONE = "UTC"
USE_I18N = False
# The process belongs to the gateway, and so does its logging; Django's records join it.
LOGGING_CONFIG = None
