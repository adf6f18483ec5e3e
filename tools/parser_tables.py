"""Write grammar.tables, the LALR tables of grammar.lark that the package contains.

The same grammar and version of Lark give the same bytes. A test fails if the file is outdated.
"""

from __future__ import annotations

from nnc.dsl.syntax.lexer_rules import PostLexer
from nnc.dsl.syntax.parser import grammar
from nnc.dsl.syntax.parser_tables import PACKAGED, build_parser, save_tables

if __name__ == "__main__":
    postlexer = PostLexer()
    save_tables(PACKAGED, build_parser(grammar(), postlexer), grammar(), postlexer)
