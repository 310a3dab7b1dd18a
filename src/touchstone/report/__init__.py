"""The only places that print or draw: terminal, metrics log, plots, and self-contained HTML pages, in two languages."""

from touchstone.report.log import MetricsLog, Records, read_log
from touchstone.report.page import Page
from touchstone.report.terminal import Terminal, TrainingDisplay
from touchstone.report.words import LANGUAGES, Words, words

__all__ = ["LANGUAGES", "MetricsLog", "Page", "Records", "Terminal", "TrainingDisplay", "Words", "read_log", "words"]
