"""What training writes and the service reads: the bundle, the way pictures become arrays, scores become decisions."""
