"""Clients of HTTP, and what reports over it."""

import asyncio
import urllib.request

import aiohttp
import boto3
import grpc
import httpx
import requests
import sentry_sdk
import urllib3
from site_ import site


def use_requests(url):
    return requests.get(url, timeout=60).text


def use_urllib3(url):
    return urllib3.PoolManager().request("GET", url).data.decode()


def use_urllib(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def use_httpx(url):
    return httpx.get(url, timeout=60).text


def use_httpx_async(url):
    async def get():
        async with httpx.AsyncClient(timeout=60) as client:
            return (await client.get(url)).text

    return asyncio.run(get())


def use_aiohttp(url):
    async def get():
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.text()

    return asyncio.run(get())


def use_boto3_slowly(url):
    root, _, key = url.rpartition("/")
    return client(root).get_object(Bucket="bucket", Key=key)["Body"].read().decode()


def use_boto3(url, token):
    storage = client(url)
    storage.create_bucket(Bucket=token)
    storage.put_object(Bucket=token, Key="key", Body=token.encode())
    return storage.get_object(Bucket=token, Key="key")["Body"].read().decode()


def client(url):
    return boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )


def use_sentry(url):
    """Its transport is a thread, so only the flush waits."""
    root, _, key = url.rpartition("/")
    address = root.removeprefix("http://")
    sent = []
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(sentry_sdk.Client(f"http://key@{address}/1", before_send=keep(sent)))
        scope.set_tag("key", key)
        requests.get(url, timeout=60)
        sentry_sdk.capture_message("seen")
        scope.client.close(timeout=10)
    return sent[0]["tags"]["key"]


def keep(sent):
    def before_send(event, _):
        sent.append(event)
        return event

    return before_send


def use_grpc(port, token):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return channel.unary_unary("/eco/hold")(token.encode(), timeout=60).decode()


app = site(globals())
