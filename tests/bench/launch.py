"""Starts the servers that are libraries: ``launch.py bjoern|pywsgi APP ADDRESS``."""

import importlib
import sys


def run_bjoern(app, address):
    import bjoern

    host, _, port = address.partition(":")
    bjoern.run(app, *((address,) if host == "unix" else (host, int(port))))


def run_pywsgi(app, address):
    from gevent.pywsgi import WSGIServer

    WSGIServer(address, app, log=None, backlog=1024).serve_forever()


if __name__ == "__main__":
    name, app_text, address_text = sys.argv[1:]
    if name == "pywsgi":
        # before the app is imported: its time.sleep must be gevent's
        from gevent import monkey

        monkey.patch_all()
    run = {"bjoern": run_bjoern, "pywsgi": run_pywsgi}[name]
    module, _, app_name = app_text.partition(":")
    run(getattr(importlib.import_module(module), app_name), address_text)
