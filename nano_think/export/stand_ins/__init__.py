"""What an exported folder has in place of the library's own modules: what needs no other package and no compiler."""
