"""Exit codes of every command."""

DONE, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
