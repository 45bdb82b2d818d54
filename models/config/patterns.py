"""Regular expressions over module names in the configurations of checkpoints and adapters."""

import re

from models.config.hf_config import quote_value
from models.errors import CheckpointError

# Each wildcard and each group multiplies the time of a match, and a repeated group can make it endless.
_MAX_CHOICES = 5
_MAX_LENGTH = 1000
_WILDCARD = re.compile(r"(?<!\()[*+?}]\??")


def module_pattern(pattern: str, source: str) -> re.Pattern[str]:
    """Compile a regular expression over module names.

    Raises CheckpointError, which names `source`, for text that is not a regular expression, and for patterns that could
    take hours to match, since configurations come from strangers.
    """
    where = f"{source} has the pattern {quote_value(pattern)}"
    bare = re.sub(r"\\.|\[\^?.[^\]]*\]", "", pattern)  # without escapes and classes of characters
    is_complex = len(_WILDCARD.findall(bare)) > _MAX_CHOICES or bare.count("(") > _MAX_CHOICES
    if len(pattern) > _MAX_LENGTH or is_complex or re.search(r"\)[*+{]", bare):
        raise CheckpointError(
            f"{where}, which is too complex; name modules with up to {_MAX_CHOICES} wildcards and {_MAX_CHOICES} "
            "groups, none of them repeated"
        )
    try:
        re.compile(f"({pattern})")  # as a part of others, where it can set no flags
        return re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise CheckpointError(f"{where}, which is not a regular expression ({error})") from None
