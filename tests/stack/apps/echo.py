"""Answers with the request as the gateway understood it, in JSON."""

import json
import os


def app(environ, start_response):
    content = environ["wsgi.input"].read()
    seen = {
        "method": environ["REQUEST_METHOD"],
        "script_name": environ["SCRIPT_NAME"],
        "path_info": environ["PATH_INFO"],
        "query": environ["QUERY_STRING"],
        "uri": environ["REQUEST_URI"],
        "scheme": environ["wsgi.url_scheme"],
        "server_port": environ["SERVER_PORT"],
        "client": environ["REMOTE_ADDR"],
        "request_id": environ["gateway.request_id"],
        "worker": os.getpid(),
        "fields": {
            name: value
            for name, value in environ.items()
            if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
        },
        "content": content.decode("latin-1"),
    }
    body = json.dumps(seen).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
