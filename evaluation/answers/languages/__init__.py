"""Answer rules written in code, one module per language.

Every module defines `RULES`; `languages/CODE/answers.yaml` refers to a module by its name.
"""
