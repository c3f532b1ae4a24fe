"""HTTP/2 by hand for the scenarios, on the package h2: a client that waits for whole answers, over TLS or without."""
import socket
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings


class Answer:
    def __init__(self):
        self.headers, self.body, self.trailers = {}, b"", {}
        self.ended, self.reset = False, None

    @property
    def status(self):
        return int(self.headers.get(":status", 0))


class Client:
    """One connection. `context` is for TLS; the server must agree to h2."""

    def __init__(self, port, context=None, seconds=20):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        if context:
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
            if self.socket.selected_alpn_protocol() != "h2":
                sys.exit("FAILED the server did not agree to h2")
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_inbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.answers, self.goaway, self.closed = {}, None, False
        self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.socket.sendall(data)

    def begin(self, fields, ended=True):
        """Opens a stream with these header fields; its number."""
        stream = self.h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, fields, end_stream=ended)
        self.flush()
        return stream

    def get(self, path, *more):
        return self.begin([(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", path), *more])

    def send(self, stream, data, ended=False):
        self.h2.send_data(stream, data, end_stream=ended)
        self.flush()

    def step(self):
        """Takes what comes next; False at the connection's end."""
        data = self.socket.recv(65536)
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(data):
            self.take(event)
        self.flush()
        return True

    def take(self, event):
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event.error_code
            return
        answer = self.answers.get(getattr(event, "stream_id", None))
        if answer is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = dict(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset = event.error_code

    def until(self, condition):
        """Takes what comes until the condition holds; False if the connection ends before."""
        while not condition():
            if not self.step():
                return condition()
        return True

    def answer(self, stream):
        """The stream's answer, once it has ended or was reset."""
        answer = self.answers[stream]
        self.until(lambda: answer.ended or answer.reset is not None)
        return answer

    def close(self):
        self.socket.close()
