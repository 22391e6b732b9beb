"""What a dataset looks like and is worth: `report` (one HTML page)."""
