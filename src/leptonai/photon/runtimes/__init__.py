"""Anything that computes tensors from tensors, behind one small contract (`runtime.py`); one file per format."""
