"""From a checked program to equations: sizes bound, layers inlined, every tensor named.

One class in steps, each file adding one concept to the one before: builder, arrays, names, ranges,
reads, reductions, expressions, builtins, interfaces, calls, declarations, recurrences, equations,
definitions. What an earlier step needs of a later one it declares as a method that is not
implemented.
"""
