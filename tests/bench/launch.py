"""Starts the servers that are libraries: ``launch.py bjoern|pywsgi APP PORT``."""

import importlib
import sys


def run_bjoern(app, port):
    import bjoern

    bjoern.run(app, "127.0.0.1", port)


def run_pywsgi(app, port):
    from gevent.pywsgi import WSGIServer

    WSGIServer(("127.0.0.1", port), app, log=None, backlog=1024).serve_forever()


if __name__ == "__main__":
    name, app_name, port_text = sys.argv[1:]
    if name == "pywsgi":
        # before the app is imported: its time.sleep is to be gevent's
        from gevent import monkey

        monkey.patch_all()
    run = {"bjoern": run_bjoern, "pywsgi": run_pywsgi}[name]
    run(getattr(importlib.import_module("apps"), app_name), int(port_text))
