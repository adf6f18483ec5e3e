"""From a checked program to equations: sizes bound, layers inlined, every tensor named."""
