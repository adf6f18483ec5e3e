"""What each command of `nnc` takes: its arguments, options, help and examples.

Imported for `--help` and completion, too, so that nothing heavy is imported here: the function of a
command imports what it runs from `commands/`.
"""
