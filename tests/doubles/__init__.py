"""Stand-ins for programs that are not available here. They refuse wrong command lines.

They prove our command lines and the use of the results, not the real programs."""
