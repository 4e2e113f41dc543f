"""Study ids as file names."""

import hashlib
import re

#: What files of ours beside those of studies end in; no study's name does.
OWN_ENDINGS = (".csv", ".json", ".tfrecord")


def file_name(study: str) -> str:
    """A name for a study's files: the id itself where it is harmless.

    Other characters than letters, digits, `_`, `-` and `.` are replaced, dots and dashes at the
    start dropped (no hidden files, no options of a shell) and long ids cut (to 80 bytes, since
    file systems count those); a few digits of a checksum keep such names apart. No name leaves
    its folder.
    """
    name = re.sub(r"[^\w.-]+", "_", study).lstrip(".-")
    name = name.encode()[:80].decode(errors="ignore")
    if name == study and not name.endswith(OWN_ENDINGS):
        return name
    return f"{name or 'study'}-{hashlib.sha256(study.encode()).hexdigest()[:8]}"
