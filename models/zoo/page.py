"""The zoo's rows for people: counts by family, and a page with every row."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from moesaic.models.zoo.trial import STATES, Row


def counts(rows: list[Row]) -> Table:
    """How many of each family there are in each state."""
    table = Table(title="architectures with random weights, two layers deep")
    table.add_column("family")
    for state in STATES:
        table.add_column(state, justify="right")
    for family in dict.fromkeys(row.family for row in rows):
        found = Counter(row.state for row in rows if row.family == family)
        table.add_row(family, *(str(found[state] or "") for state in STATES))
    table.add_section()
    total = Counter(row.state for row in rows)
    table.add_row(f"all {len(rows)}", *(str(total[state] or "") for state in STATES))
    return table


def _share(row: Row) -> str:
    if row.macs is None:
        return ""
    if row.host_macs is None:
        return "not known"
    return f"{row.macs / (row.macs + row.host_macs):.1%}"


def page(rows: list[Row]) -> str:
    """Markdown: counts, then a row for each architecture."""
    families = list(dict.fromkeys(row.family for row in rows))
    lines = [
        f"| family | {' | '.join(STATES)} |",
        "|---" * (len(STATES) + 1) + "|",
    ]
    for family in [*families, "all"]:
        found = Counter(row.state for row in rows if family in (row.family, "all"))
        lines.append(f"| {family} | {' | '.join(str(found[state]) for state in STATES)} |")
    for family in families:
        lines += ["", f"## {family[0].upper()}{family[1:]}", ""]
        lines += [
            "| architecture | from | | tokens | M MAC | on the accelerator | SQNR, dB | cycles |"
            " presets that hold two layers | why |",
            "|---" * 10 + "|",
        ]
        for row in rows:
            if row.family != family:
                continue
            cells = [
                f"`{row.name}`",
                row.source,
                row.state,
                "" if row.tokens is None else str(row.tokens),
                "" if row.macs is None else f"{row.macs / 1e6:.1f}",
                _share(row),
                "" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
                "" if row.cycles is None else f"{row.cycles:,}",
                ", ".join(row.targets),
                row.why.replace("|", "\\|").removeprefix("moesaic: "),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
