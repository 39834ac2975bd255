"""Not an app: passes on what comes to port 8000, byte by byte, to the gateway's socket."""

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import suppress

SOCKET = "/run/http/gateway.sock"


async def pump(reader: StreamReader, writer: StreamWriter) -> None:
    """Until the end of ``reader``, which ends ``writer`` too."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def serve(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError):
        behind, ahead = await asyncio.open_unix_connection(SOCKET)
        inward = asyncio.create_task(pump(reader, ahead))
        await pump(behind, writer)  # the gateway closes last, or for good
        inward.cancel()
        ahead.close()
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "0.0.0.0", 8000)
    await server.serve_forever()


asyncio.run(main())
