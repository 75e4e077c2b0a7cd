"""`eventsrc bench`: what is measured, how, and the table of it."""
