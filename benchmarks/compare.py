"""Compares Pointsman with HAProxy (TCP mode), nginx (stream) and no proxy at all, side by side.

Every round runs every proxy on every workload, in turn, on this machine, over loopback. What counts are the
ratios within a round; the page gives their medians.
"""
import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import plots
import proxies
import report
import syscalls
from options import OPTIONS
from workloads import SCALE, UNITS, WORKLOADS

ROOT = proxies.ROOT


def run(backends, folder, proxy, workload, seconds, warm_up):
    """One proxy, one workload; what was measured."""
    addresses = backends.addresses(workload.kind, workload.backends)
    options = {"busy_poll": workload.busy_poll} if proxy == "pointsman" else {}
    return measure(*proxies.start(proxy, addresses, workload.workers, folder, **options), workload, seconds, warm_up)


def measure(address, process, workload, seconds, warm_up):
    """A workload on a proxy, which ends then."""
    try:
        if warm_up and workload.warms_up:
            workload.run(address, process, warm_up)
        return workload.run(address, process, seconds)
    finally:
        if process:
            process.stop()


def told(what, proxy, result):
    figures = "  ".join(f"{UNITS[k]} {v:,.2f}" for k, v in result.items() if k in UNITS)
    print(f"{what:44} {proxy:18} {figures}", flush=True)


def workloads(args, backends, folder):
    """workload → proxy → one result a round."""
    results = {}
    for round_number in range(args.rounds):
        for name, workload in WORKLOADS.items():
            if args.only not in name:
                continue
            # Another order each round, so that no proxy is always first.
            first = round_number % len(proxies.PROXIES)
            for proxy in proxies.PROXIES[first:] + proxies.PROXIES[:first]:
                result = run(backends, folder, proxy, workload, args.seconds, args.warm_up)
                results.setdefault(name, {}).setdefault(proxy, []).append(result)
                told(f"{round_number + 1}/{args.rounds} {name}", proxy, result)
        for name, (workload, variants) in OPTIONS.items():
            if args.only not in name:
                continue
            addresses = backends.addresses(workload.kind, workload.backends)
            for variant, start in variants.items():
                result = measure(*start(addresses, folder), workload, args.seconds, args.warm_up)
                results.setdefault(name, {}).setdefault(variant, []).append(result)
                told(f"{round_number + 1}/{args.rounds} {name}", variant, result)
    return results


def scale(args, backends, folder):
    """along what → its figure, and proxy → step → one result a round."""
    series = {}
    for along, (figure, steps) in SCALE.items():
        if args.quick:
            steps = dict(list(steps.items())[:2])
        found = {proxy: {step: [] for step in steps} for proxy in proxies.PROXIES[1:]}
        for _ in range(args.scale_rounds):
            for step, workload in steps.items():
                for proxy in found:
                    result = run(backends, folder, proxy, workload, args.scale_seconds, args.warm_up)
                    found[proxy][step].append(result)
                    told(f"{along}: {step:,}", proxy, result)
        series[along] = {"figure": figure, "proxies": found}
    return series


def version(command):
    output = subprocess.run(command, capture_output=True, text=True)
    return (output.stdout + output.stderr).strip().splitlines()[0]


def about(args):
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{os.cpu_count()} cores, {model[1] if model else platform.machine()}, Linux {platform.release()}",
        "pointsman": version([proxies.POINTSMAN, "--version"]),
        "haproxy": version(["haproxy", "-v"]),
        "nginx": version(["nginx", "-v"]),
        "rounds": f"{args.rounds}, each workload for {args.seconds:g} s; {args.scale_rounds} of 2 s for how cost grows",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under two minutes: shows that it works, not how fast it is")
    parser.add_argument("--only", default="", help="only the workloads whose name contains this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--scale-rounds", type=int, default=3, help="rounds of the series that show how cost grows")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results, or target/benchmarks for a part")
    args = parser.parse_args()
    args.warm_up, args.scale_seconds = 1, 2
    if args.quick:
        args.rounds, args.seconds, args.warm_up, args.scale_rounds, args.scale_seconds = 1, 1, 0, 1, 1
        proxies.POINTSMAN = ROOT / "target/release/pointsman"
    whole = not args.quick and not args.only
    args.out = args.out or ROOT / ("benchmarks/results" if whole else "target/benchmarks/results")
    folder = Path(tempfile.mkdtemp(prefix="pointsman-benchmarks-"))
    try:
        with proxies.Backends() as backends:
            data = {"about": about(args), "results": workloads(args, backends, folder), "scale": {}, "syscalls": {}}
            if not args.only and args.scale_rounds:
                data["scale"] = scale(args, backends, folder)
            if not args.only:
                data["syscalls"] = syscalls.count(backends, folder, 1 if args.quick else 3)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    page = report.page(data)
    (args.out / "README.md").write_text(page)
    plots.draw(data, args.out)
    print("\n" + page)
    print(f"Written to {args.out}")
    if args.quick:
        failed = [w for w, entries in data["results"].items() for runs in entries.values() if any(r.get("errors") for r in runs)]
        if failed:
            raise SystemExit(f"requests failed: {', '.join(sorted(set(failed)))}")


if __name__ == "__main__":
    main()
