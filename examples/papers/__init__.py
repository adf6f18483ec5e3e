"""Tables and figures of papers, trained anew: `python -m nnc.examples.papers` lists them."""
