"""What tests share: real servers on loopback ports, and waiting for conditions."""
