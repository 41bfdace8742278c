"""What the dashboard shows follows what happens, and what is clicked happens."""

import re
import signal
import time

from playwright.sync_api import expect

from conftest import Backend, eventually, free_port, row, tile, traffic

# The errors of a browser whose server has stopped.
LOST = r"net::ERR_"
RED = """element => {
    const [r, g, b] = getComputedStyle(element).color.match(/[\\d.]+/g).map(Number);
    return r > g + 60 && r > b + 60;
}"""


def test_figures_change_under_traffic(two, look):
    lb, _ = two()
    page = look(lb)
    assert tile(page, "rate") == 0
    with traffic(lb.address()):
        eventually("connections per second", lambda: tile(page, "rate") > 1)
        eventually("bytes per second", lambda: tile(page, "in") > 0 and tile(page, "out") > 0)
        for name in "ab":
            expect(row(page, name).locator(".rate")).to_have_text(re.compile("[1-9]"))
            expect(row(page, name).locator("td.share")).to_have_text(re.compile(r"^(4[1-9]|5\d)(\.\d+)? %$"))
        chart = page.locator(".pool canvas").first
        eventually("the chart has grown", lambda: re.search(r"at most [1-9]", chart.get_attribute("aria-label")))
        eventually("decisions are shown", lambda: "next in rotation" in page.locator("#decisions").inner_text())
        listener = page.locator('[data-listener="web"]')
        eventually("the listener has figures", lambda: re.search(r"[1-9]", listener.locator("td").nth(4).inner_text()))
    eventually("and rest with it", lambda: tile(page, "rate") == 0)


def test_a_killed_backend_turns_red_within_its_check_interval(two, look):
    interval = 5
    lb, (a, b) = two(f", health: {{tcp: {{}}, every: {interval}s, fall: 1}}")
    page = look(lb)
    expect(row(page, "b")).to_have_attribute("data-state", "up")
    assert not row(page, "b").locator(".word").evaluate(RED)
    b.kill()
    killed = time.time()
    expect(row(page, "b")).to_have_attribute("data-state", "down")
    # By the first check that could know, with some seconds for a busy machine; the page follows when it gets its turn.
    events = lb.request("GET", "/api/v1/journal")[1]["events"]
    down = next(event for event in events if event["kind"] == "state_changed" and event["backend"] == "b" and event["to"] == "down")
    assert down["at"] - killed < 2 * interval, events
    assert row(page, "b").locator(".word").evaluate(RED)
    expect(row(page, "b").locator(".word")).to_have_text("✕ down")
    expect(row(page, "b").locator(".cause")).to_contain_text("refused")
    expect(page.locator("#changes li").filter(has_text="b is down (was up)")).to_be_visible()
    expect(page.locator(".strips li").filter(has_text=re.compile("^b")).locator('[data-state="down"]')).to_be_visible()
    expect(row(page, "a")).to_have_attribute("data-state", "up")
    b.revive()
    expect(row(page, "b")).to_have_attribute("data-state", "up")


def test_drain_and_enable_buttons_work(two, look):
    lb, _ = two(", health: {tcp: {}, every: 250ms, timeout: 250ms}")
    page = look(lb)
    page.get_by_role("button", name="Drain a", exact=True).click()
    # This one goes again after a while.
    expect(page.locator("#toast")).to_contain_text("a is draining")
    expect(row(page, "a").locator(".word")).to_have_text("◐ draining")
    expect(row(page, "a").locator(".cause")).to_contain_text("drained by an operator at 127.0.0.1")
    before = lb.backend("a")["connections"]
    with traffic(lb.address()):
        eventually("b serves alone", lambda: lb.backend("b")["connections"] > 5)
    assert lb.backend("a")["connections"] == before
    page.get_by_role("button", name="Enable a", exact=True).click()
    lb.when("a", state="up")
    expect(row(page, "a").locator(".word")).to_have_text("● up")
    page.get_by_role("button", name="Maintenance b", exact=True).click()
    lb.when("b", state="maintenance")


def test_the_last_eligible_backend_is_taken_out_after_a_question_only(two, look):
    lb, _ = two()
    page = look(lb, forgive="409")  # the browser itself notes it
    page.get_by_role("button", name="Drain a", exact=True).click()
    lb.when("a", state="draining")
    page.get_by_role("button", name="Drain b", exact=True).click()
    question = page.get_by_role("dialog", name="Take out the last eligible backend?")
    expect(question).to_contain_text("new connections get no backend")
    page.keyboard.press("Enter")  # the focus is on the harmless answer
    expect(question).to_have_count(0)
    assert lb.backend("b")["state"] == "up"
    page.get_by_role("button", name="Maintenance b", exact=True).click()
    question.get_by_role("button", name="Take it out").click()
    lb.when("b", state="maintenance")


