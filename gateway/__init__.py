"""A gateway that hosts many WSGI apps behind nginx, routed by one YAML table."""

__version__ = "0.1.0"
