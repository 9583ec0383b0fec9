"""Vision tower libraries: one module per value of `tower.library`, named after it."""
