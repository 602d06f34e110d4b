"""Functions that run beside each other so that what they ask of the same X is computed in one pass.

Each runs in a thread of its own, but only one of them at any time: it runs until it asks for something
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

_seat: ContextVar[Seat | None] = ContextVar("sc_dask_seat", default=None)


@dataclass
class Seat:
    """One function in a meeting: what it waits for, what it gave, and whether others may go on."""

    func: Callable[[], Any]
    asked: tuple[Lazy[Any], ...] = ()
    given: Sequence[Any] | BaseException = ()
    value: Any = None
    error: BaseException | None = None
    ended: bool = False
    turn: threading.Event = field(default_factory=threading.Event)
    pause: threading.Event = field(default_factory=threading.Event)
    may_write: Callable[[str, str], None] | None = None

    def ask(self, lazies: tuple[Lazy[Any], ...]) -> Sequence[Any]:
        """Wait until the others have asked too and return the answers."""
        self.asked = lazies
        self._rest()
        if isinstance(self.given, BaseException):
            raise self.given
        return self.given

    def _rest(self) -> None:
        self.pause.set()
        self.turn.wait()
        self.turn.clear()

    def run(self) -> None:
        """Run the function from its first turn on."""
        self.turn.wait()
        self.turn.clear()
        _seat.set(self)
        try:
            self.value = self.func()
        except BaseException as err:  # raised where the meeting was called
            self.error = err
        self.ended, self.asked = True, ()
        self.pause.set()


def seat() -> Seat | None:
    """Return the seat of the function that runs here, or None outside of a meeting."""
    return _seat.get()


def hold(
    funcs: Sequence[Callable[[], Any]],
    compute: Callable[[list[Lazy[Any]]], Sequence[Any]],
    may_write: Callable[[int, str, str], None] | None = None,
) -> list[Seat]:
    """Run functions beside each other and return their seats, which hold what each returned or raised.

    Parameters
    ----------
    funcs
        Functions that may ask for passes; they take turns in this order.
    compute
        What answers all that is asked in a round.
    may_write
        ``may_write(i, attr, key)`` raises where function ``i`` must not write a slot.
    """
    seats = [Seat(f) for f in funcs]
    for i, s in enumerate(seats):
        if may_write is not None:
            s.may_write = lambda attr, key, i=i: may_write(i, attr, key)
        # daemon: one that waits when an interrupt ends the meeting keeps no process alive
        threading.Thread(target=contextvars.copy_context().run, args=(s.run,), daemon=True).start()
    while waiting := [s for s in seats if not s.ended]:
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
                s.given = err
            continue
        for s in asking:
            s.given, answers = answers[: len(s.asked)], answers[len(s.asked) :]
    return seats
