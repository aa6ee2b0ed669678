"""Published claims about overoptimisation and feedback, each tested on a study's table of results (science, section 4).

    table ─▶ evidence (arrays by seed) ─▶ one function a claim (c01..c21) ─▶ verdicts ─▶ catalogue ─▶ page

A claim is never forced: what a table does not hold is `not measured`, with the reason.
"""
