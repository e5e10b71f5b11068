"""The core: runs, their states, their store, their life. Knows no HTTP and no Snakemake."""
