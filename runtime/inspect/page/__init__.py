"""What the page of `nnc explore` looks like and does: a template, a style, scripts."""
