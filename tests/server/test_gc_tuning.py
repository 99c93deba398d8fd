"""What the garbage collector looks at, in a process of its own: the collector is one for all of it."""

import subprocess
import sys
import textwrap

from tests.conftest import ROOT


def run(program: str) -> str:
    """Run a program beside the looks and return what it printed."""
    head = """
    import gc, weakref
    from proxy.server.gc_tuning import MIDDLE, OLD, YOUNG, GcTuner

    class Node:
        pass

    def cycle():
        one = Node()
        one.itself = one
        return one

    def stay(number):
        passed.append([[] for _ in range(number)])

    passed = []
    enough = 4 * YOUNG * (MIDDLE + 1) * (OLD + 1)  # for a full look

    """
    whole = textwrap.dedent(head) + textwrap.dedent(program)
    return subprocess.run([sys.executable, "-c", whole], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_what_a_full_look_left_alive_is_not_looked_at_again() -> None:
    seen = run("""
    kept = [cycle() for _ in range(100_000)]
    GcTuner().begin()
    print(gc.get_freeze_count() > 100_000, len(gc.get_objects()) < 1_000)
    """)
    assert seen == "True True\n"


def test_a_full_look_comes_after_some_twenty_thousand_that_stay() -> None:
    seen = run("""
    GcTuner().begin()
    looks = []
    gc.callbacks.append(lambda phase, info: looks.append(info["generation"]) if phase == "start" else None)
    kept = []
    while 2 not in looks:
        kept.append([])
    print(20_000 < len(kept) < 22_000)
    """)
    assert seen == "True\n"


def test_what_stays_is_set_aside_as_it_comes() -> None:
    seen = run("""
    GcTuner().begin()
    for _ in range(5):
        stay(enough)
    print(len(gc.get_objects()) < enough)
    """)
    assert seen == "True\n"


def test_garbage_that_was_set_aside_is_found_once_as_much_has_come_since() -> None:
    seen = run("""
    kept = [[] for _ in range(2 * enough)]
    gone = cycle()
    gone_too = weakref.ref(gone)
    looks = GcTuner()
    looks.begin()
    del gone
    looks.tick(quiet=True)
    print(gone_too() is None)
    while gc.get_freeze_count() < 3 * looks._aside:
        stay(enough)
    looks.tick(quiet=False)
    print(gone_too() is None)
    looks.tick(quiet=True)
    print(gone_too() is None)
    """)
    assert seen == "False\nFalse\nTrue\n"


def test_in_a_time_that_is_never_quiet_everything_is_looked_through_all_the_same() -> None:
    seen = run("""
    gone = cycle()
    gone_too = weakref.ref(gone)
    looks = GcTuner()
    looks.begin()
    del gone
    while gc.get_freeze_count() < 10 * looks._aside:
        stay(enough)
    looks.tick(quiet=False)
    print(gone_too() is None)
    """)
    assert seen == "True\n"


def test_what_is_young_is_looked_at_as_ever() -> None:
    seen = run("""
    GcTuner().begin()
    young = weakref.ref(cycle())
    stay(enough)
    print(young() is None)
    """)
    assert seen == "True\n"


def test_who_ends_it_leaves_nothing_set_aside() -> None:
    seen = run("""
    looks = GcTuner()
    looks.begin()
    looks.end()
    print(gc.get_freeze_count(), gc.callbacks)
    """)
    assert seen == "0 []\n"
