"""Parts of the report: records of a grid, numbers, figures, tables, gallery, page."""
