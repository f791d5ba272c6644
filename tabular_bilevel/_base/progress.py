"""The bar of long work, from tqdm, which the extra `progress` installs."""

from __future__ import annotations

from typing import Any

__all__ = ["tqdm_bar"]


def tqdm_bar(*arguments: Any, **settings: Any) -> Any:
    """Make a tqdm bar, or say what is missing."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ValueError("progress needs tqdm, which the extra 'progress' installs") from None
    return tqdm(*arguments, **settings)
