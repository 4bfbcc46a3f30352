# SPDX-License-Identifier: Apache-2.0
"""Who connects is asked about here: the ZAP handler of a context (rfc.zeromq.org/spec/27), one thread that waits.

pyzmq's own waits through asyncio, whose event loop cannot wait for sockets on Windows: nobody would ever be let in there."""

import threading
from collections.abc import Callable

import zmq

_ZAP, _END = "inproc://zeromq.zap.01", "inproc://vs3r.zap.end"


class Gatekeeper:
    """Lets peers in, or not, from `start` to `stop`. Only peers of `mechanism` and `domain` are asked about.

    user_of: from a peer's credentials to its name, None for one that stays outside; called in the gatekeeper's thread.
    """

    def __init__(self, context: zmq.Context, domain: str, mechanism: bytes, user_of: Callable[[list[bytes]], str | None]) -> None:
        self._domain, self._mechanism, self._user_of = domain.encode(), mechanism, user_of
        self._requests = context.socket(zmq.REP)
        self._ends, self._end = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        self._thread = threading.Thread(target=self._answer, name="zap", daemon=True)

    def start(self) -> None:
        for socket in (self._requests, self._ends, self._end):
            socket.linger = 0
        self._requests.bind(_ZAP)
        self._ends.bind(_END)
        self._end.connect(_END)
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._end.send(b"")
            self._thread.join()
        self._end.close()

    def _answer(self) -> None:
        poller = zmq.Poller()
        poller.register(self._requests, zmq.POLLIN)
        poller.register(self._ends, zmq.POLLIN)
        with self._requests, self._ends:
            while self._ends not in dict(poller.poll()):
                version, request_id, domain, _address, _identity, mechanism, *credentials = self._requests.recv_multipart()
                user = None
                if (version, domain, mechanism) == (b"1.0", self._domain, self._mechanism):
                    user = self._user_of(credentials)
                verdict = [b"400", b"No access", b""] if user is None else [b"200", b"OK", user.encode()]
                self._requests.send_multipart([version, request_id, *verdict, b""])
