"""What was killed and raced, at the end of the run: tests record it as the property `proof`."""

from collections import defaultdict
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "proof" and getattr(report, "when", "") == "call":
                    numbers = dict(value)
                    what = numbers.pop("what")
                    for key, number in numbers.items():
                        sums[what][key] += number
    if not sums:
        return
    terminalreporter.section("proof of the law")
    for what, numbers in sorted(sums.items()):
        terminalreporter.write_line(f"{what}: " + ", ".join(f"{number} {key}" for key, number in numbers.items()))
