"""The journal survives a kill at its worst moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

WRITE = """
from pathlib import Path
from pinas_search.journal import Journal
from pinas_search.spaces import mini
journal = Journal(Path('run/search/journal.log'), mini())
journal.add((0, 1, 2, 3, 0, 1, 2, 3), 0.5, 1.0)
"""
DIE = """
import os, signal
journal.study._storage._backend._lock.acquire()  # the moment in which a line is being written
os.kill(os.getpid(), signal.SIGKILL)
"""


def run(code: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', code], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_a_lock_left_by_a_kill_does_not_stop_the_next_start(tmp_path: Path) -> None:
    assert run(WRITE + DIE, tmp_path).returncode == -signal.SIGKILL
    result = run(WRITE + 'print(len(journal.candidates()))', tmp_path)  # a relative path, as on the command line
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == '2'
