"""Reports as pages: one HTML file each, for a browser, a phone and paper.

They need no network, no script and no library of pictures.
"""

from __future__ import annotations

from typing import Any

from tabular_bilevel._base.files import FilePath, write_file
from tabular_bilevel.pages.document import Source
from tabular_bilevel.pages.reports import page_of

__all__ = ["save_report"]


def save_report(path: FilePath, report: Any, *, subject: str = "") -> None:
    """Write what a check found as an HTML page: verdict, checks, pictures of where it is off.

    The page is one file that needs no network and no scripts, for a browser, a phone, and paper.

    Parameters
    ----------
    path : str or path
        The file, such as ``report.html``; written whole or not at all.
    report : EstimatorReport, EnumerationReport, GradientReport or SuiteReport
        What was found.
    subject : str
        What was checked, for the title.

    Raises
    ------
    ValueError
        If it is another object, or the path is no regular file.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import tabular_bilevel as tb
    >>> problem, theta = tb.problems.layered(depth=2, width=2), [0.1] * 4
    >>> report = tb.check_by_enumeration(tb.NaivePolicyGradient(), problem, theta)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tb.save_report(f"{folder}/report.html", report, subject="the direct part alone")
    ...     page = Path(f"{folder}/report.html").read_text(encoding="utf-8")
    >>> "<h1>BIASED: the direct part alone</h1>" in page
    True
    """
    seed = getattr(report, "seed", None)
    seeds = "" if seed is None else f"rng={seed}"
    write_file(path, page_of(report, Source(subject, seeds=seeds)).encode())
