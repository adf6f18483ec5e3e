"""Which parts of an input a model's result is due to: methods, the programs that compute them, and
what says how far a map can be trusted."""
