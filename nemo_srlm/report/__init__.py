"""The report of a run, or of several: report.html (self-contained), report.md and report.json beside it.

- write.py: the files of the report. run_files.py: what a run directory holds. collect.py reads it into plain data, which is
  report.json; preference_data.py, curves.py, samples.py, families.py and costs.py each read one part.
- units.py: what every model scored on every prompt, and the differences; compare.py: several runs, seeds.
- summary.py: conclusions. model_tables.py: every model's values; comparisons.py: differences of models, runs and seeds.
  figures.py chooses the charts, plots.py draws them. benchmarks.py: tables of optional evaluations, preference_files.py and
  nlp.py of two of them, preference_training.py of DPO. numbers.py: numbers as text.
- cards.py: README.md of what leaves a run. tracking.py: what the trackers get.
- render.py and template.html: the page. text.py: report.md and the terminal's table.
- Apart from the report: status.py (`nemo-srlm status`), show.py (`nemo-srlm show`), display.py (progress of a running stage).
"""
