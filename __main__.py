"""`python -m nnc …`: the same as `nnc …`."""

from .runtime.cli import main

if __name__ == "__main__":
    main()
