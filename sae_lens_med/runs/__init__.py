"""The one run folder: what it holds, whose it is, what is done, and how a stopped run goes on."""
