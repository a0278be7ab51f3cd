"""A source of the lane that watches how busy the machine is, for live traffic that nothing else can see."""
