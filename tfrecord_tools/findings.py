"""`Finding`: what is wrong or remarkable about a file of a study."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from tfrecord_tools.errors import InputError

#: From what stops a conversion to what is good to know.
SEVERITIES = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing found about a study.

    Attributes:
        study: Identifier of the study.
        code: What kind of finding, such as "adc-unit"; it does not change between versions.
        severity: "error" stops a conversion, "warning" may spoil a result, "note" is to be known.
        file: The file, or "" where no single one is meant.
        message: What is found; the rest of a sentence that begins with the file.
        remedy: What to do about it.
    """

    study: str
    code: str
    severity: str
    file: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return "; ".join(
            part for part in (f"{self.file} {self.message}".strip(), self.remedy) if part
        )


class BadFile(InputError):
    """A file that no study can be made of: the exception of an error-level finding."""

    def __init__(self, code: str, file: Path, message: str, remedy: str):
        super().__init__(str(Finding("", code, "error", str(file), message, remedy)))
        self.code, self.file, self.message, self.remedy = code, file, message, remedy

    def __reduce__(self):
        return type(self), (self.code, self.file, self.message, self.remedy)

    def finding(self, study: str) -> Finding:
        """The same as a finding about a study."""
        return Finding(study, self.code, "error", str(self.file), self.message, self.remedy)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; otherwise in the order given."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
