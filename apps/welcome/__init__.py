"""The page at the root: every mount of the table as a link, and how to add the next one.

Plain WSGI (PEP 3333) with two files beside it. Knows no other app: what is mounted it reads from
``environ["gateway.mounts"]``, so that under any other server it still works and says what is
missing. Because it is mounted at ``/`` it also answers for every path that nothing else has.
"""

from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

HERE = Path(__file__).parent
PAGE = Template((HERE / "page.html").read_text("utf-8"))
STYLE = (HERE / "style.css").read_bytes()

KINDS = {
    "app": "Python app",
    "static": "Static files",
    "redirect": "Redirect",
    "upstream": "Process of its own",
}
NO_LIST = (
    '<p class="hint">This server does not list its mounts: its <code>environ</code> has no '
    "<code>gateway.mounts</code>. Start the apps with "
    "<code>gateway serve -c apps/mounts.yaml</code> to see them here.</p>"
)


def app(environ, start_response):
    # PEP 3333: paths are bytes dressed as latin-1 strings; quote() wants the bytes.
    prefix = quote(environ.get("SCRIPT_NAME", "").encode("latin-1"))
    path = environ.get("PATH_INFO", "")
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        body = b"This page can only be read.\n"
        headers = [("Allow", "GET, HEAD"), ("Content-Type", "text/plain")]
        return respond(environ, start_response, "405 Method Not Allowed", headers, body)
    if path == "/welcome.css":
        headers = [("Content-Type", "text/css"), ("Cache-Control", "max-age=3600")]
        return respond(environ, start_response, "200 OK", headers, STYLE)

    found = path in ("", "/")
    if found:
        title, lead = "Your apps are up.", "One address, one table. Each row is a line of it."
    else:
        shown = escape(
            (environ.get("SCRIPT_NAME", "") + path).encode("latin-1").decode(errors="replace")
        )
        title, lead = "Nothing lives here.", f"No mount answers <code>{shown}</code>. These do:"
    page = PAGE.substitute(
        title=title, lead=lead, prefix=prefix, mounts=mount_list(environ, prefix)
    )
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-cache")]
    status = "200 OK" if found else "404 Not Found"
    return respond(environ, start_response, status, headers, page.encode())


def respond(environ, start_response, status, headers, body):
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def mount_list(environ, prefix):
    mounts = environ.get("gateway.mounts")
    if mounts is None:
        return NO_LIST
    rows = [mount_row(environ, prefix, *mount) for mount in mounts]
    return '<ul class="mounts">\n' + "\n".join(rows) + "\n</ul>"


def mount_row(environ, prefix, name, kind, ok):
    here = ' aria-current="page"' if name == (prefix or "/") else ""
    state = '<span class="ok">serving</span>' if ok else '<span class="bad">failing, 503</span>'
    return (
        f'<li><a href="{escape(link(environ, name))}"{here}>{escape(name)}</a>'
        f'<span class="kind">{KINDS.get(kind, escape(kind))}</span>{state}</li>'
    )


def link(environ, name):
    """A mount's URL: a path, or for another host ``//host/path`` on the port of this request."""
    path = quote(name, safe="/%:@!$&'()*+,;=~")
    if name.startswith("/"):
        return path
    host, slash, rest = path.partition("/")
    _, colon, port = environ.get("HTTP_HOST", "").rpartition(":")
    return f"//{host}{colon + port if port.isdigit() else ''}{slash}{rest}"
