"""What several methods share; knows no method and does no input or output."""
