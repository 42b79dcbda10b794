"""What every stage needs: atomic files, tables, the table of cars, command lines, errors."""
