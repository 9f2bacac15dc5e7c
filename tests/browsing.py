"""What axe-core, which looks for what keeps people from reading a page, has to say of one."""

from typing import Any

import pytest

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def barriers(page: Any, rules: list[str] | None = None) -> list[str]:
    """What axe finds on a page of the browser, every part that folds unfolded: the rule and the element. `rules`: only
    these, by their ids."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    asked = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": RULES}
    found = axe.Axe().run(page, options={"runOnly": asked}).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}" for rule in found for node in rule["nodes"]]
