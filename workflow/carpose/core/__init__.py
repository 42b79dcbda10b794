"""What every stage needs: atomic files, Parquet tables, the table of cars, command-line helpers, errors."""
