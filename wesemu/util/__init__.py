"""Small helpers that several packages use; they know nothing of runs."""
