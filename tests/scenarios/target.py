#!/usr/bin/env python3
"""A target as a process of its own, which can be killed: answers 200 with its name after a pause, and leaves a line in
a file for each request that it has read whole: the request's `x-id` and the bytes of its body.

The file is written at once, so that it is right after kill -9, too. Standard library alone.
"""
import argparse
import asyncio
import itertools
import os
import re
import signal
import sys


class Served(asyncio.Protocol):
    """A client's connection, a request at a time. Bodies have a length; they are counted and forgotten."""

    def __init__(self, given, log):
        self.given, self.log = given, log
        self.buffer, self.head, self.left, self.length = b"", None, 0, 0

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if self.head is None:
            self.buffer += data
            head, end, data = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self.head, self.buffer = head, b""
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
            self.left = self.length = int(length[1]) if length else 0
        self.left -= len(data)
        if self.left == 0:
            number = re.search(rb"\r\nx-id: *(\w+)", self.head, re.I)
            self.head = None
            os.write(self.log, b"%s %d\n" % (number[1] if number else b"-", self.length))
            asyncio.get_running_loop().call_later(self.given.pause, self.answer, self.length)

    def answer(self, length):
        if self.transport.is_closing():
            return
        name = self.given.name.encode()
        body = b"variant-%s;%d;" % (name, length)
        self.transport.write(b"HTTP/1.1 200 OK\r\nX-Version: %s\r\nContent-Length: %d\r\n\r\n%s" % (name, len(body), body))


async def serve(given):
    log = os.open(given.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Served(given, log), "127.0.0.1", given.port, backlog=1024)
    await server.serve_forever()


class Target:
    """What a scenario holds of one. Its port and its log stay over its deaths."""

    def __init__(self, name, pause=0.005):
        # Only this module needs the others.
        import lib
        self.name, self.pause = name, pause
        self.log, self.port = f"{lib.folder()}/received", lib.free_port()
        open(self.log, "w").close()
        self.start()
        lib.until(f"target {name} answers", lambda: lib.answers(self.port))

    def start(self):
        import lib
        command = [sys.executable, "-I", "-S", os.path.abspath(__file__), "--port", str(self.port), "--name", self.name,
                   "--log", self.log, "--pause", str(self.pause)]
        self.process = lib.spawn(command, self.log + ".err")

    def kill(self):
        """kill -9, and gone when this returns."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    async def back(self):
        """Started again, and accepting."""
        self.start()
        for _ in range(1000):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            except OSError:
                await asyncio.sleep(0.01)
        sys.exit(f"FAILED target {self.name} did not come back: {open(self.log + '.err').read()}")

    def received(self):
        """[(x-id, bytes of the body)] in the order in which they came."""
        with open(self.log) as text:
            pairs = (line.split() for line in text)
            return [(number, int(length)) for number, length in pairs]


async def flap(targets, up, down, about_to_kill):
    """Kills one after the other and starts it again, for ever: `up` seconds of rest, then `down` seconds without it."""
    for target in itertools.cycle(targets):
        await asyncio.sleep(up)
        about_to_kill(target)
        target.kill()
        await asyncio.sleep(down)
        await target.back()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--pause", type=float, default=0.0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
