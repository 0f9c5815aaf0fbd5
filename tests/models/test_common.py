import errno
import os
import signal
import subprocess
import sys

import pytest

from pinas_models.common.files import atomic_path, write_json, write_text
from pinas_models.common.text import first_line, nearest, one_line


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / 'new' / 'folder' / 'file.txt'
    write_text(path, 'old')
    with atomic_path(path) as temporary:
        temporary.write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    assert list(path.parent.iterdir()) == [path]


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path):
    path = tmp_path / 'file.json'
    write_json(path, {'π': 1})
    with pytest.raises(OSError, match='full'), atomic_path(path) as temporary:
        _fill(temporary)
    assert path.read_text(encoding='utf-8') == '{\n  "π": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def _fill(path):
    path.write_bytes(b'half')
    raise OSError(errno.ENOSPC, 'full')


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / 'a.txt'
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"), atomic_path(path):
        raise full
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_writing_leaves_the_old_file_and_the_next_write_cleans_up(tmp_path):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    program = (
        'import os, sys, pathlib\nfrom pinas_models.common.files import atomic_path\n'
        'with atomic_path(pathlib.Path(sys.argv[1])) as temporary:\n'
        '    temporary.write_text("half")\n    os.kill(os.getpid(), 9)\n'
    )
    killed = subprocess.run([sys.executable, '-c', program, str(path)], env={**os.environ}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == 'old'
    write_text(path, 'new')
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ('error', 'line', 'first'),
    [
        (ValueError('  two\n\n  lines '), 'two lines', 'two'),
        (RuntimeError(), 'RuntimeError', 'RuntimeError'),
        ('\n a\ttext\n', 'a text', 'a\ttext'),
    ],
)
def test_text_of_an_error(error, line, first):
    assert (one_line(error), first_line(error), one_line(error, 3)) == (line, first, line[:3])


def test_nearest_name():
    known = ['learn.epochs', 'linear.epochs', 'seed']
    assert nearest('learn.epoch', known) == ', did you mean learn.epochs?'
    assert nearest('linearn.epochs', known, most=2) == ', did you mean linear.epochs or learn.epochs?'
    assert nearest('xyz', known) == ''
