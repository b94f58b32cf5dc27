"""Dead letters, counted and shown."""

from __future__ import annotations

from streams.replay.letters import Letter, Stats, Wanted, newest
from tests.streams.replay.post import letter


def test_the_newest_are_shown_first() -> None:
    """So many of them, whatever order they come in; and nothing of what they hold is kept."""
    came = [letter(at_ms=at_ms, offset=at_ms) for at_ms in (5, 9, 1, 7, 9, 3)]
    shown = newest(iter(came), 3)
    assert [one.at_ms for one in shown] == [9, 9, 7]
    assert all(one.key is None and one.value is None for one in shown)
    assert [one.at_ms for one in newest(iter(came), 100)] == [9, 9, 7, 5, 3, 1]
    assert newest(iter([]), 3) == []


def test_letters_are_counted_by_what_is_told_of_them() -> None:
    """Reason, topic and retries; with the first and the last time."""
    stats = Stats()
    for at_ms, reason, retries in ((5, "decode", 0), (2, "decode", 0), (9, "decode", 1), (4, "future", 0)):
        stats.add(letter(at_ms=at_ms, reason=reason, retries=retries))
    assert {key: (g.records, g.first_ms, g.last_ms) for key, g in stats.groups.items()} == {
        ("decode", "city.raw.sensor", 0): (2, 2, 5),
        ("decode", "city.raw.sensor", 1): (1, 9, 9),
        ("future", "city.raw.sensor", 0): (1, 4, 4),
    }
    assert (stats.records, stats.by_reason()) == (4, {"decode": 3, "future": 1})


def test_which_letters_are_wanted() -> None:
    """Of these reasons, these topics, and of records that came from the first instant to before the last."""
    one = letter(at_ms=10, reason="future")
    assert Wanted().takes(one)
    assert Wanted(("future", "decode"), ("city.raw.sensor",), 10, 11).takes(one)
    others = (Wanted(("decode",)), Wanted(topics=("city.raw.report",)), Wanted(from_ms=11), Wanted(to_ms=10))
    assert not any(wanted.takes(one) for wanted in others)


def test_a_letter_is_known_by_where_and_when_it_was_refused() -> None:
    """Where the dead-letter topic gives records a time of its own, by the place alone: its copies have other times."""
    one = letter(at_ms=10, offset=7)
    assert one.refused.received_ms == 10
    assert Letter(None, None, 10, one.told, has_its_time=False).refused.received_ms == 0
