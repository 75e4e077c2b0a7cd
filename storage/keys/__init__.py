"""Keys of subjects, which seal (encrypt) personal data; they are in a file beside the log."""
