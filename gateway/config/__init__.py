"""The table ``mounts.yaml``: text (``read``, ``parse``) to a frozen, validated ``model``, and every
message about a bad one.

Knows nothing of apps, sockets or processes. Imports nothing here: a worker needs the model alone.
"""
