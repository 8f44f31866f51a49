"""Each peer and this project on the same work in one run: `python -m benchmarks` (see `__main__.py`).

`harness.py` runs peers, `peers/` holds one small file for each, `work.py` makes what they are given, `sets.py` says
which are measured together, `machine.py` says on what, `table.py` makes Markdown of the results. `LOG.md` says what was
tried and found.
"""
