"""The `holdshort` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; errors of ours become a message on standard error and an exit code."""
    from .exits import Exit

    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough (`holdshort results JOB | head`); nor can what is left be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.OK
    sys.exit(code)


def _run() -> int | str | None:
    """The exit code. Raises BrokenPipeError when nobody reads our output any more."""
    from .app import app
    from .exits import Exit, exit_of
    from .output import no_traceback, note

    try:
        app()
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):
            raise leaving.__context__ from None  # typer makes it exit code 1
        return leaving.code
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        note("interrupted")
        return Exit.INTERRUPTED
    except Exception as error:
        from ..storage.errors import HoldshortError

        if isinstance(error, HoldshortError) and no_traceback():
            note(f"holdshort: {error}")
            for problem in getattr(error, "problems", ())[1:]:  # of a refused input; the first is told above
                note(f"  {problem.where}: {problem.message}")
            return exit_of(error)
        explained = _spec_problem(error)
        if explained is None:
            raise
        note(f"holdshort: {explained}")
        return Exit.REFUSED
    return Exit.OK


def _spec_problem(error: Exception) -> str | None:
    """A job's validation errors, one line each; None for any other error."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return None
    # What concerns several fields together names them itself.
    lines = [
        f"{found['loc'][0]}: {found['msg']}" if found["loc"] else found["msg"].removeprefix("Value error, ")
        for found in error.errors()
    ]
    return "The job can't be submitted.\n" + "\n".join(dict.fromkeys(lines))
