"""The comparison: methods × ranks × subjects × seeds, their statistics and the report."""
