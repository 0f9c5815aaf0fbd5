"""Commands without a process of their own: importing torch and timm takes seconds, most commands a fraction of one."""

from __future__ import annotations

import contextlib
import io
import subprocess

import pytest


def run_command(main, *arguments, cwd, **environment):
    """Run a command in a folder, as ``subprocess.run`` would."""
    out, err, words = io.StringIO(), io.StringIO(), [str(argument) for argument in arguments]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        for name, value in environment.items():
            patch.setenv(name, value)
        code = main(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
