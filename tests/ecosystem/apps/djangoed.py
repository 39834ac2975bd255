"""Django on PostgreSQL, with connections that are kept for each thread."""

import os

import django
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path, reverse
from site_ import wait_for

settings.configure(
    SECRET_KEY="x",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "eco",
            "HOST": os.environ["PGHOST"],
            "CONN_MAX_AGE": 60,
        }
    },
)
django.setup()
from django.db import connection  # noqa: E402


def select(query):
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def query(request):
    return HttpResponse(select(request.GET["query"]) + " " + reverse("query"))


async def query_async(request):
    told = await sync_to_async(select)(request.GET["query"])
    return HttpResponse(told + " " + reverse("async"))


def to_and_fro(request):
    async def ask():
        return await sync_to_async(select)(request.GET["query"])

    return HttpResponse(async_to_sync(ask)() + " " + reverse("to-and-fro"))


def stream(request):
    def pieces():
        yield wait_for(request.GET["path"])
        yield " " + reverse("stream")

    return StreamingHttpResponse(pieces())


urlpatterns = [
    path("query", query, name="query"),
    path("async", query_async, name="async"),
    path("to-and-fro", to_and_fro, name="to-and-fro"),
    path("stream", stream, name="stream"),
]
app = get_wsgi_application()
