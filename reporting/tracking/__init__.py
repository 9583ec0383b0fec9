"""MLflow tracking of grids and stage runs: uploads, their notes, and the local server."""
