"""Reading rows of published datasets: tables, Parquet and tar files."""
