"""From measured records to tables, figures and text. Nothing here imports torch or measures anything."""

from zo_triton.reporting.benchmarks import merge_benchmarks
from zo_triton.reporting.publish import check_destination, publish
from zo_triton.reporting.reading import read
from zo_triton.reporting.records import Record, new_record, write

__all__ = ["Record", "check_destination", "merge_benchmarks", "new_record", "publish", "read", "write"]
