"""The dashboard: pages below `/ui/` that show runs, tasks, service levels, results, buckets."""