def test_a_change_is_undone_by_a_button(two, look):
    lb, _ = two(", balance: weighted")
    page = look(lb)
    undo = page.locator("#toast").get_by_role("button", name="Undo")
    page.get_by_role("button", name="Maintenance a", exact=True).click()
    lb.when("a", state="maintenance")
    undo.click()
    lb.when("a", state="up")
    expect(page.locator("#toast")).to_contain_text("Undone: a is as before (up)")
    page.get_by_role("button", name="Maintenance a", exact=True).click()
    lb.when("a", state="maintenance")
    page.get_by_role("button", name="Enable a", exact=True).click()
    lb.when("a", state="up")
    expect(page.locator("#toast")).to_contain_text("a is up")
    undo.click()
    lb.when("a", state="maintenance")
    row(page, "b").locator(".weigh").click()
    page.get_by_role("spinbutton").fill("7")
    page.get_by_role("button", name="Set", exact=True).click()
    lb.when("b", weight=7)
    expect(page.locator("#toast")).to_contain_text("weight 7")
    undo.click()
    lb.when("b", weight=1)


def test_an_undo_that_the_user_decides_against_is_not_reported_as_done(two, look):
    lb, _ = two()
    lb.request("PATCH", "/api/v1/pools/web/backends/a", {"state": "draining"})
    page = look(lb, forgive="409")  # the browser itself notes it
    page.get_by_role("button", name="Enable a", exact=True).click()
    lb.when("a", state="up")
    lb.request("PATCH", "/api/v1/pools/web/backends/b", {"state": "draining"})
    page.locator("#toast").get_by_role("button", name="Undo").click()
    page.get_by_role("dialog").get_by_role("button", name="Leave it in").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("#toast")).to_have_text("")
    assert lb.backend("a")["state"] == "up"


def test_a_weight_is_changed_and_a_refusal_is_shown(two, look):
    lb, _ = two(", balance: weighted")
    page = look(lb)
    row(page, "b").locator(".weigh").click()
    page.get_by_role("spinbutton").fill("7")
    page.get_by_role("button", name="Set", exact=True).click()
    lb.when("b", weight=7)
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(row(page, "b").locator(".weigh")).to_have_text("7")


def test_a_weight_that_the_algorithm_ignores_is_refused_with_the_reason(two, look):
    lb, _ = two()
    page = look(lb, forgive="409")  # the browser itself notes it
    row(page, "b").locator(".weigh").click()
    page.get_by_role("spinbutton").fill("7")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("balance: weighted")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert lb.backend("b")["weight"] == 1


def test_a_token_is_asked_for_once_and_used(two, look, tmp_path):
    (tmp_path / "token").write_text("open-sesame-0123456789\n")
    lb, _ = two(admin="admin: {bind: '127.0.0.1:0', token_file: token}")
    page = look(lb, forgive="401")  # the browser itself notes it
    drain = page.get_by_role("button", name="Drain a", exact=True)
    dialog = page.get_by_role("dialog", name="A token is needed for changes")
    # Without a token nothing changes, and the page says so.
    drain.click()
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(row(page, "a").locator(".asking")).to_contain_text("nothing was changed")
    assert lb.backend("a")["state"] == "up"
    drain.click()
    dialog.get_by_label("Token").fill("open-sesame-9876543210")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("That token was not accepted.")
    dialog.get_by_label("Token").fill("open-sesame-0123456789")
    page.keyboard.press("Enter")
    lb.when("a", state="draining")
    expect(dialog).to_have_count(0)
    # It is known now, also after the page is loaded again.
    page.reload()
    page.get_by_role("button", name="Enable a", exact=True).click()
    lb.when("a", state="up")
    expect(dialog).to_have_count(0)
    assert "open-sesame" not in page.evaluate("Object.values(localStorage).join()")  # the theme, but no token


