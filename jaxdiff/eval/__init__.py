"""Looking at and measuring what was drawn."""
