"""Outputs of two workers are compared to the last count, and what differs is named."""

from __future__ import annotations

import pytest

from benchmarks.outputs import Agreement, Disagreement, Outputs, compare, outputs, read_topic
from benchmarks.wire import PublishError, encoded, publish
from streams.broker import in_process_broker

_MINUTE = 1_789_430_400_000
_EVENTS = b'["sensor","district","A","bin.events",%d]' % _MINUTE
_LEVEL = b'["sensor","district","A","bin.fill_level",%d]' % _MINUTE
_NOWHERE = b'["sensor","district","","bin.events",%d]' % _MINUTE
#: Ten events: eight in zone A, of which seven have a fill level (its resolution is 0.0001), two in no zone.
_GIVEN = {_EVENTS: b"[8,0,0,0]", _LEVEL: b"[7,3.50004,0.1,0.90004]", _NOWHERE: b"[2,0,0,0]"}


def told(
    worker: str = "peer",
    *,
    in_steps: bool = False,
    events: bytes = _GIVEN[_EVENTS],
    level: bytes | None = _GIVEN[_LEVEL],
) -> Outputs:
    """What a worker gave: the results above, with these values of zone A; None is no result."""
    found = {**_GIVEN, _EVENTS: events}
    del found[_LEVEL]
    if level is not None:
        found[_LEVEL] = level
    return outputs(worker, found, in_steps=in_steps)


@pytest.mark.timeout(20)
def test_results_are_read_to_their_end_without_waiting_for_more() -> None:
    """The last value of a key counts; a topic that ends short of a full read is not waited for until patience ends."""
    with in_process_broker() as bootstrap:
        publish(bootstrap, "results", [b"a", b"b", b"a"], [b"1", b"2", b"3"])
        assert read_topic(bootstrap, "results") == {b"a": b"3", b"b": b"2"}


@pytest.mark.timeout(20)
def test_more_results_than_the_producer_holds_are_all_published() -> None:
    """What its queue does not take is offered again."""
    given = {b"key %d" % number: b"%d" % number for number in range(3_000)}
    with in_process_broker() as bootstrap:
        publish(bootstrap, "results", list(given), list(given.values()), queued=1_000)
        assert read_topic(bootstrap, "results") == given


@pytest.mark.timeout(20)
def test_a_result_that_is_never_taken_is_told() -> None:
    """It is not offered again for ever."""
    with in_process_broker() as bootstrap, pytest.raises(PublishError, match="not taken"):
        publish(bootstrap, "results", [b"a", b"b"], [b"1", b"x" * 2_000_000])


def test_equal_outputs_agree() -> None:
    """Every key is compared, whatever the order and the form of the numbers."""
    assert compare(told(), told("other", events=b"[8.0, 0.0, 0, 0]")) == 3


def test_one_count_off_is_told_with_worker_key_and_both_values() -> None:
    """Whoever reads the message knows where to look."""
    with pytest.raises(Disagreement) as caught:
        compare(told("faust_record"), told("vigie", events=b"[9,0,0,0]"))
    message = str(caught.value)
    assert "faust_record and vigie differ in 1 of 3 windows" in message
    assert f'["sensor","district","A","bin.events",{_MINUTE}]' in message
    assert "faust_record has [8.0, 0.0, 0.0, 0.0], vigie has [9.0, 0.0, 0.0, 0.0]" in message


@pytest.mark.parametrize(
    "level",
    [
        None,
        b"[6,3.50004,0.1,0.90004]",
        b"[7,3.50005,0.1,0.90004]",
        b"[7,3.50004,0.10001,0.90004]",
        b"[7,3.50004,0.1,0.90005]",
        b"[7,NaN,0.1,0.90004]",
        b"[7,3.50004,0.1,Infinity]",
    ],
)
@pytest.mark.parametrize("other_way", [False, True])
def test_every_value_counts(level: bytes | None, other_way: bool) -> None:
    """A missing window, a count, a sum, a minimum, a maximum: one of them is enough, on either side."""
    pair = (told(), told("other", level=level))
    with pytest.raises(Disagreement, match="differ in 1 of 3 windows"):
        compare(*(reversed(pair) if other_way else pair))


