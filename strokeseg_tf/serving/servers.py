"""The servers of one model: who is asked next, and what happens when nobody answers."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence

from strokeseg_tf.serving.protocol import Kind, Refusal
from tfrecord_tools.errors import InputError

#: Seconds before the first try again, and the most between two.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0

#: Seconds for which a server that did not answer is asked last, at the most.
LONGEST_REST_S = 30.0

#: Seconds in which a living server says which versions it has.
PROBE_S = 10.0


class NobodyAnswers(InputError):
    """Every server was asked again and again, until the time was over."""


class Servers:
    """Asks one server after the other, leaving out the dead while others answer.

    Args:
        servers: `GrpcServer` or `RestServer` objects.
        address: How the user named them, for messages.
    """

    def __init__(self, servers: Sequence, address: str):
        self._address = address
        self._servers = tuple(servers)
        self._turn = itertools.count()
        self._failures = dict.fromkeys(self._servers, 0)
        self._rests_until = dict.fromkeys(self._servers, 0.0)
        self._late = set()
        self._gave_up = False
        self._lock = threading.Lock()
        #: How a request is written: the same for all of them.
        self.encode = self._servers[0].encode
        self.bytes_per_value = self._servers[0].bytes_per_value

    def __len__(self):
        return len(self._servers)

    def ask(self, question: Callable, patience_s: float):
        """Ask until a server answers.

        Once the time ran out, later questions are asked of each server once, until one answers
        again: a cohort does not wait for every study anew.

        Args:
            question: Called with (server, seconds left); raises `Refusal` where it gets no result.
            patience_s: Seconds in which the answer must come.

        Returns:
            The answer.

        Raises:
            NobodyAnswers: The time is over and no server was there.
            Refusal: A server refused; its attribute `server` says which.
        """
        start, tries = time.monotonic(), 0
        for round_number in itertools.count():
            refusals = []
            for server in self._in_turn():
                left = patience_s - (time.monotonic() - start)
                tries += 1
                try:
                    # The last try is a try, too: a little time is always left to it.
                    self._check_alive(server, min(PROBE_S, patience_s))
                    answer = question(server, max(left, 0.5))
                except Refusal as refusal:
                    refusal.server = server
                    if refusal.kind is Kind.LATE:
                        refusal.waited_s = patience_s
                        self._set_aside(server, patience_s)
                        self._late.add(server)
                        self._gave_up = True
                    if refusal.kind not in (Kind.UNAVAILABLE, Kind.NOT_FOUND):
                        raise
                    self._set_aside(server)
                    refusals.append(refusal)
                else:
                    self._welcome(server)
                    return answer
            if all(refusal.kind is Kind.NOT_FOUND for refusal in refusals):
                raise refusals[0]
            spent = time.monotonic() - start
            if self._gave_up or spent >= patience_s:
                self._gave_up = True
                for refusal in refusals:
                    # One that lives and has no such model says more than those that are dead.
                    if refusal.kind is Kind.NOT_FOUND:
                        raise refusal
                raise self._nobody(tries, spent, refusals)
            pause = min(FIRST_PAUSE_S * 2**round_number, LONGEST_PAUSE_S) * random.uniform(0.5, 1)
            time.sleep(min(pause, patience_s - spent))

    def _in_turn(self):
        """Each server once: the next in the round first, those that rest last."""
        with self._lock:
            first = next(self._turn) % len(self._servers)
        in_turn = self._servers[first:] + self._servers[:first]
        now = time.monotonic()
        return sorted(in_turn, key=lambda server: self._rests_until[server] > now)

    def _check_alive(self, server, within_s):
        """One that was late may hang: it is asked something short before the next study."""
        if server in self._late:
            try:
                server.versions(within_s)
            except Refusal as refusal:
                text = f"it does not even say its versions: {refusal.text}"
                raise Refusal(Kind.UNAVAILABLE, text) from refusal

    def _set_aside(self, server, at_least_s=0.0):
        with self._lock:
            self._failures[server] += 1
            rest = min(FIRST_PAUSE_S * 2 ** self._failures[server], LONGEST_REST_S)
            self._rests_until[server] = time.monotonic() + max(rest, at_least_s)

    def _welcome(self, server):
        with self._lock:
            self._failures[server], self._rests_until[server] = 0, 0.0
            self._late.discard(server)
            self._gave_up = False

    def _nobody(self, tries, seconds, refusals):
        unavailable = next(r for r in refusals if r.kind is Kind.UNAVAILABLE)
        asked = "once" if tries == 1 else f"{tries} times in {seconds:.1f} s"
        return NobodyAnswers(
            f"nobody answers at {self._address}, asked {asked} ({unavailable.text[:160]}); "
            "start the server, or check host and port"
        )
