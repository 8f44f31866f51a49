"""bertnli and its peers on the same work in one run: `python -m benchmarks` (see `__main__.py`).

`harness.py` runs peers; `peers/` has one small file for each; `work.py` makes their input; `sets.py` chooses which
peers are measured together; `machine.py` describes the machine; `table.py` makes Markdown of the records; `targets.py`
has the goals. `LOG.md` says what was tried and found.
"""
