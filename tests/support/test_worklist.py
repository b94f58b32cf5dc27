"""What a crash sweep still has to do follows from what was lived, in whatever order the lives come."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.lane import Began, Life, Phase
from tests.support.stepped import Kill, Trace
from tests.support.steps import Kind, Site, step
from tests.support.worklist import Job, Worklist


def site(text: str, kind: Kind = "await", catches: tuple[str, ...] = ()) -> Site:
    return Site("streams/loop.py", "run", text, 1, kind, 1, False, catches)


_INSERT = Site("sinks/clickhouse.py", "insert", "client.insert(…)", 1, "effect", 1, False)


def life(began: Began, backlog: Sequence[str], end: Sequence[str] = ()) -> Life:
    """A life that reached these steps before it had caught up, and those when it ended."""
    marks = {Phase.BACKLOG: 0, Phase.QUIET: len(backlog), Phase.END: len(backlog)}
    return Life(began, trace=Trace([*backlog, *end], {"streams.loop"}), marks=marks)


def worklist(*sites: Site, share: float = 0.0, only: str = "") -> Worklist:
    return Worklist(list(sites), seed=1, share=share, only=only)


def taken(work: Worklist, *, new: bool = True) -> list[Job]:
    """Every job there is, each said to be done."""
    jobs = []
    while job := work.take(new=new):
        jobs.append(job)
        work.put_back(job, done=True)
    return jobs


def before(one: Site, label: str = "") -> str:
    return step(one.name, "before", label)


def test_every_step_is_killed_at_once() -> None:
    """However often and wherever a step is reached, there is one first kill; a second where there is share."""
    steps = [before(site("a()")), before(site("b()"))]
    for share, kills in ((0.0, 2), (1.0, 4)):
        work = worklist(share=share)
        work.note(life(Began.CLEAN, steps * 5))
        work.note(life(Began.CRASHED, steps * 5), after=Kill("x"))
        work.open()
        jobs = taken(work)
        assert len(jobs) == kills
        assert {job.kill.step for job in jobs if job.kill and job.first} == set(steps)
        assert all(job.kill.hit > 1 for job in jobs if job.kill and not job.first)
        assert set(work.done) == set(steps)


def test_the_plainest_circumstances_win() -> None:
    """What a later life reaches too needs no new world; what only a new world reaches comes in its order."""
    made, filled, common = before(site("make()")), before(site("fill()")), before(site("go()"))
    work = worklist()
    work.note(life(Began.NEW, [made, filled, common]))
    work.note(life(Began.CLEAN, [common]))
    work.open()
    jobs = taken(work)
    assert [(job.kill.step, job.began) for job in jobs if job.kill] == [
        (made, Began.NEW),
        (filled, Began.NEW),
        (common, Began.CLEAN),
    ]


def test_what_was_found_after_a_kill_begins_with_it() -> None:
    """A step of recovery is reached again by the kill that made it necessary."""
    work = worklist()
    work.open()
    work.note(life(Began.CRASHED, [before(site("mend()"))]), after=Kill("x", hit=2))
    (job,) = taken(work)
    assert (job.began, job.after) == (Began.CRASHED, Kill("x", hit=2))


def test_effects_are_killed_in_their_midst_and_fail() -> None:
    """A call that changes something gets a kill before, one in its midst, and a life in which it fails first."""
    work = worklist(_INSERT)
    work.note(
        life(Began.CLEAN, [before(_INSERT, "insert_arrow rejects"), step(_INSERT.name, "after", "insert_arrow x")])
    )
    work.open()
    jobs = taken(work)
    delays = [job.kill.delay_ms for job in jobs if job.kill]
    assert sorted(delay > 0 for delay in delays) == [False, False, True]
    assert [job.trouble for job in jobs if not job.kill] == [before(_INSERT, "insert_arrow rejects")]


def test_only_steps_that_expect_an_error_fail() -> None:
    """An await without a `try` around it has no error to expect, unless it asks a library with errors of its own."""
    expecting, library, plain = site("a()", catches=("OSError",)), site("await super().a()"), site("b()")
    work = worklist(expecting, library, plain)
    work.note(life(Began.CLEAN, [before(expecting), before(library), before(plain)]))
    work.open()
    assert {job.trouble for job in taken(work) if job.trouble} == {before(expecting), before(library)}


def test_what_only_a_new_world_does_fails_there_after_everything_else() -> None:
    """Such a life works a world off, so that those which still want it new come before it."""
    making, filling = site("make()", catches=("OSError",)), site("fill()")
    work = worklist(making, filling)
    work.note(life(Began.NEW, [before(making), before(filling)]))
    work.open()
    jobs = taken(work)
    assert [(job.began, job.trouble) for job in jobs] == [
        (Began.NEW, None),
        (Began.NEW, None),
        (Began.NEW, before(making)),
    ]


def test_a_kill_that_is_passed_by_comes_again_and_is_told_at_last() -> None:
    """A step that was reached once and never again is no success: the sweep could not kill there."""
    work = worklist()
    work.note(life(Began.CLEAN, [before(site("seldom()"))]))
    work.open()
    tries = 0
    while job := work.take(new=True):
        tries += 1
        work.put_back(job, done=False)
    assert tries > 3
    assert [job.kill.step for job in work.missed if job.kill] == [before(site("seldom()"))]


def test_one_phase_alone() -> None:
    """A sweep of one phase kills at what is reached in it, elsewhere reached or not, and does nothing besides."""
    both, ending = before(_INSERT, "insert_arrow x"), before(site("b()", catches=("OSError",)))
    work = Worklist([_INSERT, site("b()", catches=("OSError",))], seed=1, share=1.0, phase=Phase.END)
    work.note(life(Began.CLEAN, [both] * 9, [both, ending]))
    work.open()
    assert {(job.kill.step, job.phase) for job in taken(work) if job.kill} == {(both, Phase.END), (ending, Phase.END)}
    assert work.reached == {both, ending}


def test_a_phase_alone_and_what_was_not_killed_at_elsewhere() -> None:
    """What only these lives do is killed at in whatever phase it is reached; of the rest, a sample in that phase."""
    known, ours = before(site("known()")), before(site("ours()"))
    work = Worklist([], seed=1, share=0.0, phase=Phase.END, sample=0.0, elsewhere={known})
    work.note(life(Began.CLEAN, [known, ours], [known]))
    work.open()
    assert [(job.kill.step, job.phase) for job in taken(work) if job.kill] == [(ours, Phase.BACKLOG)]


def test_a_part_is_drawn_by_the_seed() -> None:
    """A sample is a part of the steps, the same for the same seed, and another for another."""
    steps = [before(site(f"s{number}()")) for number in range(200)]
    drawn = []
    for seed in (1, 1, 2):
        work = Worklist([], seed=seed, share=0.0, sample=0.2)
        work.note(life(Began.CLEAN, steps))
        work.open()
        drawn.append({job.kill.step for job in taken(work) if job.kill})
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(20 < len(part) < 60 for part in drawn)


def test_a_stop_ends_every_lane() -> None:
    """After enough violations nothing more is handed out."""
    work = worklist()
    work.note(life(Began.CLEAN, [before(site("a()"))]))
    work.open()
    work.stop()
    assert work.take(new=True) is None
    assert len(work) == 1


def test_parts_are_all_steps_and_none_twice() -> None:
    """Each step is killed at in exactly one part, whichever life reaches it."""
    steps = [before(site(f"step_{number}()")) for number in range(40)]
    found: list[str] = []
    for number in range(4):
        work = Worklist([], seed=1, share=0.0, part=(number, 4))
        work.note(life(Began.CLEAN, steps))
        work.open()
        killed = [job.kill.step for job in taken(work) if job.kill]
        assert 2 < len(killed) < 20
        assert all(map(work.is_mine, killed))
        found += killed
    assert sorted(found) == sorted(steps)


def test_what_is_found_on_the_way_is_killed_at_by_whoever_finds_it_first() -> None:
    """The part that owns a step by its name may never see it again: only what undisturbed lives reach comes to all."""
    rare = {before(site(f"mend_{number}()")) for number in range(12)}
    common = before(site("go()"))
    killed: list[str] = []
    for number in range(4):
        work = Worklist([], seed=1, share=0.0, part=(number, 4), elsewhere=set(killed))
        work.note(life(Began.CLEAN, [common]))
        work.open()
        work.note(life(Began.CRASHED, [common, *sorted(rare)[: 6 * (number + 1)]]), after=Kill("x"))
        killed += [job.kill.step for job in taken(work) if job.kill]
        assert (common in work.planned) == work.is_mine(common)
        assert work.planned == set(work.done)
    assert sorted(killed) == sorted({common, *rare})
