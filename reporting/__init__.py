"""The HTML report of a grid: tables, figures, claims."""
