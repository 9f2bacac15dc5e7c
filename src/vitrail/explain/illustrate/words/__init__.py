"""Every sentence of the page, in English and in Chinese. `{name}` is where a number, or a name of the user's, stands.

A key that one language lacks cannot be written down here; that templates and catalogue agree is tested.
"""

from typing import NamedTuple


class Words(NamedTuple):
    """One text in both languages."""

    en: str
    zh: str
