"""What the tests of several clients share."""
