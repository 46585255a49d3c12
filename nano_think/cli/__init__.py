"""Floor 9: the command line. Each verb is imported only when it is called."""
