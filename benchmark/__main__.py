"""``python -m benchmark`` in the clone, and the script ``robustvox``: hand over to the installed package."""

import signal
import sys
from pathlib import Path


def _main() -> int:
    # In the clone the working folder heads sys.path, and our `datasets/` would shadow other people's package.
    clone = Path(__file__).resolve().parent.parent
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != clone]
    try:
        from robustvox.benchmark.cli import main
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "robustvox":
            print("error: robustvox is not installed here; run `pip install -e .` first", file=sys.stderr)
        else:
            print(
                f"error: {error.name} is missing; run `pip install -e .` to install what robustvox needs",
                file=sys.stderr,
            )
        return 2
    return main()


def _exit_code() -> int:
    """Ctrl-C or SIGTERM before there is a command, or after it, is not worth a traceback."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _main()
    except KeyboardInterrupt:
        print("interrupted before anything was computed", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def console_script() -> None:
    """What the ``robustvox`` script calls: what is heavy is imported where an interruption is heard."""
    raise SystemExit(_exit_code())


if __name__ == "__main__":
    console_script()
