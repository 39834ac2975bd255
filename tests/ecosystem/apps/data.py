"""Databases and queues."""

import asyncio
import fcntl
import sqlite3

import asyncpg
import celery
import psycopg
import psycopg2
import psycopg_pool
import pymysql
import redis
import redis.asyncio
import rq
import sqlalchemy
from site_ import site, tell_held
from sqlalchemy.ext.asyncio import create_async_engine


def use_psycopg(dsn, query):
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchone()[0]


def use_psycopg_async(dsn, query):
    async def ask():
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            return (await (await connection.execute(query)).fetchone())[0]

    return asyncio.run(ask())


def use_psycopg_pool(dsn, query):
    with psycopg_pool.ConnectionPool(dsn, min_size=1) as pool, pool.connection() as connection:
        return connection.execute(query).fetchone()[0]


def use_psycopg2(dsn, query):
    connection = psycopg2.connect(dsn)
    try:
        cursor = connection.cursor()
        cursor.execute(query)
        return cursor.fetchone()[0]
    finally:
        connection.close()


def use_asyncpg(dsn, query):
    async def ask():
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(ask())


def use_sqlalchemy(dsn, query):
    return ask_engine(dsn.replace("postgresql:", "postgresql+psycopg:"), query)


def use_sqlalchemy_psycopg2(dsn, query):
    return ask_engine(dsn.replace("postgresql:", "postgresql+psycopg2:"), query)


def ask_engine(url, query):
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.text(query)).scalar()
    finally:
        engine.dispose()


def use_sqlalchemy_async(dsn, query):
    async def ask():
        engine = create_async_engine(dsn.replace("postgresql:", "postgresql+psycopg:"))
        try:
            async with engine.connect() as connection:
                return (await connection.execute(sqlalchemy.text(query))).scalar()
        finally:
            await engine.dispose()

    return asyncio.run(ask())


def use_sqlite(path, token):
    connection = sqlite3.connect(path, timeout=60)
    try:
        tell_held(path)
        connection.execute("begin immediate")
        return token
    finally:
        connection.close()


def use_flock(path, token):
    with open(path, "a") as file:
        tell_held(path)
        fcntl.flock(file, fcntl.LOCK_EX)
        return token


def use_redis(url, key):
    with redis.Redis.from_url(url) as client:
        return client.blpop([key])[1].decode()


def use_redis_async(url, key):
    async def pop():
        async with redis.asyncio.Redis.from_url(url) as client:
            return (await client.blpop([key]))[1].decode()

    return asyncio.run(pop())


def use_redis_pubsub(url, key):
    """Hears of itself, then waits for its turn."""
    with (
        redis.Redis.from_url(url) as client,
        client.pubsub(ignore_subscribe_messages=True) as hears,
    ):
        hears.subscribe(f"about {key}")
        hears.get_message(timeout=10)
        client.publish(f"about {key}", client.blpop([key])[1])
        return hears.get_message(timeout=10)["data"].decode()


def use_celery(url, token):
    tasks = celery.Celery(broker=url)
    tasks.send_task("task", args=[token], queue=token)
    with tasks.connection_for_read() as connection, connection.SimpleQueue(token) as queue:
        return queue.get(timeout=10).payload[0][0]


def use_rq(url, token):
    with redis.Redis.from_url(url) as client:
        queue = rq.Queue(token, connection=client)
        queue.enqueue("module.function", token)
        return queue.jobs[0].args[0]


def use_pymysql(token):
    """Loads, and has its own error where nobody listens."""
    try:
        pymysql.connect(unix_socket="/nowhere", connect_timeout=1)
    except pymysql.err.OperationalError:
        return token


app = site(globals())
