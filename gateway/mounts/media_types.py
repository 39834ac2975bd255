"""The media type of a file, by its name's extension.

Owns one fixed table, the same on every machine and every Python: the standard library's built-in
one, never the host's files, with what it lacks, or corrected after 3.11. Reads no files. Source:
the IANA registry; RFC 9239 (JavaScript), RFC 8081 (fonts).
"""

import mimetypes

UNKNOWN = "application/octet-stream"

_ADDED = {
    "7z": "application/x-7z-compressed",
    "apk": "application/vnd.android.package-archive",
    "atom": "application/atom+xml",
    "avif": "image/avif",
    "bz2": "application/x-bzip2",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "eot": "application/vnd.ms-fontobject",
    "epub": "application/epub+zip",
    "flac": "audio/flac",
    "geojson": "application/geo+json",
    "glb": "model/gltf-binary",
    "gltf": "model/gltf+json",
    # The file itself is requested, so the type is the archive's: with a Content-Encoding, the
    # browser would unpack a download.
    "gz": "application/gzip",
    "ics": "text/calendar",
    "js": "text/javascript",
    "jsonld": "application/ld+json",
    "jxl": "image/jxl",
    "log": "text/plain",
    "m4a": "audio/mp4",
    "map": "application/json",
    "markdown": "text/markdown",
    "md": "text/markdown",
    "mjs": "text/javascript",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "ogg": "audio/ogg",
    "ogv": "video/ogg",
    "otf": "font/otf",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "rss": "application/rss+xml",
    "rtf": "application/rtf",
    "tgz": "application/gzip",
    "toml": "application/toml",
    "ttc": "font/collection",
    "ttf": "font/ttf",
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xhtml": "application/xhtml+xml",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xml": "text/xml",
    "xz": "application/x-xz",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zst": "application/zstd",
}


def _build_table() -> dict[str, str]:
    # types_map[True] of a new instance is the built-in table: neither files nor add_type reach it.
    built_in = mimetypes.MimeTypes().types_map[True]
    table = {suffix[1:]: media_type for suffix, media_type in built_in.items()} | _ADDED
    return {
        extension: f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
        for extension, media_type in table.items()
    }


_TABLE = _build_table()


def media_type_of(name: str) -> str:
    """The Content-Type for a file called ``name`` (no directories in it)."""
    _, dot, extension = name.rpartition(".")
    return _TABLE.get(extension.lower(), UNKNOWN) if dot else UNKNOWN
