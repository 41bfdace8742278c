"""The playground of the demo: the picture shows what happens, and every control works."""

import re

import pytest
from playwright.sync_api import expect

from conftest import eventually, row, traffic

# The texts of the buttons of a backend, what each does, and how it is undone.
ON_BACKEND = [
    ("Kill", {"process": "killed"}, "Restart", {"process": "running"}),
    ("Pause", {"process": "paused"}, "Resume", {"process": "running"}),
    ("Slow down", {"slow": True, "response_ms": 250}, "Speed up", {"slow": False}),
    ("Fail", {"failing": True}, "Repair", {"failing": False}),
    ("Flap DNS", {"flapping": True}, "Settle DNS", {"flapping": False}),
]


def button(page, name):
    return page.locator("#playground").get_by_role("button", name=name, exact=True)


def box(page, name):
    """The box of a backend in the picture, of the only pool or the first one."""
    return page.locator(".live").first.locator("g.box.backend").filter(has_text=re.compile(rf"^\W {name} "))


def is_so(demo, name, wanted):
    eventually(f"{name}: {wanted}", lambda: wanted.items() <= demo.of(name).items())


def test_the_picture_shows_connections_states_and_shares(demo, look):
    page = look(demo)
    expect(page.get_by_role("heading", name="Playground")).to_be_visible()
    picture = page.get_by_role("img", name=re.compile("Clients send 30.s to web, which chooses by round-robin: a is up"))
    expect(picture).to_be_visible()
    for name in "abc":
        expect(box(page, name)).to_contain_text(f"● {name} up")
        expect(box(page, name)).to_contain_text(re.compile(r"3\d %"))
        expect(box(page, name)).to_contain_text("open")
    # Dots move along the lines.
    page.locator(".dots circle").first.wait_for(state="attached")
    moved = page.evaluate("""() => new Promise((done) => {
        const dot = document.querySelector('.dots circle:last-child');
        const before = dot.getAttribute('transform');
        setTimeout(() => done(!dot.isConnected || dot.getAttribute('transform') !== before), 300);
    })""")
    assert moved
    expect(page.locator(".live .note")).to_contain_text(re.compile(r"● (one connection|\d+ connections) · ✕ failed attempt"))
    outline = box(page, "b").locator(".outline")
    up = outline.evaluate("each => [getComputedStyle(each).strokeDasharray, each.getAttribute('rx')]")
    button(page, "Kill b").click()
    expect(page.locator(".caption")).to_contain_text("b is killed")
    expect(box(page, "b")).to_have_attribute("data-state", "down")
    # A word, a sign and a shape besides the color.
    expect(box(page, "b")).to_contain_text("✕ b down")
    down = outline.evaluate("each => [getComputedStyle(each).strokeDasharray, each.getAttribute('rx')]")
    assert up[0] != down[0] and up[1] != down[1]
    expect(box(page, "b")).to_contain_text("✕ killed")
    expect(page.locator('[data-side="web"] td[data-title="Retried"]')).to_have_text(re.compile("^[1-9]"))
    button(page, "Restart b").click()
    expect(box(page, "b")).to_have_attribute("data-state", "up")


def test_every_button_of_a_backend_does_and_undoes_something(demo, look):
    page = look(demo)
    for do, done, undo, undone in ON_BACKEND:
        button(page, f"{do} c").click()
        is_so(demo, "c", done)
        expect(button(page, f"{undo} c")).to_be_visible()
        button(page, f"{undo} c").click()
        is_so(demo, "c", undone)
    button(page, "Add a backend").click()
    expect(box(page, "d")).to_have_attribute("data-state", "up")
    expect(row(page, "d")).to_be_visible()
    button(page, "Remove d").click()
    expect(button(page, "Kill d")).to_have_count(0)
    # Its buttons are gone, and the focus is not lost.
    expect(button(page, "Add a backend")).to_be_focused()
    assert demo.of("d") == {}
    button(page, "Swap two addresses").click()
    eventually("a has another address", lambda: demo.of("a")["address"].startswith("127.0.0.3:"))
    for _ in range(5):
        count = len(demo.state()["backends"])
        button(page, "Add a backend").click()
        eventually("one more", lambda: len(demo.state()["backends"]) == count + 1)
    expect(button(page, "Add a backend")).to_be_hidden()
    button(page, "Start over").click()
    expect(button(page, "Add a backend")).to_be_visible()
    assert [each["name"] for each in demo.state()["backends"]] == ["a", "b", "c"]


def test_every_setting_is_changed_and_a_refusal_is_shown(demo, look):
    page = look(demo, forgive="409|net::ERR_FAILED")  # the browser itself notes them
    choose = lambda label, value: page.get_by_label(label, exact=True).select_option(value)
    settings = [
        ("Algorithm", "maglev", lambda state: state["balance"] == "maglev"),
        ("Compare with", "ewma", lambda state: state["compare"] == "ewma"),
        ("Checks", "slow", lambda state: state["check"]["every"] == "slow"),
        ("Checks request", "/", lambda state: state["check"]["path"] == "/"),
        ("Requests per second", "10", lambda state: state["traffic"]["rate"] == 10),
        ("Clients", "few", lambda state: state["traffic"]["clients"] == "few"),
    ]
    for label, value, done in settings:
        choose(label, value)
        eventually(f"{label} {value}", lambda: done(demo.state()))
    expect(page.locator('[data-pool="web"] .tag')).to_have_text("maglev")
    # A change from elsewhere is shown, too.
    demo.act("balance", algorithm="random-two")
    expect(page.get_by_label("Algorithm", exact=True)).to_have_value("random-two")
    story = button(page, "▶ Play the story")
    story.click()
    expect(button(page, "■ Stop the script")).to_be_visible()
    assert demo.state()["playing"] == "story"
    # Another one has stopped it, which this page does not know yet.
    page.route("**/demo/state", lambda route: route.abort())
    demo.act("stop")
    button(page, "■ Stop the script").click()
    expect(page.locator("#playground").get_by_role("alert")).to_contain_text("no script is playing")


def test_two_algorithms_are_compared_on_the_same_requests(demo, look):
    page = look(demo)
    button(page, "Round-robin's weakness").click()
    expect(page.locator(".caption")).to_contain_text("c is slow")
    expect(page.locator(".live")).to_have_count(2)
    for side, algorithm in [("web", "round-robin"), ("compared", "least-connections")]:
        expect(page.locator(f'[data-picture="{side}"] figcaption')).to_have_text(algorithm)
        expect(page.locator(f'[data-side="{side}"] th')).to_have_text(algorithm)
        expect(page.locator(f'[data-side="{side}"] td.number').first).to_have_text(re.compile(r"\d m?s$"))

    def share(side):
        sides = {each["pool"]: each for each in demo.state()["sides"]}
        return sides.get(side, {}).get("shares", {}).get("c", 1)

    eventually("least-connections sends c less", lambda: share("compared") < 0.6 * share("web"))


def test_clients_that_move_are_named(demo, look):
    page = look(demo)
    demo.act("balance", algorithm="source-hash")
    page.get_by_label("Clients", exact=True).select_option("few")
    rows = page.get_by_role("region", name="Where each client goes").locator("tbody tr")
    expect(rows).to_have_count(8)
    button(page, "Remove c").click()
    moved = page.locator(".clients .moved")
    expect(moved.first).to_have_text(re.compile("^→ [ab], moved from [abc]$"))

    def clients():
        return demo.state()["sides"][0]["clients"]

    eventually("no client goes to c", lambda: all(each["backend"] != "c" for each in clients()))

    def named():
        return sorted(each.locator("xpath=..").locator("th").inner_text() for each in moved.all())

    # On a busy machine, a failed check of a or b moves clients too.
    eventually("those that moved", lambda: named() == sorted(each["address"] for each in clients() if each["moved_from"]))


