"""The local page of `scansynth app`: look at data, start what the commands do, watch it, and see what came of it."""