def test_a_lost_connection_is_shown_and_the_page_reconnects_when_the_server_is_back(lb, look, tmp_path):
    backend = Backend("a")
    port = free_port()
    config = f"""
admin: {{bind: '127.0.0.1:{port}'}}
listeners: {{web: {{bind: '127.0.0.1:0', pool: web}}}}
pools: {{web: {{discover: [{{static: [{{address: '{backend}', name: a}}]}}]}}}}"""
    server = lb(config)
    page = look(server, forgive=LOST)
    server.request("PATCH", "/api/v1/pools/web/backends/a", {"state": "draining"})
    expect(row(page, "a")).to_have_attribute("data-state", "draining")
    server.stop()
    link = page.locator("#link")
    expect(link).to_have_text(re.compile(r"Connection lost, reconnecting… \(last figures from \d\d:\d\d:\d\d\)"))
    expect(page.locator("html")).to_have_class(re.compile("lost"))
    assert link.get_attribute("aria-live") == "polite"
    server.start()
    expect(link).to_contain_text("live")
    expect(page.locator("html")).not_to_have_class(re.compile("lost"))
    # It is another process, which knows nothing of the draining, and whose events are numbered anew.
    expect(row(page, "a")).to_have_attribute("data-state", "up")
    server.request("PATCH", "/api/v1/pools/web/backends/a", {"state": "maintenance"})
    expect(page.locator("#changes li").filter(has_text="a is maintenance")).to_be_visible()
    expect(page.locator("#changes li").filter(has_text="a is draining")).to_have_count(0)


def test_a_server_that_stops_sending_is_noticed_too(two, look):
    lb, _ = two()
    page = look(lb, forgive=LOST)
    lb.process.send_signal(signal.SIGSTOP)
    try:
        expect(page.locator("#link")).to_contain_text("Connection lost")
    finally:
        lb.process.send_signal(signal.SIGCONT)
    expect(page.locator("#link")).to_contain_text("live")


def test_a_page_opened_later_shows_earlier_events(two, look):
    lb, _ = two()
    lb.request("PATCH", "/api/v1/pools/web/backends/a", {"state": "draining"})
    lb.request("PATCH", "/api/v1/pools/web/backends/a", {"state": "up"})
    with traffic(lb.address()):
        eventually("some seconds of it", lambda: sum(1 for n in history(lb) if n) >= 3)
    eventually("and one without", lambda: history(lb)[-1] == 0)
    page = look(lb)
    chart = page.locator(".pool canvas").first
    eventually("the chart has it", lambda: re.search(r"now 0, at most [1-9]", chart.get_attribute("aria-label") or ""))
    expect(page.locator("#changes li").filter(has_text="a is draining (was up)")).to_be_visible()
    expect(page.locator('.strips [data-state="draining"]')).to_have_count(1)


# As if the server were slow: the statuses come two seconds late.
LATE = """
const listen = EventSource.prototype.addEventListener;
EventSource.prototype.addEventListener = function (kind, take) {
  return listen.call(this, kind, kind === 'status' ? (event) => setTimeout(take, 2000, event) : take);
};
"""


def test_the_history_may_arrive_before_the_first_status(two, look):
    lb, _ = two()
    with traffic(lb.address()):
        eventually("some seconds of it", lambda: sum(1 for n in history(lb) if n) >= 3)
    page = look(lb, script=LATE)
    chart = page.locator(".pool canvas").first
    eventually("the chart has it", lambda: re.search(r"at most [1-9]", chart.get_attribute("aria-label") or ""))


def test_charts_show_other_ranges_and_fit_the_time_since_the_start(two, look):
    lb, _ = two()
    with traffic(lb.address()):
        eventually("ten seconds of it", lambda: sum(1 for n in history(lb) if n) >= 10)
    page = look(lb)
    chart = page.locator('[data-pool="web"] canvas').first
    label = lambda text: re.compile(f"over the last {text}: now [^,]*, at most [1-9]")
    expect(chart).to_have_attribute("aria-label", label("1 min"))
    expect(page.get_by_text("charts: 1 min so far")).to_be_visible()
    page.get_by_role("button", name="1 h", exact=True).click()
    expect(page.get_by_text("charts: 10 min so far")).to_be_visible()
    expect(chart).to_have_attribute("aria-label", label("10 min"))
    expect(page.get_by_role("button", name="1 h", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("States, last 10 min")).to_be_visible()
    page.reload()
    expect(chart).to_have_attribute("aria-label", label("10 min"))  # the choice is kept
    page.keyboard.press("c")
    expect(page.get_by_text("States, last 1 h")).to_be_visible()
    page.get_by_role("button", name="5 min", exact=True).click()
    expect(page.get_by_text("States, last 1 min")).to_be_visible()


def history(lb):
    return lb.request("GET", "/api/v1/history")[1]["pools"]["web"]["connections"]
