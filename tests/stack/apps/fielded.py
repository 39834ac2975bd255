"""Answers with the fields that its query names, beside those of plain text."""

from urllib.parse import parse_qsl


def app(environ, start_response):
    fields = parse_qsl(environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5"), *fields])
    return [b"fine\n"]
