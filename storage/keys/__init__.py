"""Keys of subjects: what personal data are sealed with, in a file beside the log."""
