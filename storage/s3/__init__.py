"""S3 by signed requests: what reads and writes share."""
