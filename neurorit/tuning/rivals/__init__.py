"""What the method is compared with, behind the same door, on the same data and steps."""
