"""The results as ratios, and as a page."""
import statistics

from options import OPTIONS
from workloads import GOALS, LESS, UNITS


def median_ratio(ours, theirs, figure):
    """The median over the rounds of our figure over theirs; None without both."""
    ratios = [a[figure] / b[figure] for a, b in zip(ours, theirs) if a.get(figure) and b.get(figure)]
    return statistics.median(ratios) if ratios else None


def median(runs, figure):
    values = [run[figure] for run in runs if figure in run]
    return statistics.median(values) if values else None


def compared(results):
    """Each goal and its result: workload, figure, what is better, peer, goal, ratio, met."""
    goals = [(w, f, better, "pointsman", peer, goal) for w, f, better, peers in GOALS for peer, goal in peers.items()]
    goals.append(("everything logged", "per_second", "more", "pointsman, logging", "pointsman, silent", 0.93))
    for workload in ("options", "replay", "TLS passed through", "Unix sockets", "PROXY headers", "PROXY headers, TLS"):
        without, *options = OPTIONS[workload].variants
        goals += [(workload, "cpu_us", LESS, option, without, 1.10) for option in options]
    for workload, figure, better, ours, peer, goal in goals:
        entries = results.get(workload, {})
        if ours in entries and peer in entries:
            ratio = median_ratio(entries[ours], entries[peer], figure)
            if ratio is not None:
                met = ratio <= goal if better == LESS else ratio >= goal
                name = f"{workload}: {ours}" if workload in OPTIONS and ours in OPTIONS[workload].variants else workload
                yield name, figure, better, peer, goal, ratio, met


def page(data):
    about, results = data["about"], data["results"]
    lines = ["# Results", "", "Written by `benchmarks/run`; what each line means is told in [../README.md](../README.md).", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += ["", "![ratios](ratios.svg)", "", "## Ratios", ""]
    lines += ["Pointsman's figure over the peer's: medians of the rounds.", ""]
    lines += ["| workload | figure | against | wanted | ratio | |", "| --- | --- | --- | --- | --- | --- |"]
    for workload, figure, better, peer, goal, ratio, met in compared(results):
        sign, mark = "≤" if better == LESS else "≥", "✔" if met else "✘"
        lines.append(f"| {workload} | {UNITS[figure]} | {peer} | {sign} {goal:.2f} | {ratio:.2f} | {mark} |")
    lines += ["", "## Figures", "", "![throughput](throughput.svg)", "", "![latency](latency.svg)", ""]
    for workload, entries in results.items():
        figures = [f for f in UNITS if any(f in run for runs in entries.values() for run in runs)]
        lines += [f"### {workload}", "", "| | " + " | ".join(UNITS[f] for f in figures) + " | errors |"]
        lines.append("| --- |" + " --- |" * (len(figures) + 1))
        for proxy, runs in entries.items():
            medians = [median(runs, figure) for figure in figures]
            cells = ["" if value is None else f"{value:,.2f}" for value in medians]
            errors = sum(run.get("errors", 0) for run in runs)
            lines.append(f"| {proxy} | " + " | ".join(cells) + f" | {errors} |")
        lines.append("")
    if data["scale"]:
        lines += ["## How cost grows", "", "![scale](scale.svg)", ""]
    for along, series in data["scale"].items():
        steps = list(next(iter(series["proxies"].values())))
        lines += [f"### {along}: {UNITS[series['figure']]}", "", "| | " + " | ".join(f"{int(s):,}" for s in steps) + " |"]
        lines.append("| --- |" + " --- |" * len(steps))
        for proxy, values in series["proxies"].items():
            cells = [median(runs, series["figure"]) for runs in values.values()]
            lines.append(f"| {proxy} | " + " | ".join("" if c is None else f"{c:,.1f}" for c in cells) + " |")
        lines.append("")
    if data["syscalls"]:
        lines += syscalls(data["syscalls"])
    return "\n".join(lines).rstrip() + "\n"


def syscalls(counts):
    """System calls as strace counts them."""
    names = sorted({n for kinds in counts.values() for per in kinds.values() for n in per})
    columns = [(proxy, kind) for proxy, kinds in counts.items() for kind in kinds]
    lines = ["## System calls", "", "Counted by `strace -c -f`; those below 0.01 each are left out.", ""]
    lines.append("| | " + " | ".join(f"{proxy}, per {kind}" for proxy, kind in columns) + " |")
    lines.append("| --- |" + " --- |" * len(columns))
    for name in [*names, "all"]:
        cells = []
        for proxy, kind in columns:
            per = counts[proxy][kind]
            value = sum(per.values()) if name == "all" else per.get(name, 0)
            cells.append(f"{value:.2f}" if value >= 0.01 else "")
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines
