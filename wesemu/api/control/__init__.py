"""The emulator's own controls, and the answer for paths that no API owns."""
