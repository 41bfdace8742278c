"""The dashboard: its content, and whether it can be read and used."""

import re
import socket
import statistics

import pytest
from playwright.sync_api import expect

from conftest import Backend, eventually, row, traffic


def test_an_open_connection_is_shown_and_closed_when_that_is_confirmed(two, look):
    lb, _ = two()
    with socket.create_connection(lb.address()) as client:
        client.settimeout(20)
        client.sendall(b"GET /")
        eventually("it is open", lambda: lb.backend("a")["active"] + lb.backend("b")["active"] == 1)
        name = "a" if lb.backend("a")["active"] else "b"
        page = look(lb)
        row(page, name).locator("button.name").click()
        port = client.getsockname()[1]
        page.get_by_role("button", name=f"Close the connection of 127.0.0.1:{port}").click()
        question = page.get_by_role("dialog", name="Close this connection?")
        expect(question).to_contain_text("get a TCP reset")
        # Nothing is done until it is confirmed, and Escape leaves it.
        page.keyboard.press("Escape")
        expect(question).to_have_count(0)
        assert lb.backend(name)["active"] == 1
        page.get_by_role("button", name=f"Close the connection of 127.0.0.1:{port}").click()
        question.get_by_role("button", name="Close it").click()
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        # The client notices the end before the page does, which closes the question on the answer.
        expect(question).to_have_count(0)
        expect(page.get_by_role("dialog", name=name, exact=True)).to_contain_text("None is open.")


def test_a_name_that_looks_like_markup_is_shown_as_it_is(lb, look, tmp_path):
    backend = Backend("a")
    name = "<img src=x onerror=alert(1)>"
    (tmp_path / "backends.yaml").write_text(f"- {{address: '{backend}', name: '{name}'}}\n")
    server = lb("listeners: {web: {bind: '127.0.0.1:0', pool: web}}\npools: {web: {discover: [{file: backends.yaml}]}}")
    page = look(server, forgive="409")  # the browser itself notes that the last backend is not drained at once
    expect(page.locator("button.name")).to_have_text(name)
    with traffic(server.address()):
        expect(page.locator("#decisions p").first).to_contain_text(f"→ {name}: ")
    page.locator("button.name").click()
    expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text(name)
    page.keyboard.press("Escape")
    page.get_by_role("button", name=f"Drain {name}").click()
    expect(page.get_by_role("dialog")).to_contain_text(f'"{name}" is the last eligible backend')
    page.get_by_role("button", name="Take it out").click()
    server.when(name, state="draining")
    assert page.locator("img").count() == 1  # the page's own sign


def test_a_pool_without_backends_says_why(lb, look, tmp_path):
    (tmp_path / "backends.yaml").write_text("[]\n")
    server = lb("listeners: {web: {bind: '127.0.0.1:0', pool: web}}\npools: {web: {discover: [{file: backends.yaml}]}}")
    page = look(server)
    expect(page.locator(".pool .empty")).to_contain_text("No backend found yet")
    expect(page.locator("table.backends")).to_be_hidden()
    backend = Backend("a")
    (tmp_path / "backends.yaml").write_text(f"- {{address: '{backend}', name: a}}\n")
    expect(row(page, "a")).to_be_visible()
    expect(page.locator(".pool .empty")).to_be_hidden()


def test_a_decision_shows_why_a_backend_was_chosen_or_excluded(two, look):
    lb, (_, b) = two(", health: {tcp: {}, every: 250ms, timeout: 250ms}")
    b.kill()
    lb.when("b", state="down")
    page = look(lb)
    with traffic(lb.address()):
        page.locator("#decisions .ask").first.wait_for()
    # The last one is shown, too: the list does not change any more.
    last = lb.request("GET", "/api/v1/decisions?limit=1")[1]["decisions"][0]["client"]
    expect(page.locator("#decisions p").first).to_contain_text(last)
    button = page.locator("#decisions .ask").first
    button.focus()
    expect(page.locator("#paused")).to_be_visible()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", level=2)).to_have_text(re.compile("Why did 127.0.0.1:.* go to a"))
    expect(dialog).to_contain_text("b")
    expect(dialog).to_contain_text("down")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()
    row(page, "b").locator("button.name").click()
    expect(dialog).to_contain_text("Why isn’t it getting traffic?")
    expect(dialog.locator(".story")).to_contain_text("down")


