"""`nnc-lsp`: what editors show of a program while it is written.

`document.py` knows a text, `symbols.py` what its words stand for, `answers.py` answers an editor's
questions about them, and `server.py` speaks the Language Server Protocol, by pygls. Only the last
needs the extra `lsp`.
"""
