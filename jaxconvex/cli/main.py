"""The command `jaxconvex`: its exit codes, and one line for whatever goes wrong."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

from jaxconvex._internal.messages import say

__all__ = ["FAULT", "INTERRUPTED", "OK", "WRONG_USE", "main"]

OK, FAULT, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

DEBUG = "JAXCONVEX_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of `jaxconvex` with the arguments given, those of the process by default.

    0; 2 for wrong use, bad input, a path that cannot be read or written and an extra that is not installed; 130 for an
    interrupt; 1 for a failure of ours. Whatever goes wrong is told in one line on stderr; with the environment variable
    JAXCONVEX_DEBUG set, the traceback stands before it.
    """
    if arguments is None:
        for stream in (sys.stdout, sys.stderr):
            # Where a terminal cannot show a character, print a question mark instead of failing.
            with contextlib.suppress(AttributeError):
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    code = _run(sys.argv[1:] if arguments is None else list(arguments))
    if code == INTERRUPTED and arguments is None:
        # Python would wait for threads that still run compiled code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(arguments: list[str]) -> int:
    try:
        from jaxconvex.cli.commands import command

        code = command.main(arguments or ["--help"], prog_name="jaxconvex", standalone_mode=False) or OK
        say(end="")  # flush here: at exit Python would complain if the reader has closed the pipe
        return _tell(code, "Interrupted.") if code == INTERRUPTED else code
    except KeyboardInterrupt:
        return _tell(INTERRUPTED, "Interrupted.")
    except SystemExit as error:
        # Help ends so when its reader has closed the pipe; any other exit stands.
        if isinstance(error.__context__, BrokenPipeError):
            return OK
        raise
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "jaxconvex":
            return _fault(error)
        return _tell(WRONG_USE, f"Error: {_how_to_install(error)}", error)
    except (ValueError, OSError) as error:
        return _tell(WRONG_USE, f"Error: {error}", error)
    except MemoryError as error:
        return _tell(FAULT, "Error: not enough memory. Take fewer points with --max-points.", error)
    except Exception as error:
        from jaxconvex.cli.scoring import Interrupted

        if isinstance(error, Interrupted):
            return _tell(INTERRUPTED, str(error))
        # Errors of use come from typer's copy of click, or from click itself, as typer is old or new.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _tell(WRONG_USE, f"Error: {_sentence(error.format_message())} {_where_to_look(error)}")
        return _fault(error)


def _tell(code: int, message: str, error: BaseException | None = None) -> int:
    """The code, after printing the message as one line."""
    if error is not None and os.environ.get(DEBUG):
        traceback.print_exception(error)
    if code == INTERRUPTED:
        say(stream="stderr")  # below the progress bar
    say(" ".join(message.split()), stream="stderr")
    return code


def _fault(error: BaseException) -> int:
    what = f"jaxconvex failed: {type(error).__name__}: {error}".rstrip(".: ")
    return _tell(
        FAULT, f"{what}. This is a fault of ours; please report it with the traceback, which {DEBUG}=1 prints.", error
    )


def _sentence(message: str) -> str:
    message = message.rstrip(".")
    return message if message.endswith("?") else f"{message}."


def _where_to_look(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    return f"See {context.command_path if context else 'jaxconvex'} --help."


def _how_to_install(error: ModuleNotFoundError) -> str:
    if "pip install" in str(error):
        return str(error)
    return f'{error.name} is needed here and is not installed; run: pip install "jaxconvex[report]"'
