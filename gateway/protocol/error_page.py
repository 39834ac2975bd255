"""The page of errors that the gateway itself responds with."""

from html import escape


def build_error_page(status: str, detail: str, request_id: str, traceback: str = "") -> bytes:
    """A small HTML page that shows all four as text."""
    shown = f"<pre>{escape(traceback)}</pre>" if traceback else ""
    reference = f"<p><small>Request {escape(request_id)}</small></p>" if request_id else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(status)}</title><style>body{{font:1rem/1.5 system-ui,'
        "sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem}small{opacity:.6}"
        "pre{white-space:pre-wrap;overflow-wrap:anywhere}</style>"
        f"<h1>{escape(status)}</h1><p>{escape(detail)}</p>{shown}{reference}</html>\n"
    ).encode("utf-8", "backslashreplace")  # an exception may name a file that is not UTF-8
