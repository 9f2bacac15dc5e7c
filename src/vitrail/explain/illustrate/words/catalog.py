"""All sentences of the page by key."""

from vitrail.explain.illustrate.words import Words
from vitrail.explain.illustrate.words.entry import ENTRY
from vitrail.explain.illustrate.words.frame import FRAME
from vitrail.explain.illustrate.words.inside import INSIDE
from vitrail.explain.illustrate.words.why import WHY

WORDS: dict[str, Words] = FRAME | ENTRY | INSIDE | WHY
SCRIPT = (  # those that the script writes
    *("title", "picker", "rc", "red", "green", "blue", "patch.at", "token.class", "token.distillation"),
    *("token.register", "heads.says", "heads.name", "heads.query", "heads.keys"),
)
LANGUAGES = Words._fields
