"""The tables of a study's report, each a value that can be written in any form."""
