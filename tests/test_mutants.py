"""The mutants of tests/bench/mutants.py can be applied: their lines are where they say, and so are the tests."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
MUTANTS = runpy.run_path(str(ROOT / "tests" / "bench" / "mutants.py"))["MUTANTS"]


def test_each_line_is_there_once():
    stale = {m.old: m.file for m in MUTANTS if (ROOT / m.file).read_text().count(m.old) != 1}
    assert not stale
    assert len(MUTANTS) >= 40


def test_each_changes_its_line_and_has_tests():
    assert [m.old for m in MUTANTS if m.old == m.new] == []
    assert [name for m in MUTANTS for name in m.tests if not (ROOT / name).is_file()] == []