def test_all_is_reached_by_keyboard(two, look):
    lb, _ = two()
    page = look(lb)
    row(page, "b").wait_for()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("the next backend")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    # By keys of its own …
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.get_by_role("button", name=re.compile("^b: details"))).to_be_focused()
    page.keyboard.press("d")
    lb.when("b", state="draining")
    expect(row(page, "b")).to_have_attribute("data-state", "draining")
    page.keyboard.press("r")
    lb.when("b", state="up")
    # … and by Tab alone.
    page.reload()
    row(page, "a").wait_for()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Drain a":
            break
    drain = page.get_by_role("button", name="Drain a", exact=True)
    expect(drain).to_be_focused()
    assert drain.evaluate("element => parseFloat(getComputedStyle(element).outlineWidth)") >= 2
    page.keyboard.press("Enter")
    lb.when("a", state="draining")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_screen(two, look, width, theme):
    lb, (_, b) = two(", health: {tcp: {}, every: 250ms, timeout: 250ms}")
    b.kill()
    page = look(lb, width=width, theme=theme)
    expect(row(page, "b")).to_have_attribute("data-state", "down")
    with traffic(lb.address()):
        page.locator("#decisions .ask").first.wait_for()
    wide = lambda: page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide() == 0
    # Each thing that can be pressed is on the screen as a whole, and has a name.
    boxes = page.evaluate("""[...document.querySelectorAll('button')].filter(button => button.offsetParent).map(button => {
        const box = button.getBoundingClientRect();
        return [button.textContent || button.ariaLabel, box.left, box.right];
    })""")
    assert all(name and left >= 0 and right <= width for name, left, right in boxes), boxes
    row(page, "b").locator("button.name").click()
    box = page.get_by_role("dialog").bounding_box()
    assert wide() == 0 and box["x"] >= 0 and box["x"] + box["width"] <= width


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(two, look, theme):
    lb, _ = two()
    page = look(lb, theme=theme)
    # Contrast as in WCAG 2.2, 1.4.3: at least 4.5 to 1.
    ratios = page.evaluate("""() => {
        const probe = document.body.appendChild(document.createElement('span'));
        const light = (name) => {
            probe.style.color = `var(--${name})`;
            const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
            const [r, g, b] = parts.map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const words = ['text', 'muted', 'accent', 'up', 'down', 'ejected', 'draining', 'maintenance', 'joining', 'gone'];
        const pairs = words.flatMap((word) => ['card', 'raised', 'ground'].map((behind) => [word, behind]));
        pairs.push(['on-accent', 'accent']);
        return pairs.map(([word, behind]) => {
            const [a, b] = [light(word), light(behind)].sort((a, b) => b - a);
            return [word, behind, (a + 0.05) / (b + 0.05)];
        });
    }""")
    assert len(ratios) > 20
    low = [(word, behind, round(ratio, 2)) for word, behind, ratio in ratios if ratio < 4.5]
    assert not low


def test_two_hundred_backends_stay_smooth(lb, look, tmp_path):
    # One server at all addresses of 127/8.
    backend = Backend("x", host="0.0.0.0")
    port = backend.address[1]
    lines = [f"- {{address: '127.0.1.{i}:{port}', name: shop-{i:03}}}" for i in range(1, 201)]
    lines[120] = lines[120].replace(str(port), "1")
    (tmp_path / "backends.yaml").write_text("\n".join(lines))
    server = lb(
        "log: {connections: false}\nlisteners: {web: {bind: '127.0.0.1:0', pool: web}}\n"
        "pools: {web: {balance: least-connections, discover: [{file: backends.yaml}], health: {tcp: {}, every: 5s, timeout: 5s}}}"
    )
    page = look(server)
    rows = page.locator("table.backends tbody tr")
    # The worst first, and not all at once.
    expect(rows.first.locator("button.name")).to_have_text("shop-121")
    expect(rows).to_have_count(25)
    page.get_by_role("button", name="Show all 200 backends").click()
    expect(rows).to_have_count(200)
    # Smooth, as an update changes what differs and leaves the rows where they are.
    page.evaluate(
        """() => {
            window.rowsChanged = 0;
            const count = (changes) => changes.forEach((change) => {
                window.rowsChanged += change.addedNodes.length + change.removedNodes.length;
            });
            new MutationObserver(count).observe(document.querySelector("table.backends tbody"), { childList: true });
        }"""
    )
    with traffic(server.address(), pause=0.01):
        page.evaluate("performance.clearMeasures('render')")
        eventually("ten updates", lambda: page.evaluate("performance.getEntriesByName('render').length") >= 10)
        took = page.evaluate("performance.getEntriesByName('render').map(each => each.duration)")
    print(f"an update with 200 backends: median {statistics.median(took):.1f} ms, most {max(took):.1f} ms")
    assert page.evaluate("window.rowsChanged") == 0
    page.get_by_role("searchbox").fill("shop-19 up")
    expect(rows).to_have_count(10)
    page.get_by_role("searchbox").fill("down")
    expect(rows).to_have_count(1)
