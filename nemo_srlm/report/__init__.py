"""The report of a run, or of several: report.html (self-contained), report.md and report.json beside it.

- write.py: the files of the report. run_files.py: what a run directory holds. collect.py reads it into plain data, which is
  report.json; preference_data.py, curves.py, samples.py and costs.py each read one part.
- summary.py: conclusions. figures.py chooses the charts, plots.py draws them. benchmarks.py: tables of optional
  evaluations, nlp.py of the harness, preference_training.py of DPO. numbers.py: numbers as text.
- render.py and template.html: the page. text.py: report.md and the terminal's table.
- Apart from the report: status.py (`nemo-srlm status`), show.py (`nemo-srlm show`), display.py (progress of a running stage).
"""
