"""Modules of `nnc` that users import by name, as `nnc.sklearn`.

They are no files in the package's own folder: there, a file `sklearn.py` would hide scikit-learn
from every program that is started in that folder.
"""
