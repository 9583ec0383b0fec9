"""Report of a grid: an HTML page with figures, tables and claims, and its tracking in MLflow."""
