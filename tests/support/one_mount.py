"""A table of one mount, for tests of what the supervisor decides."""

from pathlib import Path

from gateway.config.model import Config, Mount, RedirectTarget, ServerSettings, Where
from gateway.limits import MountLimits

CONFIG = Config(
    source="mounts.yaml",
    directory=Path("/nowhere"),
    server=ServerSettings(),
    mounts=(
        Mount(
            name="/shop",
            host=None,
            prefix="/shop",
            target=RedirectTarget(location="/new"),
            limits=MountLimits(),
            where=Where(line=7, column=3),
        ),
    ),
)
