"""An unreliable payment gateway: it refuses, fails, withholds its answers, and answers twice.

Run as a program, it is an HTTP server that prints its port. It carries out each idempotency key once, even if nobody
gets the answer; its ledger is the evidence.
"""

import json
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any, Final

from eventsrc import Rejected

ANSWER_SECONDS_MAX: Final = 1.0
"""How long the client waits for an answer."""
SILENCE_SECONDS: Final = 2.0
"""How long a silent gateway delays its answer."""
REFUSED_OF_100: Final = 5
TROUBLE_OF_100: Final = 30
TROUBLES_IN_A_ROW_MAX: Final = 3


class GatewayDown(Exception):
    """No answer, or an answer that does not tell whether the call took effect."""


class Gateway:
    """The client; its methods block, so they are called in worker threads."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def charge(self, order_id: str, amount: int, *, idempotency_key: str) -> str:
        """Take the money; returns the payment's id. Raises `Rejected` when the card is refused, `GatewayDown`."""
        return str(self._post("/charge", {"order": order_id, "amount": amount, "key": idempotency_key})["payment"])

    def refund(self, order_id: str, *, idempotency_key: str) -> int:
        """Give back what was taken for an order, if anything was; returns how much. Raises `GatewayDown`."""
        return int(self._post("/refund", {"order": order_id, "key": idempotency_key})["amount"])

    def ledger(self) -> list[dict[str, Any]]:
        """All charges and refunds, in order."""
        with urllib.request.urlopen(self._url + "/ledger", timeout=30) as response:
            entries: list[dict[str, Any]] = json.load(response)
            return entries

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(self._url + path, json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 402:
                    raise Rejected("the card is refused") from error
                raise GatewayDown(f"{path}: HTTP {error.code}") from error
        except OSError as error:
            raise GatewayDown(f"{path}: {error}") from error


class Ledger:
    """The charges and refunds that took place, and the troubles of each request before it goes well."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._answers: dict[str, dict[str, Any]] = {}
        self._tries: Counter[str] = Counter()
        self.entries: list[dict[str, Any]] = []

    def trouble(self, key: str) -> str:
        """The trouble of this attempt: none, "fail" before the effect, or "fail late", "silent", "twice" after it."""
        with self._lock:
            self._tries[key] += 1
            attempt = self._tries[key]
        chance = zlib.crc32(f"{key}/{attempt}".encode()) % 100
        if attempt > TROUBLES_IN_A_ROW_MAX or chance >= TROUBLE_OF_100:
            return ""
        return ("fail", "fail late", "silent", "twice")[chance % 4]

    def charge(self, order: str, amount: int, key: str) -> dict[str, Any]:
        """Take the money, once for each key."""
        with self._lock:
            if key not in self._answers:
                self._answers[key] = {"payment": f"payment-{len(self.entries)}"}
                self.entries.append({"kind": "charge", "order": order, "amount": amount})
            return self._answers[key]

    def refund(self, order: str, key: str) -> dict[str, Any]:
        """Give back what is left of an order's money, once for each key."""
        with self._lock:
            if key not in self._answers:
                signs = {"charge": 1, "refund": -1}
                amount = sum(signs[each["kind"]] * each["amount"] for each in self.entries if each["order"] == order)
                if amount:
                    self.entries.append({"kind": "refund", "order": order, "amount": amount})
                self._answers[key] = {"amount": amount}
            return self._answers[key]


def serve() -> None:
    """Be the gateway until killed."""
    ledger = Ledger()

    class Handler(BaseHTTPRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Keep quiet."""

        def do_GET(self) -> None:
            self._answer(200, ledger.entries)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/charge" and zlib.crc32(body["order"].encode()) % 100 < REFUSED_OF_100:
                self._answer(402, {})
                return
            trouble = ledger.trouble(body["key"])
            if trouble == "fail":
                self._answer(503, {})
                return
            if self.path == "/charge":
                answer = ledger.charge(body["order"], body["amount"], body["key"])
            else:
                answer = ledger.refund(body["order"], body["key"])
            if trouble == "silent":
                time.sleep(SILENCE_SECONDS)
            self._answer(500 if trouble in ("fail late", "silent") else 200, answer)
            if trouble == "twice":
                self._answer(200, answer)

        def _answer(self, code: int, data: Any) -> None:
            body = json.dumps(data).encode()
            try:
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # the client has gone

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve()
