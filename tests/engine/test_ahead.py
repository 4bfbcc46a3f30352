# SPDX-License-Identifier: Apache-2.0
"""Items made in another thread: the same ones, in order, no more than asked for, and no thread left behind."""

import threading
import time

import pytest

from vs3r_engine.ahead import ahead


def test_the_items_are_the_same_in_the_same_order():
    assert list(ahead(iter(range(50)), 3)) == list(range(50))
    assert list(ahead([], 3)) == []


def test_items_are_made_while_the_last_one_is_used_and_no_more_than_asked_for():
    made = []

    def items():
        for number in range(20):
            made.append((number, threading.current_thread().name))
            yield number

    coming = ahead(items(), 2)
    assert made == [], "nothing is made before the first item is asked for"
    next(coming)
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert [number for number, _ in made] == [0, 1, 2], "the one in use and two ahead"
    coming.close()
    assert {name.startswith("ahead") for _, name in made} == {True}
    assert len(made) <= 4


def test_an_error_comes_where_its_item_would_have():
    def items():
        yield 1
        yield 2
        raise ValueError("third")

    coming = ahead(items(), 5)
    assert [next(coming), next(coming)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(coming)


def test_closing_finishes_the_item_under_way_closes_the_items_and_leaves_no_thread():
    closed_in = []

    def items():
        try:
            while True:
                time.sleep(0.01)
                yield 0
        finally:
            closed_in.append(threading.current_thread().name)

    before = threading.active_count()
    coming = ahead(items(), 3)
    next(coming)
    assert threading.active_count() == before + 1
    coming.close()
    assert len(closed_in) == 1 and closed_in[0].startswith("ahead")
    assert threading.active_count() == before


def test_closing_makes_no_item_that_was_not_under_way():
    made, is_under_way, is_closed = [], threading.Event(), threading.Event()

    def items():
        for number in range(10):
            if number == 1:
                is_under_way.set()
                is_closed.wait()
                time.sleep(0.3)  # closing has begun
            made.append(number)
            yield number

    coming = ahead(items(), 3)
    next(coming)
    is_under_way.wait()
    is_closed.set()
    coming.close()
    assert made == [0, 1]