def test_all_of_it_is_reached_by_keyboard(demo, look):
    page = look(demo)
    button(page, "Kill b").wait_for()
    # From the beginning by Tab alone to each control, in the order of the page.
    reached = []
    for _ in range(120):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.closest('#playground') && (document.activeElement.ariaLabel || document.activeElement.labels?.[0]?.textContent || document.activeElement.textContent)")
        if name:
            reached.append(name)
        elif reached:
            break
    for wanted in ["▶ Play the story", "Start over", "Algorithm", "Compare with", "Clients", "Kill a", "Remove c", "Add a backend", "Swap two addresses", "Reused addresses"]:
        assert wanted in reached, reached
    kill = button(page, "Kill b")
    kill.focus()
    assert kill.evaluate("element => parseFloat(getComputedStyle(element).outlineWidth)") >= 2
    page.keyboard.press("Enter")
    is_so(demo, "b", {"process": "killed"})
    # The same button undoes it, and still has the focus.
    expect(button(page, "Restart b")).to_be_focused()
    page.keyboard.press("Space")
    is_so(demo, "b", {"process": "running"})
    page.get_by_label("Algorithm", exact=True).focus()
    page.keyboard.press("ArrowDown")
    eventually("the next algorithm", lambda: demo.state()["balance"] == "weighted")
    button(page, "Health is not availability").focus()
    page.keyboard.press("Enter")
    eventually("an experiment", lambda: demo.state()["playing"] == "health" and demo.of("b")["failing"])
    expect(button(page, "Health is not availability")).to_have_attribute("aria-current", "true")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_narrow_screen(demo, look, theme):
    demo.act("compare", algorithm="maglev")
    demo.act("clients", kind="few")
    page = look(demo, width=400, theme=theme)
    expect(page.locator(".live")).to_have_count(2)
    expect(box(page, "c")).to_have_attribute("data-state", "up")
    page.locator(".dots circle").first.wait_for(state="attached")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    boxes = page.evaluate("""[...document.querySelectorAll('#playground button, #playground select, #playground .box .outline')].filter((each) => each.checkVisibility()).map((each) => {
        const { left, right, width } = each.getBoundingClientRect();
        return [each.ariaLabel || each.textContent, left, right, width];
    })""")
    assert len(boxes) > 20
    assert all(left >= 0 and right <= 400 and width > 0 for _, left, right, width in boxes), boxes
    # No text of the picture is wider than its box.
    wide = page.evaluate("""[...document.querySelectorAll('.box')].flatMap((each) => {
        const room = each.querySelector('.outline').getBoundingClientRect();
        return [...each.querySelectorAll('text')].filter((text) => text.textContent && (text.getBoundingClientRect().right > room.right + 1 || text.getBoundingClientRect().left < room.left - 1)).map((text) => text.textContent);
    })""")
    assert not wide
    button(page, "Pause a").click()
    is_so(demo, "a", {"process": "paused"})


def test_without_motion_there_are_numbers_instead_of_dots(demo, look):
    page = look(demo, motion="reduce")
    expect(page.locator(".wires .number").first).to_have_text(re.compile(r"^\d+(\.\d)?/s$"))
    numbers = page.locator(".wires .number")
    eventually("numbers that are not zero", lambda: any(re.match("[1-9]", text) for text in numbers.all_text_contents()))
    expect(page.locator(".live .note")).to_contain_text("connections per second")
    assert page.locator(".dots > *").count() == 0
    button(page, "Kill a").click()
    expect(box(page, "a")).to_have_attribute("data-state", "down")
    assert page.locator(".dots > *").count() == 0


def test_only_the_demo_has_a_playground(two, look):
    lb, _ = two()
    page = look(lb)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with traffic(lb.address()):
        expect(page.locator("#decisions .ask").first).to_be_visible()
    expect(page.locator("#playground")).to_be_hidden()
    assert not [url for url in asked if "/demo/" in url]
