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


#: What another server, or the same one later, may not say.
_PASSING = (Kind.UNAVAILABLE, Kind.NOT_FOUND)


class NobodyAnswers(InputError):
    """Every server was asked again and again, until the time was over."""


class Servers:
    """Asks one server after the other, leaving out the dead while others answer.

    Args:
        servers: `GrpcServer` or `RestServer` objects.
        address: How the user named them, for messages.
        greeting: Called with (server, seconds) before the first question to a server, and before
            the next one after it was away: a short question, so that one that hangs does not cost
            a study, and the place to see what it serves.
        contact_s: Seconds for greeting all of them.
    """

    def __init__(self, servers: Sequence, address: str, greeting: Callable, contact_s: float):
        self._address, self._greeting, self._contact_s = address, greeting, contact_s
        self._servers = tuple(servers)
        self._turn = itertools.count()
        self._failures = dict.fromkeys(self._servers, 0)
        self._rests_until = dict.fromkeys(self._servers, 0.0)
        self._greeted = set()
        self._gave_up = False
        self._lock = threading.Lock()
        #: How a request is written: the same for all of them.
        self.encode = self._servers[0].encode
        self.bytes_per_value = self._servers[0].bytes_per_value

    def __len__(self):
        return len(self._servers)

    def meet(self) -> None:
        """Greet all servers; those that are not there are greeted when they are.

        Raises:
            NobodyAnswers: None was there in time.
            Refusal: A server refused; its attribute `server` says which.
        """
        self.ask(_nothing, self._contact_s)
        for server in self._servers:
            if server not in self._greeted and not self._failures[server]:
                try:
                    self._ask_one(server, _nothing, self._contact_s)
                except Refusal as refusal:
                    if refusal.kind not in _PASSING:
                        raise

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
                tries += 1
                try:
                    return self._ask_one(server, question, start + patience_s - time.monotonic())
                except Refusal as refusal:
                    if refusal.kind is Kind.LATE:
                        refusal.waited_s = patience_s
                        self._set_aside(server, patience_s)
                        self._gave_up = True
                    if refusal.kind not in _PASSING:
                        raise
                    refusals.append(refusal)
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

    def _ask_one(self, server, question, left_s):
        # The last try is a try, too: a little time is always left to it.
        end = time.monotonic() + max(left_s, 0.5)
        try:
            self._greet(server, end - time.monotonic())
            answer = question(server, max(end - time.monotonic(), 0.5))
        except Refusal as refusal:
            refusal.server = server
            if refusal.kind in _PASSING:
                self._set_aside(server, LONGEST_REST_S if refusal.waited_s else 0.0)
            raise
        self._welcome(server)
        return answer

    def _greet(self, server, left_s):
        if server in self._greeted:
            return
        within_s = min(self._contact_s / len(self._servers), left_s)
        try:
            self._greeting(server, within_s)
        except Refusal as refusal:
            if refusal.kind is not Kind.LATE:
                raise
            text = f"{server.address} did not say within {within_s:.1f} s what it serves"
            late = Refusal(Kind.UNAVAILABLE, text)
            late.waited_s = within_s
            raise late from refusal
        self._greeted.add(server)

    def _in_turn(self):
        """Each server once: the next in the round first, those that rest last."""
        with self._lock:
            first = next(self._turn) % len(self._servers)
        in_turn = self._servers[first:] + self._servers[:first]
        now = time.monotonic()
        return sorted(in_turn, key=lambda server: self._rests_until[server] > now)

    def _set_aside(self, server, at_least_s=0.0):
        with self._lock:
            self._failures[server] += 1
            self._greeted.discard(server)
            rest = min(FIRST_PAUSE_S * 2 ** self._failures[server], LONGEST_REST_S)
            self._rests_until[server] = time.monotonic() + max(rest, at_least_s)

    def _welcome(self, server):
        with self._lock:
            self._failures[server], self._rests_until[server] = 0, 0.0
            self._gave_up = False

    def close(self) -> None:
        """End the connections."""
        for server in self._servers:
            server.close()

    def _nobody(self, tries, seconds, refusals):
        unavailable = [r for r in refusals if r.kind is Kind.UNAVAILABLE]
        # One that took the connection and was late says more than one that was not there.
        worst = max(unavailable, key=lambda refusal: refusal.waited_s)
        asked = "once" if tries == 1 else f"{tries} times in {seconds:.1f} s"
        remedy = "start the server, or check host and port"
        if worst.waited_s:
            remedy = "see whether the server still loads or is overloaded, or raise --deadline"
        return NobodyAnswers(
            f"nobody answers at {self._address}, asked {asked} ({worst.text[:160]}); {remedy}"
        )


def _nothing(server, left_s):
    """A question for the sake of the greeting."""
