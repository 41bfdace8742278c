"""What is wrong is first on the page, in the tab's title and icon, and gone with its cause."""

import re

import pytest
from playwright.sync_api import expect

from conftest import Backend, eventually

# The errors of a browser whose server has stopped.
LOST = r"net::ERR_"
CHECKS = ", health: {tcp: {}, every: 250ms, timeout: 250ms, fall: 1, rise: 1}"


def icon(page):
    return page.locator("#icon").get_attribute("href")


def test_problems_appear_with_their_cause_and_vanish_with_it(two, look):
    lb, (a, b) = two(CHECKS)
    page = look(lb)
    section = page.get_by_role("region", name="problem")
    expect(page).to_have_title("Pointsman")
    expect(section).to_have_count(0)
    assert icon(page).endswith("/icon.svg")

    b.kill()
    expect(section).to_be_visible()
    expect(page).to_have_title("(1) Pointsman")
    expect(section).to_contain_text(re.compile("1 of 2 backends of pool web is eligible: b is down .*refused"))
    # The command is shown as such.
    expect(section.locator("code")).to_have_text("pointsman why web/b")
    expect(section.locator("time")).to_have_text(re.compile(r"for \d+ s"))
    expect(page.locator("#problems-said")).to_contain_text("1 problem. warning: 1 of 2 backends")
    assert icon(page).endswith("/icon-warning.svg")
    # It is above everything else.
    assert page.evaluate("document.querySelector('main').firstElementChild.id") == "problems"

    a.kill()
    expect(section.locator("li").first).to_have_attribute("data-severity", "critical")
    expect(section).to_contain_text("pool web has no eligible backend")
    expect(page.locator("#problems-said")).to_contain_text("critical: pool web has no eligible backend")
    eventually("the icon is red", lambda: icon(page).endswith("/icon-critical.svg"))

    a.revive()
    b.revive()
    expect(section).to_have_count(0)
    expect(page).to_have_title("Pointsman")
    expect(page.locator("#problems-said")).to_have_text("No more problems.")
    assert icon(page).endswith("/icon.svg")


def test_broken_pools_come_first_and_many_problems_are_folded(lb, look):
    backend, dead = Backend("a"), Backend("dead")
    dead.kill()
    broken = [f"p{n}" for n in range(9)]
    pools = {"a-well": backend, **{name: dead for name in broken}}
    listeners = ", ".join(f"{name}: {{bind: '127.0.0.1:0', pool: {name}}}" for name in pools)
    described = ", ".join(f"{name}: {{discover: [{{static: ['{each}']}}], health: {{tcp: {{}}, every: 250ms}}}}" for name, each in pools.items())
    page = look(lb(f"listeners: {{{listeners}}}\npools: {{{described}}}"), width=400)
    expect(page).to_have_title("(9) Pointsman")
    names = lambda: page.locator("#pools > section").evaluate_all("all => all.map(one => one.dataset.pool)")
    eventually("the broken pools come first", lambda: names() == [*broken, "a-well"])
    lines = page.locator("#problems li")
    expect(lines).to_have_count(3)
    page.get_by_role("button", name="Show 6 more").click()
    expect(lines).to_have_count(9)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.get_by_role("button", name="Show fewer").click()
    expect(lines).to_have_count(3)
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(lines).to_have_count(6)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_dead_server_is_not_shown_as_serving(two, look, theme):
    lb, _ = two()
    page = look(lb, theme=theme, forgive=LOST)
    phase = page.locator("#phase")
    expect(phase).to_have_text("● serving")
    up = phase.evaluate("element => getComputedStyle(element).color")
    lb.stop()
    expect(phase).to_have_text("? unknown")
    assert phase.evaluate("element => getComputedStyle(element).color") != up
    expect(page).to_have_title("(?) Pointsman")
