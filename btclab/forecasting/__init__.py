"""From features to a calibrated distribution of the coming return."""
