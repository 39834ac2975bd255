"""Texts about mounts that fail, for the log and ``gateway status``: where in the table each is, and
why it failed."""

from collections.abc import Callable
from typing import Any

from gateway.config.model import Config
from gateway.supervisor.processes.process import Report


def describe_place(config: Config, mount: str) -> str:
    """The place of a mount in the table, and its key. A worker may report one that an edit in place
    has removed since."""
    for each in config.mounts:
        if each.name == mount:
            return f"{config.source}:{each.where.line}:{each.where.column}: mounts.{mount}"
    return f"{config.source}: mounts.{mount}"


def describe_pool(config: Config) -> str:
    """The place of a pool in the table, and its key."""
    where = config.pool.where
    return f"{config.source}:{where.line}:{where.column}: pools.{config.pool.name}"


def describe_failure(config: Config, failed: Report, effect: str = "") -> str:
    """The place of a mount that failed, why, what that means, and the app's traceback."""
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
        pool = mount.pool_name
        report = failed.get(mount.name, nothing)
        quarantine = describe_quarantine(mount.name)
        # a mount whose probe fails still serves: a probe only decides whether new workers do
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


def describe_troubles(mounts: list[dict[str, Any]]) -> list[str]:
    """A line for each mount of ``describe_mounts`` that failed, whose probe fails, or that is in
    quarantine, in this order."""
    failed = [mount for mount in mounts if mount["state"] == "failed"]
    unwell = [mount for mount in mounts if mount["error"] and mount not in failed]
    return [
        *(f"  {_name_place(mount)}: {mount['error']}" for mount in failed),
        *(f"  {_name_place(mount)}: {mount['error']}; it serves" for mount in unwell),
        *(_describe_quarantine(mount) for mount in mounts if mount["quarantine"]),
    ]


def _name_place(mount: dict[str, Any]) -> str:
    return f"{mount['place']}: mounts.{mount['mount']}"


def _describe_quarantine(mount: dict[str, Any]) -> str:
    known = mount["quarantine"]
    return (
        f"  {_name_place(mount)}: in quarantine for {known['for']:.0f} s "
        f"more, since its requests have ended {known['deaths']} workers, the last of them with "
        f"{known['request']} (request {known['request_id']}): {known['ended']}"
    )
