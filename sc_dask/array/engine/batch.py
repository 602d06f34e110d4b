"""Batch scheduler: runs several functions so that what they ask of the same X is computed in one pass.

Each function has a thread of its own, but only one of them runs at any time: it runs until it asks for something
(``run.compute``) or ends, then the next has its turn. When all have asked, everything is computed together.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sc_dask.array.blocks import Lazy

_participant: ContextVar[Participant | None] = ContextVar("sc_dask_participant", default=None)


@dataclass
class Participant:
    """One function of a batch: what it asked for, the answers, what it returned, and the events that pass the turn."""

    func: Callable[[], Any]
    asked: tuple[Lazy[Any], ...] = ()
    answers: Sequence[Any] | BaseException = ()
    value: Any = None
    error: BaseException | None = None
    ended: bool = False
    turn: threading.Event = field(default_factory=threading.Event)
    pause: threading.Event = field(default_factory=threading.Event)
    may_write: Callable[[str, str], None] | None = None

    def submit_and_wait(self, lazies: tuple[Lazy[Any], ...]) -> Sequence[Any]:
        """Wait until the others have asked too and return the answers."""
        self.asked = lazies
        self._yield_turn()
        if isinstance(self.answers, BaseException):
            raise self.answers
        return self.answers

    def _yield_turn(self) -> None:
        self.pause.set()
        self.turn.wait()
        self.turn.clear()

    def run(self) -> None:
        """Thread body: wait for the first turn, call the function, store value or error, hand control back."""
        self.turn.wait()
        self.turn.clear()
        _participant.set(self)
        try:
            self.value = self.func()
        except BaseException as err:  # raised where the batch was started
            self.error = err
        self.ended, self.asked = True, ()
        self.pause.set()


def participant() -> Participant | None:
    """Return the participant whose function runs here, or None outside of a batch."""
    return _participant.get()


def run_together(
    funcs: Sequence[Callable[[], Any]],
    compute: Callable[[list[Lazy[Any]]], Sequence[Any]],
    may_write: Callable[[int, str, str], None] | None = None,
) -> list[Participant]:
    """Run functions side by side; return their participants, which hold what each returned or raised.

    Parameters
    ----------
    funcs
        Functions that may ask for passes; they take turns in this order.
    compute
        What answers all that is asked in a round.
    may_write
        ``may_write(i, attr, key)`` raises where function ``i`` must not write a slot.
    """
    participants = [Participant(f) for f in funcs]
    for i, s in enumerate(participants):
        if may_write is not None:
            s.may_write = lambda attr, key, i=i: may_write(i, attr, key)
        # daemon: one that waits when an interrupt ends the batch keeps no process alive
        threading.Thread(target=contextvars.copy_context().run, args=(s.run,), daemon=True).start()
    while waiting := [s for s in participants if not s.ended]:
        for s in waiting:
            s.turn.set()
            s.pause.wait()
            s.pause.clear()
        asking = [s for s in waiting if not s.ended]
        if not asking:
            break
        try:
            answers = list(compute([z for s in asking for z in s.asked]))
        except Exception as err:  # a block that cannot be read fails all that wanted it
            for s in asking:
                s.answers = err
            continue
        for s in asking:
            s.answers, answers = answers[: len(s.asked)], answers[len(s.asked) :]
    return participants
