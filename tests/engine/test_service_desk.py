# SPDX-License-Identifier: Apache-2.0
"""The desk for single frames by itself: what becomes of what was asked for when hosts leave, limits are reached or minds change."""

import pytest

from vs3r_engine.errors import Cancelled, InputError, ResourceError
from vs3r_engine.job import JobState
from vs3r_engine.service import protocol as p
from vs3r_engine.service.frames import FrameDesk
from vs3r_engine.service.jobs import JobBook
from vs3r_engine.service.worker import FrameDone, FrameFailed, JobEnded, JobOrder


class Desk(FrameDesk):
    """A desk whose worker takes every order and whose analyses are jobs in a book."""

    def __init__(self, **limits):
        self.orders, self.book = [], JobBook(64)
        super().__init__(p.Limits(**limits), lambda order: not self.orders.append(order), self._submit)

    def _submit(self, source, settings, session):
        return self.book.submit(JobOrder(p.new_job_id(), "analyze", source, settings, None, False), "", session)

    def want(self, index, session="a", path="/clip.mov", **options):
        request = p.FrameRequest(p.Source(path=path), index, **{"wait_s": 5, "prefetch": 0, **options})
        return self.ask(request, request.source, "", session, (session, index))

    def needs_analysis(self):
        """The worker says so of the order it got last; the analysis that was begun."""
        self.failed(FrameFailed(self.orders[-1].key, None))
        return self.book.newest_first()[0]


def test_a_host_that_leaves_while_its_frame_is_at_work_does_no_harm():
    desk = Desk()
    desk.want(3)
    desk.session_ended("a")
    desk.failed(FrameFailed(desk.orders[0].key, None))
    assert desk.waiting_count == 0 and not desk.book.newest_first()
    desk.want(4)
    desk.session_ended("a")
    desk.worker_lost()
    desk.dispatch()
    desk.want(5, "b")
    assert desk.orders[-1].key.frame_index == 5


def test_a_frame_that_two_hosts_want_is_made_for_the_one_that_stays():
    desk = Desk()
    desk.want(3)
    desk.session_ended("a")
    desk.want(3, "b")
    assert desk.needs_analysis().owners == {"b"}


def test_requests_held_back_during_an_analysis_are_limited_for_each_host():
    desk = Desk(frames_waiting=6, frames_waiting_per_session=4)
    desk.want(0)
    analysis = desk.needs_analysis()
    for index in range(1, 4):
        desk.want(index)
    with pytest.raises(ResourceError, match=r"4 of them for this host.*queue-full"):
        desk.want(4)
    desk.want(0, "b")
    desk.want(1, "b")
    with pytest.raises(ResourceError, match="queue-full"):
        desk.want(2, "b")
    analysis.state = JobState.DONE
    desk.analysis_ended(analysis)
    assert desk.waiting_count == 4


def test_an_analysis_that_ends_while_the_line_is_full_leaves_its_frames_pending():
    desk = Desk(frames_waiting_per_session=2)
    desk.want(0, path="/other.mov")
    analysis = desk.needs_analysis()
    desk.want(1, path="/other.mov")
    desk.want(5, wait_s=0)
    analysis.state = JobState.DONE
    desk.analysis_ended(analysis)
    assert {order.key.frame_index for order in desk.orders[1:]} == {0, 5}


def test_a_frame_refused_for_want_of_an_analysis_is_to_be_had_once_one_may_begin():
    desk = Desk()
    desk.want(3, analyze=False)
    desk.failed(FrameFailed(desk.orders[0].key, None))
    with pytest.raises(InputError, match="not-analyzed"):
        desk.want(3, analyze=False)
    assert desk.want(3) is None
    assert desk.needs_analysis().state is JobState.QUEUED


def test_a_full_queue_of_jobs_is_the_machines_fault_not_ours():
    desk = Desk()
    desk.book = JobBook(0)
    desk.want(3)
    desk.failed(FrameFailed(desk.orders[0].key, None))
    ((_, answer),) = desk.due()
    assert isinstance(answer, ResourceError) and answer.code == "queue-full"


def test_a_frame_that_comes_answers_everybody_who_waits():
    desk = Desk()
    desk.want(3)
    desk.want(3, "b")
    desk.rendered(FrameDone(desk.orders[0].key, 2, 1, bytes(16)))
    assert {reply_to[0] for reply_to, answer in desk.due() if answer.reply.state == "ready"} == {"a", "b"}


def test_an_analysis_cancelled_for_want_of_hosts_is_begun_anew_for_the_next_one():
    desk = Desk()
    desk.want(3)
    analysis = desk.needs_analysis()
    desk.session_ended("a")
    assert desk.book.disowned("a") == [analysis]
    desk.book.cancel(analysis)
    desk.analysis_ended(analysis)
    assert desk.want(3, "b") is None
    assert desk.needs_analysis().state is JobState.QUEUED

    running = desk.book.start_next()
    desk.book.disowned("b")
    desk.book.cancel(running)
    assert desk.want(4, "c") is None
    assert desk.book.ended(JobEnded(running.order.job_id, JobState.CANCELLED)).state is JobState.QUEUED


def test_an_analysis_that_somebody_cancelled_is_begun_again_by_who_asks_for_it_and_not_by_those_who_poll():
    desk = Desk()
    desk.want(3)
    desk.want(4, wait_s=0)
    desk.failed(FrameFailed(desk.orders[0].key, None))
    analysis = desk.needs_analysis()
    desk.book.start_next()
    desk.book.cancel(analysis)
    desk.want(3)
    assert desk.book.ended(JobEnded(analysis.order.job_id, JobState.CANCELLED)).state is JobState.CANCELLED
    desk.analysis_ended(analysis)
    assert desk.waiting_count == 0 and len(desk.book.newest_first()) == 1
    assert [answer.code for _, answer in desk.due()] == ["cancelled"] * 2
    with pytest.raises(Cancelled):
        desk.want(3)
    desk.analysis_submitted(p.Source(path="/other.mov"))
    with pytest.raises(Cancelled):
        desk.want(3)
    desk.analysis_submitted(p.Source(path="/clip.mov"))
    assert desk.want(3) is None
    assert desk.needs_analysis().state is JobState.QUEUED


def test_an_analysis_that_failed_is_not_begun_again_by_the_frames_that_waited_for_it():
    desk = Desk()
    desk.want(3)
    analysis = desk.needs_analysis()
    desk.book.start_next()
    desk.analysis_ended(desk.book.ended(JobEnded(analysis.order.job_id, JobState.FAILED, error=p.Error("media-gap", "No."))))
    assert len(desk.orders) == 1 and [answer.code for _, answer in desk.due()] == ["media-gap"]
