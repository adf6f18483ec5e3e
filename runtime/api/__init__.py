"""The Python interface: what `import nnc` offers (docs/python.md)."""
