"""Emulated steps and paced loaders keep their rate to the nanosecond, whatever a sleep overshoots."""

from __future__ import annotations

import numpy as np
import pytest

from bench.emulated import EmulatedStep
from bench.known import Paced, build
from loaders.base import LoaderSpec
from storage.errors import UsageError

MS = 1_000_000


class Sleepy:
    """A clock whose sleep takes a millisecond too long."""

    now = 0

    def clock(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9) + MS


def test_overshoot_does_not_add_up() -> None:
    world = Sleepy()
    step = EmulatedStep(1000, clock=world.clock, sleep=world.sleep)
    for _ in range(100):
        step(None, np.zeros(32))
    assert world.now == 100 * 32 * MS + MS


def test_time_between_steps_is_the_loaders() -> None:
    world = Sleepy()
    step = EmulatedStep(1000, clock=world.clock, sleep=world.sleep)
    for _ in range(10):
        world.now += 5 * MS
        step(None, np.zeros(32))
    assert world.now == 10 * 37 * MS + MS


def test_a_loader_without_prefetch_works_only_when_asked() -> None:
    world = Sleepy()
    ready = Paced(10 * MS, 0, world.clock, world.sleep)
    for number in range(10):
        ready(number)
        world.now += 20 * MS
    assert world.now == pytest.approx(10 * 30 * MS, abs=2 * MS)


def test_a_loader_with_prefetch_works_meanwhile() -> None:
    world = Sleepy()
    ready = Paced(10 * MS, 2, world.clock, world.sleep)
    for number in range(10):
        ready(number)
        world.now += 20 * MS
    # The first batch takes 10 ms (and the sleep's millisecond), every later one is ready.
    assert world.now == 11 * MS + 10 * 20 * MS
    world.now += 500 * MS
    before = world.now
    for number in range(12):
        ready(number)
    # Two were held and the third was under way all along only if a place was free: ten periods for ten more.
    assert world.now - before == pytest.approx(10 * 10 * MS, abs=2 * MS)


@pytest.mark.parametrize("name", ["known:", "known:x", "known:-5"])
def test_unknown_known_loader(name: str) -> None:
    with pytest.raises(UsageError, match="expected known: and one of: null, RATE"):
        build(name, LoaderSpec())
