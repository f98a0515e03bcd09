"""The result as a table for people, as JSON, and as JUnit XML for CI."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from django_idempotency.conformance.checks.base import DRAFT, Level, Result
from django_idempotency.conformance.run import Finding

MARKS = {Result.PASS: "pass", Result.FAIL: "FAIL", Result.NOT_APPLICABLE: "n/a"}
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


def table(findings: Sequence[Finding]) -> str:
    """One line for each check, and what was seen under those that failed."""
    width = max(len(finding.check.id) for finding in findings)
    lines = []
    for finding in findings:
        check, verdict = finding.check, finding.verdict
        level = f"{check.level} {check.section}".strip()
        lines.append(f"{MARKS[verdict.result]:4}  {level:12}  {check.id:{width}}  {check.sentence}")
        lines.append(f"{'':{width + 22}}saw: {printable(verdict.saw)}")
    return "\n".join(lines)


def summary(findings: Sequence[Finding]) -> str:
    """How many checks of each level came to which result."""
    parts = []
    for level in Level:
        results = [each.verdict.result for each in findings if each.check.level is level]
        parts.append(", ".join(f"{results.count(result)} {result}" for result in Result if result in results))
    return "\n".join(f"{level}: {part}" for level, part in zip(Level, parts, strict=True))


def as_json(findings: Sequence[Finding], *, url: str, requests: int) -> str:
    """The whole result as one JSON object."""
    return json.dumps(
        {
            "url": url,
            "draft": DRAFT,
            "requests": requests,
            "checks": [
                {
                    "id": finding.check.id,
                    "level": finding.check.level,
                    "section": finding.check.section or None,
                    "sentence": finding.check.sentence,
                    "result": finding.verdict.result,
                    "saw": finding.verdict.saw,
                }
                for finding in findings
            ],
        },
        indent=2,
    )


def as_junit(findings: Sequence[Finding], *, url: str) -> str:
    """A test case for each check: a failure whatever its level, skipped where it is not applicable."""
    results = [finding.verdict.result for finding in findings]
    counts = {"tests": len(results), "failures": results.count(Result.FAIL), "errors": 0}
    counts["skipped"] = results.count(Result.NOT_APPLICABLE)
    attributes = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", {"name": "django_idempotency.conformance", **attributes})
    suite = ElementTree.SubElement(root, "testsuite", {"name": url, **attributes})
    for finding in findings:
        check, saw = finding.check, printable(finding.verdict.saw)
        name = f"{check.id}: {check.sentence}"
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"conformance.{check.level}", "name": name})
        match finding.verdict.result:
            case Result.FAIL:
                failure = {"type": check.level, "message": saw}
                ElementTree.SubElement(case, "failure", failure).text = f"{DRAFT} {check.section}\n{saw}"
            case Result.NOT_APPLICABLE:
                ElementTree.SubElement(case, "skipped", {"message": saw})
            case Result.PASS:
                ElementTree.SubElement(case, "system-out").text = saw
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def printable(text: str) -> str:
    """*text* without the characters that XML, or a terminal, does not take."""
    return NOT_XML.sub("\ufffd", text)
