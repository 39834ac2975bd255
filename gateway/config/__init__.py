"""The table ``mounts.yaml``: text to a frozen, validated model, and every message about a bad one.

Knows nothing of apps, sockets or processes.
"""

from gateway.config.parse import parse_config
from gateway.config.read import read_config

__all__ = ["parse_config", "read_config"]
