"""From measured records to tables, figures and text. Nothing here imports torch or measures anything."""

from benchmarks.report.first_screen import findings
from benchmarks.report.merging import merge_benchmarks
from benchmarks.report.publish import check_destination, publish
from benchmarks.report.reading import read
from benchmarks.report.records import Record, new_record, write

__all__ = [
    "Record",
    "check_destination",
    "findings",
    "merge_benchmarks",
    "new_record",
    "publish",
    "read",
    "write",
]
