"""`eventsrc bench`: the measurements, and the table of results."""
