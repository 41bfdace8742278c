"""The results as charts."""
import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

from proxies import PROXIES  # noqa: E402
from report import compared, median  # noqa: E402
from workloads import LESS, UNITS  # noqa: E402

COLOURS = {"none": "#b8b8b8", "haproxy": "#4c78a8", "nginx": "#54a24b", "pointsman": "#e45756"}
plt.rcParams.update(
    {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "pointsman", "svg.fonttype": "none"}
)


def save(figure, folder, name):
    figure.tight_layout()
    # Without a date, so that equal figures are equal files.
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def draw(data, folder):
    results = data["results"]
    goals = list(compared(results))
    if goals:
        ratios(goals, folder)
    bars(results, folder)
    latency(results, folder)
    if data["scale"]:
        scale(data["scale"], folder)


def ratios(goals, folder):
    """Each goal as a point: on the good side of its mark or not."""
    figure, axes = plt.subplots(figsize=(8, 0.24 * len(goals) + 1))
    for row, (workload, name, better, peer, goal, ratio, met) in enumerate(reversed(goals)):
        axes.plot([goal, ratio], [row, row], color="#d0d0d0", zorder=1)
        axes.scatter([goal], [row], marker="|", s=90, color="black", zorder=2)
        axes.scatter([ratio], [row], s=26, color="#2a7f3f" if met else "#c0392b", zorder=3)
    label = "{0}: {1} / {2} ({3})".format
    names = [label(w, UNITS[f], p, "less is better" if b == LESS else "more is better") for w, f, b, p, *_ in goals]
    axes.set_yticks(range(len(goals)), reversed(names))
    axes.axvline(1, color="#909090", linewidth=0.8, linestyle=":")
    axes.set_xlabel("Pointsman over the peer (the mark is the goal)")
    save(figure, folder, "ratios")


def bars(results, folder):
    """Throughput, CPU and memory of each workload, side by side."""
    wanted = [
        ("keep-alive, 64 connections", "per_second"),
        ("keep-alive, 64 connections", "cpu_us"),
        ("a connection each, 64 at once", "per_second"),
        ("a connection each, 64 at once", "cpu_us"),
        ("bulk, 4 streams", "gib_per_second"),
        ("bulk, 4 streams", "cpu_ms_per_gib"),
        ("ping-pong, 1 connection", "p50_us"),
        ("5,000 idle connections", "kib_per_connection"),
    ]
    wanted = [(w, f) for w, f in wanted if w in results]
    if not wanted:
        return
    columns = min(4, len(wanted))
    rows = -(-len(wanted) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.2 * rows), squeeze=False)
    for axes in grid.flat[len(wanted) :]:
        axes.remove()
    for axes, (workload, name) in zip(grid.flat, wanted):
        values = {p: median(results[workload].get(p, []), name) for p in PROXIES}
        values = {p: v for p, v in values.items() if v is not None}
        axes.bar(values.keys(), values.values(), color=[COLOURS[p] for p in values])
        axes.set_title(f"{workload}\n{UNITS[name]}", fontsize=8)
        axes.tick_params(axis="x", labelrotation=30, labelsize=7)
    save(figure, folder, "throughput")


def latency(results, folder):
    """Latency by percentile."""
    wanted = [w for w in ("keep-alive, 64 connections", "a connection each, 64 at once") if w in results]
    if not wanted:
        return
    figure, grid = plt.subplots(1, len(wanted), figsize=(4 * len(wanted), 2.8), squeeze=False)
    for axes, workload in zip(grid.flat, wanted):
        for proxy, runs in results[workload].items():
            shares = (50, 75, 90, 99)
            axes.plot([f"{s}%" for s in shares], [median(runs, f"p{s}_us") / 1e3 for s in shares], marker="o", color=COLOURS[proxy], label=proxy)
        axes.set_title(workload, fontsize=9)
        axes.set_ylabel("ms")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    save(figure, folder, "latency")


def scale(all_series, folder):
    """How cost grows."""
    figure, grid = plt.subplots(2, 2, figsize=(8, 6))
    for axes, (along, series) in zip(grid.flat, all_series.items()):
        for proxy, values in series["proxies"].items():
            steps = [int(step) for step in values]
            axes.plot(steps, [median(runs, series["figure"]) for runs in values.values()], marker="o", color=COLOURS[proxy], label=proxy)
        if max(steps) > 10:
            axes.set_xscale("log")
        else:
            axes.set_xticks(steps)
        axes.set_xlabel(along)
        axes.set_ylabel(UNITS[series["figure"]])
        if along.startswith("bytes"):
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.legend(frameon=False)
    save(figure, folder, "scale")
