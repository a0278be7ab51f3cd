"""The `holdshort` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; errors of ours become a message on standard error and an exit code."""
    from .app import app
    from .exits import Exit, exit_of
    from .output import no_traceback, note

    try:
        app()
    except KeyboardInterrupt:
        note("interrupted")
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has had enough (`holdshort results JOB | head`).
        sys.stderr.close()
        sys.exit(Exit.OK)
    except Exception as error:
        from ..storage.errors import HoldshortError

        if isinstance(error, HoldshortError) and no_traceback():
            note(f"holdshort: {error}")
            sys.exit(exit_of(error))
        explained = _spec_problem(error)
        if explained is None:
            raise
        note(f"holdshort: {explained}")
        sys.exit(Exit.REFUSED)


def _spec_problem(error: Exception) -> str | None:
    """A job's validation errors, one line each; None for any other error."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return None
    lines = [f"{'.'.join(str(part) for part in found['loc'][:1])}: {found['msg']}" for found in error.errors()]
    return "The job can't be submitted.\n" + "\n".join(dict.fromkeys(lines))
