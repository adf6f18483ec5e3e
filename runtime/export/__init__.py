"""Networks as libraries for C: programs, memory, files. See docs/export.md."""
