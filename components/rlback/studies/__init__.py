"""Studies: arms (methods as settings) run on a world by one machine, over settings and seeds, into one tidy table.

    configs/studies/*.yaml ─▶ config ─▶ units (setting × arm × seed chunk) ─▶ machine ◀─▶ Learner ─▶ table ─▶ analysis

Nothing here knows MLflow, DVC or Prefect: a study measures, it never produces a checkpoint that could be deployed.
"""
