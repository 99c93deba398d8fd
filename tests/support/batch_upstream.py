"""A scripted Batch API over real HTTP: it records each request, and answers with the replies of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

API_KEY = "fedcba9876543210fedcba9876543210"
ACCEPTED = {"code": 200, "events_ingested": 1, "payload_size_bytes": 50, "server_upload_time": 1396381378123}
Events = list[dict[str, Any]]


@dataclass(frozen=True)
class Reply:
    """An answer. `body` is sent as JSON unless it is bytes. `hangs`: wait for the end of the test, and send nothing."""

    status: int = 200
    body: Any = field(default_factory=lambda: ACCEPTED)
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False
    resets: bool = False


class BatchUpstream:
    """A server, used as a context manager.

    `reply` returns the answer to the events of a request. `requests` has the bodies of all requests. `accepted` has the
    events of the requests with status 200, by `insert_id`, in the order of their arrival.
    """

    def __init__(self, reply: Callable[[Events], Reply] = lambda _: Reply()) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.accepted: list[str] = []
        self._ended = ended = threading.Event()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet for an answer; the client would acknowledge the first of two after 40 ms

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                upstream.requests.append(body)
                reply = upstream.reply(body["events"])
                if reply.hangs:
                    ended.wait(30)
                if reply.hangs or reply.resets:
                    self.close_connection = True
                    return
                if reply.status == 200:
                    upstream.accepted += [event["insert_id"] for event in body["events"]]
                answer = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in {**reply.headers, "Content-Length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/batch"

    @property
    def sent(self) -> list[list[str]]:
        """The `insert_id`s of the events of each request."""
        return [[event["insert_id"] for event in body["events"]] for body in self.requests]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()


def braze_event(id: str, event_type: str = "users.messages.email.Open", **changes: Any) -> dict[str, Any]:
    """Return an event as Braze sends it."""
    user = {"user_id": "639a35d192b0df004d06514c", "external_user_id": f"user-of-{id}", "device_id": f"device-of-{id}"}
    event = {"event_type": event_type, "id": id, "time": 1_700_000_000, "user": user, "properties": {"send_id": "s"}}
    return event | changes
