"""Benchmarks over local files: one function each, by kind, and `SUITES`, which knows them by name.

prediction.py      language modelling        choosing.py       multiple choice, our probes
sentences.py       GLUE's small tasks        classes.py        classes, closed or by a head
passages.py        extractive questions      entity_tags.py    named entities
writing_suites.py  translation, summaries    programs.py       code in the sandbox
closed.py, tables.py: closed questions and rows of files, which they share. catalogue.py: `SUITES`.
"""

from touchstone.evaluate.suites.catalogue import SUITES, Suite, suite_task

__all__ = ["SUITES", "Suite", "suite_task"]
