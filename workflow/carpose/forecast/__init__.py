"""A run of Snakemake: the resources that it will use, its progress, and its end at a set time."""
