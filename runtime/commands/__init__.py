"""The commands of `nnc`, one file for those of a kind: it is imported when one of them is run."""