def test_sums_may_be_added_in_another_order() -> None:
    """0.1 + 0.2 + 0.3 is two different floats."""
    assert compare(told(level=b"[3,0.6000000000000001,0.1,0.3]"), told(level=b"[3,0.6,0.1,0.3]"))


def test_whole_steps_may_differ_by_half_a_step_for_each_value() -> None:
    """vigie rounds every value to its field's resolution before it adds it; a peer does not."""
    rounded = told("vigie", in_steps=True, level=b"[7,3.5003,0.1,0.9]")
    assert compare(rounded, told()) == 3


@pytest.mark.parametrize(
    "level", [b"[7,3.5005,0.1,0.9]", b"[7,3.5,0.1002,0.9]", b"[7,3.5,0.1,0.9001]", b"[6,3.5,0.1,0.9]"]
)
def test_whole_steps_may_not_differ_by_more(level: bytes) -> None:
    """Seven values of a resolution of 0.0001 can have moved by 0.00035 in all, each by 0.00005."""
    with pytest.raises(Disagreement):
        compare(told("vigie", in_steps=True, level=level), told())


def test_two_that_round_to_steps_must_be_equal() -> None:
    """The product and its parts count the same steps: no rounding is between them."""
    with pytest.raises(Disagreement):
        compare(
            told(in_steps=True, level=b"[7,3.5,0.1,0.9]"), told("store", in_steps=True, level=b"[7,3.5,0.1,0.9001]")
        )


def test_a_lost_event_is_seen_where_all_lost_it() -> None:
    """Each layer counts every event once, so that agreeing is not enough."""
    with pytest.raises(Disagreement, match=r"do not count 11 events: district: 10"):
        Agreement(11).take(told())


def test_every_run_is_compared_with_those_before() -> None:
    """Ours with ours, peers with peers, and the first of the ones with the first of the others."""
    agreement = Agreement(10)
    agreement.take(told("vigie, repeat 1", in_steps=True))
    agreement.take(told("peer, repeat 1"))
    agreement.take(told("vigie, repeat 2", in_steps=True))
    assert agreement.keys == 3
    with pytest.raises(Disagreement, match="peer, repeat 2 and peer, repeat 1"):
        agreement.take(told("peer, repeat 2", level=b"[7,3.50003,0.1,0.90004]"))


def test_received_requests_are_ours_alone() -> None:
    """Peers do not count the steps that say "received"; a sensor's metric of that name would be compared."""
    request = b'["report","district","A","noise.received",%d]' % _MINUTE
    assert len(outputs("vigie", {**_GIVEN, request: b"[1,0,0,0]"}, in_steps=True)) == 3
    reading = b'["sensor","district","A","noise.received",%d]' % _MINUTE
    assert len(outputs("vigie", {**_GIVEN, reading: b"[1,0,0,0]"}, in_steps=True)) == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b'["sensor","district","A","bin.events"]', b"[1,0,0,0]"),
        (b'["sensor","district","A","bin.events","soon"]', b"[1,0,0,0]"),
        (b'["sensor","district","A","bin.events",0]', b"[1,0,0]"),
        (b'["sensor","district","A","bin.events",0]', b""),
        (b"null", b"[1,0,0,0]"),
        (b'["sensor", "district", "A", "bin.events", %d]' % _MINUTE, b"[8,0,0,0]"),
    ],
)
def test_results_of_another_form_are_no_results(key: bytes, value: bytes) -> None:
    """A worker that writes something else, or one key in two forms, is told so by name."""
    with pytest.raises(Disagreement, match="peer: "):
        outputs("peer", {**_GIVEN, key: value}, in_steps=False)


def test_what_ours_publishes_reads_back() -> None:
    """Codes that JSON escapes, and numbers to the last digit."""
    given = outputs(
        "vigie",
        {
            b'["report","d\\"x","\\u00e9t\\u00e9","a\\\\b.events",1]': b"[1,0.30000000000000004,-1e-7,1e22]",
            b'["report","d","","c.events",2]': b"[2,0,0,0]",
        },
        in_steps=True,
    )
    keys, values = encoded(given.windows)
    assert compare(outputs("again", dict(zip(keys, values, strict=True)), in_steps=True), given) == 2
    assert given.windows["zone_code"].sort().to_list() == ["", "été"]
