"""What a report can show: one file here is one section, and every file here is one.

A file holds all that a report knows of an experiment: the keys its record must have, tables, figures with their
captions, what it found, and how two records of it are compared. It ends with ``SECTION``, a
:class:`benchmarks.report.section.Section` of the file's name, whose ``place`` orders the report. Nothing else has
to know of a new file.
"""
