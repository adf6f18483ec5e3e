"""The entry point of `nnc-lsp`, which says what is missing where the extra `lsp` is."""

from __future__ import annotations

import sys

from ... import __version__

USAGE = "nnc-lsp speaks the Language Server Protocol on standard input and output."
MISSING = "nnc-lsp needs pygls: `pip install 'nnc-lang[lsp]'`"


def main() -> None:
    """Serve an editor until it ends. Editors may add `--stdio`, which is what this does anyway."""
    given = [argument for argument in sys.argv[1:] if argument != "--stdio"]
    if given == ["--version"]:
        print(f"nnc-lsp, version {__version__}")
    elif given:
        print(USAGE)
        sys.exit(0 if set(given) <= {"-h", "--help"} else 2)
    else:
        _serve()


def _serve() -> None:
    try:
        from .server import server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("pygls", "lsprotocol"):
            raise
        print(MISSING, file=sys.stderr)
        sys.exit(1)
    server.start_io()


if __name__ == "__main__":
    main()
