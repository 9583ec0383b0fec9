"""MLflow tracking of grids and stage runs."""
