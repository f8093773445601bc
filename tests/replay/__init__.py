"""Replays of recorded traffic."""
