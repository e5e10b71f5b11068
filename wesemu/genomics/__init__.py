"""Real genomics tools: reads in, references, mapping, and the figures that come out."""
