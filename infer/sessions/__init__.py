"""What runs a bundle's files: a session for each library, and what only sessions need."""
