"""What becomes of reports that cannot be packed as they are."""

from __future__ import annotations

import logging
from fractions import Fraction

import pytest
from distributed.protocol import pickle
from distributed.protocol.core import loads
from distributed.protocol.serialize import Serialize, ToPickle
from distributed.utils_test import captured_logger

from fastworker.link.degraded import CannotSend, ReportPacker
from support.failing import Unpicklable


def finished(**fields):
    return {
        "key": ("x", 1),
        "run_id": 3,
        "nbytes": 1,
        "type": b"t",
        "typename": "int",
        "metadata": {},
        "thread": 5,
        "startstops": [{"action": "compute", "start": 1.0, "stop": 2.0}],
        "op": "task-finished",
        "stimulus_id": "s",
        "status": "OK",
        **fields,
    }


def erred(**fields):
    return {
        "key": ("x", 1),
        "run_id": 3,
        "exception": Serialize(pickle.dumps(ValueError("v"))),
        "traceback": None,
        "exception_text": "ValueError('v')",
        "traceback_text": "somewhere",
        "thread": 5,
        "startstops": [],
        "op": "task-erred",
        "stimulus_id": "s",
        "status": "error",
        **fields,
    }


def surely(message):
    """What arrives in a message's place, the packer, and what was logged as an error."""
    packer = ReportPacker()
    with captured_logger("fastworker.wire", logging.ERROR) as log:
        one = packer.pack_surely(message)
    if one is None:
        return None, packer, log.getvalue()
    (result,) = loads([b"\x91" + one, *packer.frames])
    return result, packer, log.getvalue()


def test_nothing_is_changed_that_can_be_packed():
    result, packer, log = surely(finished(metadata={"x": Fraction(1, 3)}))
    assert result["metadata"] == {"x": Fraction(1, 3)}
    assert not log and not packer.degraded and not packer.unsendable


def test_metadata_that_cannot_be_packed_is_pickled_or_left_out():
    result, packer, log = surely(finished(metadata={"x": ["\ud800"]}))  # no UTF-8
    assert result["metadata"] == {"x": ["\ud800"]} and "pickled" in log and packer.degraded == 1

    result, packer, log = surely(finished(metadata={"x": Unpicklable()}))
    assert result["metadata"] == {} and result["key"] == ("x", 1) and result["thread"] == 5
    assert result["startstops"] == ({"action": "compute", "start": 1.0, "stop": 2.0},)
    assert "task-finished" in log and "('x', 1)" in log and "not me" in log
    assert packer.degraded == 1 and packer.unsendable == 0

    result, _, log = surely(finished(startstops=[Unpicklable()]))
    assert result["startstops"] == () and result["thread"] is None and "timings" in log


def test_an_exception_that_cannot_be_packed_becomes_text():
    message = erred(exception=ToPickle(Unpicklable()), traceback=Serialize(Unpicklable()))
    result, packer, log = surely(message)
    error = pickle.loads(result["exception"])
    assert type(error) is Exception and error.args == ("ValueError('v')",)
    assert result["traceback"] is None and result["traceback_text"] == "somewhere"
    assert "task-erred" in log and "('x', 1)" in log
    assert packer.degraded == 1


def test_a_text_that_is_no_unicode():
    result, _, log = surely(erred(exception_text="ValueError('\ud800')"))
    assert result["exception_text"] == "ValueError('?')"
    assert type(pickle.loads(result["exception"])) is ValueError  # the least loss
    assert "printable" in log


def test_other_messages_are_left_out_and_named():
    message = {"op": "log-event", "topic": "mine", "msg": Unpicklable()}
    result, packer, log = surely(message)
    assert result is None and packer.unsendable == 1
    assert "Not sent" in log and "log-event" in log and "mine" in log
    result, _, log = surely(Unpicklable())
    assert result is None and "Unpicklable" in log


def test_the_end_of_a_task_is_never_left_out():
    for message in (finished(key="\ud800"), erred(key="\ud800")):
        with pytest.raises(CannotSend, match=message["op"]):
            ReportPacker().pack_surely(message)
