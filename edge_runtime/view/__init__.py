"""The page for the technician beside the bin."""
