"""What touches encoders: libaom built with inspection, labels out of it, predictions into it."""
