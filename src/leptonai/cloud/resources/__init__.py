"""The kinds of resources: what may be written in a spec. One file per kind; `registry.py` lists them."""
