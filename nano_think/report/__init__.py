"""Floor 6: what a run was and what came out of it, as one page that needs nothing beside itself, and as pictures."""

from nano_think.report.data import ReportData
from nano_think.report.page import render
from nano_think.report.pictures import write_pictures

__all__ = ["ReportData", "render", "write_pictures"]
