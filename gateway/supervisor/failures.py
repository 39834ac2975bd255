"""What a person is told of mounts: where in the table each is, and why it failed.

Knows nothing of workers but what they report.
"""

from collections.abc import Callable
from typing import Any

from gateway.config.model import AppTarget, Config, UpstreamTarget
from gateway.supervisor.process import Report


def describe_place(config: Config, mount: str) -> str:
    """Where in the table a mount is, and its key; a worker may speak of one that an edit in place
    has removed since."""
    for each in config.mounts:
        if each.name == mount:
            return f"{config.source}:{each.where.line}:{each.where.column}: mounts.{mount}"
    return f"{config.source}: mounts.{mount}"


def describe_pool(config: Config) -> str:
    """Where in the table the pool is, and its key."""
    where = config.pool.where
    return f"{config.source}:{where.line}:{where.column}: pools.{config.pool.name}"


def describe_failure(config: Config, failed: Report, effect: str = "") -> str:
    """Where in the table a mount failed, why, and the app's traceback."""
    text = f"{describe_place(config, failed['mount'])}: {failed['error']}{effect}"
    return f"{text}\n{failed['traceback']}" if failed["traceback"] else text


def describe_mounts(
    config: Config,
    generations: dict[str, str],
    failed: dict[str, Report],
    describe_quarantine: Callable[[str], dict[str, Any] | None],
) -> list[dict[str, Any]]:
    """Each mount for ``gateway status``: serving, in quarantine, or failed with its error and
    traceback.

    ``generations`` are those that serve, by pool; "" for a pool that could not be started.
    """
    nothing: Report = {"error": "", "traceback": ""}
    described = []
    for mount in config.mounts:
        target = mount.target
        pool = (isinstance(target, AppTarget | UpstreamTarget) and target.pool) or "main"
        report = failed.get(mount.name, nothing)
        quarantine = describe_quarantine(mount.name)
        # one whose probe fails serves: the probe only has a say before new workers take over
        is_failed = mount.name in failed and not report.get("is_loaded")
        state = "failed" if is_failed else "quarantine" if quarantine else "serving"
        described.append(
            {
                "mount": mount.name,
                "state": state,
                "pool": pool,
                "generation": generations.get(pool, ""),
                "place": f"{config.source}:{mount.where.line}:{mount.where.column}",
                "error": report["error"],
                "traceback": report["traceback"],
                "quarantine": quarantine,
            }
        )
    return described
