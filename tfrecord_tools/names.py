"""Study ids as file names."""

import hashlib
import re


def file_name(study: str) -> str:
    """A name for a study's files: the id itself where it is harmless.

    Other characters than letters, digits, `_`, `-`, `.` and leading dots are replaced and long
    ids cut (to 80 bytes, since file systems count those); a few digits of a checksum keep such
    names apart. No name leaves its folder.
    """
    name = re.sub(r"[^\w.-]+", "_", study).lstrip(".")
    name = name.encode()[:80].decode(errors="ignore")
    if name == study:
        return name
    return f"{name}-{hashlib.sha256(study.encode()).hexdigest()[:8]}"
