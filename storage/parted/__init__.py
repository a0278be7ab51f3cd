"""Large objects written in parts, by several processes and at any time, and visible once they are whole."""
