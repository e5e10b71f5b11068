"""Stand-ins for programs that cannot be had here: named for what they are, strict about how they
are called. They prove command lines and results, not the real programs."""
