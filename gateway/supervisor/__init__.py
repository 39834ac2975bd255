"""Sockets, processes and the admin surface. Never imports an app, does not know requests."""
