"""What jobs make, a kind a file."""
