"""Sockets, children and the admin surface. Never imports an app; does not know what a request is."""
