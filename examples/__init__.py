"""The example programs and their data: `Path(nnc.examples.__file__).parent / "cnn_digits.nn"`."""
